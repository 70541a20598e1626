"""The images that excite a unit most, with its mask drawn, real beside adversarial."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool
from torch import Tensor

from advlens.arrays import Images
from advlens.auditing.pictures import images_of, near_classes, slug, write_png
from advlens.auditing.stage import Context
from advlens.consistency import Similarity
from advlens.dissection import Concepts, Dissector, Kind, Upsampling
from advlens.dissection.masks import Cells, masks
from advlens.drawing import enlarged
from advlens.maps import DiscrepancyMap, highlighted, marked
from advlens.runs.columns import NAMED
from advlens.runs.tables import Row
from advlens.settings import UNITS, units_by_layer
from advlens.wordnet import similarity_matrix


def shown_units(
    layers: Mapping[str, Mapping[Kind, Concepts]],
    usual: Sequence[str],
    wanted: int | tuple[str, ...],
    minimum: float,
) -> dict[str, dict[int, str]]:
    """The units to show, and why each: those that are named, or else some of each usual layer.

    Args:
        layers: the concepts of all dissected layers.
        usual: the layers of which units are shown where none is named.
        wanted: how many of each layer, or which ones, as LAYER:NUMBER.
        minimum: IoU above which a unit is a detector.
    """
    if not isinstance(wanted, int):
        sizes = {layer: len(concepts["real"].iou) for layer, concepts in layers.items()}
        if found := units_by_layer(wanted, sizes):
            return {layer: dict.fromkeys(units, NAMED) for layer, units in found.items()}
        wanted = UNITS
    return {layer: choose_units(layers[layer], wanted, minimum) for layer in usual}


def choose_units(concepts: Mapping[Kind, Concepts], count: int, minimum: float) -> dict[int, str]:
    """Choose units, half by highest IoU and half by the largest drop of IoU under attack.

    Without an attack all units have the highest IoU; ties go by number.
    """
    real = concepts["real"].iou
    by_iou = torch.argsort(real, descending=True, stable=True).tolist()
    if "adversarial" not in concepts:
        return dict.fromkeys(by_iou[:count], "highest IoU")
    chosen = dict.fromkeys(by_iou[: count - count // 2], "highest IoU")
    losses = real - concepts["adversarial"].iou
    losses[real <= minimum] = -1  # only a detector can lose its concept
    by_loss = torch.argsort(losses, descending=True, stable=True).tolist()
    others = [unit for unit in by_loss if unit not in chosen][: count // 2]
    return chosen | dict.fromkeys(others, "largest drop of IoU")


def picture_rows(
    context: Context,
    walk: Dissector,
    layer: str,
    concepts: Mapping[Kind, Concepts],
    chosen: Mapping[int, str],
    discrepancy: DiscrepancyMap | None,
    similarity: Similarity | None,
) -> list[Row]:
    """Write the pictures of some units of a layer, each with why it is shown; a row for each.

    The adversarial images are recomputed: attack, seed and image id determine them. An image is
    framed if the model takes it for a class near those that it sees in the unit's real images (D22,
    section 2): at least half as similar to their distribution as the most similar class.
    """
    units = list(chosen)
    near = _near(context, walk, concepts["real"], similarity)
    names = context.classifier.classes or context.classifier.synsets
    rows: list[Row] = []
    for kind in walk.images:
        responses, ids = (values[units] for values in concepts[_kind(kind)].top.compute())
        distinct = torch.unique(ids)  # one image may excite several units
        images = images_of(context, distinct, walk.attack if kind == "adversarial" else None)
        inside = _masks(walk, layer, concepts["real"].thresholds, images, units)
        maps = None
        if discrepancy is not None:
            maps = discrepancy(
                walk.prepared, images, layer=layer, units=[units] * len(distinct), ids=distinct
            )
        for place, unit in enumerate(units):
            for rank, number in enumerate(ids[place].tolist()):
                at = int(torch.searchsorted(distinct, number))
                stem = f"dissected-{slug(context.name)}-{slug(layer)}-{unit}-{kind}-{rank}"
                file, map_file = f"figures/images/{stem}.png", ""
                shown = enlarged(images[at])
                write_png(marked(shown, inside[at, place]), context.folder / file)
                if maps is not None:
                    map_file = f"figures/images/{stem}-map.png"
                    picture = highlighted(shown, enlarged(maps[at, place][None])[0])
                    write_png(picture, context.folder / map_file)
                before, after = (int(walk.predicted[k][number]) for k in ("real", kind))
                rows.append(
                    {
                        "model": context.name,
                        "layer": layer,
                        "unit": unit,
                        "chosen": chosen[unit],
                        "images": kind,
                        "rank": rank,
                        "id": number,
                        "response": responses[place, rank].item(),
                        "label": _name(names, before),
                        "predicted": _name(names, after),
                        "framed": after != before and bool(near[unit, after]),
                        "file": file,
                        "map": map_file,
                    }
                )
    return sorted(rows, key=lambda row: units.index(row["unit"]))


def _kind(images: str) -> Kind:
    return "real" if images == "real" else "adversarial"


def _name(names: tuple[str, ...] | None, number: int) -> str:
    """The name of a class; empty if the model has no names."""
    if number < 0:
        return ""
    return names[number] if names else f"class {number}"


def _near(
    context: Context, walk: Dissector, real: Concepts, similarity: Similarity | None
) -> Bool[Tensor, "units classes"]:
    """The classes near those that the model sees in each unit's real images."""
    seen = walk.predicted["real"][real.top.compute()[1]]
    if int(seen.min()) < 0:
        return torch.zeros(len(seen), 1, dtype=torch.bool)  # not a classifier
    if similarity is None and (synsets := context.classifier.synsets) is not None:
        similarity = torch.from_numpy(similarity_matrix(synsets))
    if similarity is None:
        classes = int(max(p.max() for p in walk.predicted.values())) + 1
        similarity = torch.eye(classes, dtype=torch.float64)
    return near_classes(seen, similarity)


def _masks(
    walk: Dissector, layer: str, thresholds: Tensor, images: Images, units: list[int]
) -> Bool[Tensor, "n chosen h w"]:
    """The masks of some units, at the size of the shown images."""
    with torch.no_grad():
        maps = walk.prepared.maps(images, [layer], logits=False)[1][layer][:, units]
    height, width = enlarged(images[0]).shape[1:]
    fields = None if walk.upsampling == "bilinear" else walk.prepared.fields(layer)
    upsampling = Upsampling.of(
        (maps.shape[2], maps.shape[3]), (height, width), (images.shape[2], images.shape[3]), fields
    ).to(maps.device)
    limits = thresholds[units].to(maps.device)
    above = masks(Cells.above(maps, limits), limits, upsampling)
    inside = maps.new_zeros(*maps.shape[:2], height * width, dtype=torch.bool)
    inside[above.images.long(), above.units.long(), above.places.long() % (height * width)] = True
    return inside.view(*maps.shape[:2], height, width)
