"""The images that a unit responds to most, real and adversarial (D22, figures 2 and 4–9)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from advlens.attacks import Attack
from advlens.auditing.pictures import images_of, near_classes, slug, write_png
from advlens.auditing.stage import Context
from advlens.consistency import LayerConsistency
from advlens.maps import DiscrepancyMap, highlighted
from advlens.runs.columns import NAMED
from advlens.runs.tables import Row
from advlens.settings import UNITS, units_by_layer
from advlens.statistics import TopK

SHOWN = 8  # images per unit and kind, as in D22's figures


@dataclass(frozen=True)
class Chosen:
    """A unit that the report shows, and why."""

    unit: int
    lc: float | None
    """None if the unit is dead."""
    chosen: str


@dataclass(frozen=True)
class Seen:
    """A kind of images as the units of a layer see them.

    Attributes:
        attack: what makes them, or None for the real images.
        attacked: the name of the set of attacked images that they belong to, or are shown beside.
        top: the images that each unit responds to most.
        predicted: the class that the model predicts on each image.
    """

    attack: Attack | None
    attacked: str
    top: TopK
    predicted: Tensor


def shown_units(
    layers: dict[str, LayerConsistency], named: Sequence[str], count: int
) -> dict[str, list[Chosen]]:
    """The units to show, by layer: those that are named, or else so many of the last layer."""
    found = units_by_layer(named, {layer: len(each.dead) for layer, each in layers.items()})
    if not found:
        last = next(reversed(layers))
        return {last: choose_units(layers[last], count)}

    def named_unit(layer: LayerConsistency, unit: int) -> Chosen:
        return Chosen(unit, None if layer.dead[unit] else layer.values["lc"][unit].item(), NAMED)

    return {
        layer: [named_unit(layers[layer], unit) for unit in units] for layer, units in found.items()
    }


def choose_units(layer: LayerConsistency, count: int = UNITS) -> list[Chosen]:
    """Live units, half of highest LC and half around the median; ties in LC go by number."""
    lc = layer.values["lc"]
    live = [unit for unit in range(len(lc)) if not layer.dead[unit]]
    order = sorted(live, key=lambda unit: (-lc[unit].item(), unit))
    median = count // 2
    highest = count - median
    start = max(highest, (len(order) - median) // 2)
    picked = [("highest LC", unit) for unit in order[:highest]]
    picked += [("median LC", unit) for unit in order[start : start + median]]
    return [Chosen(unit, lc[unit].item(), why) for why, unit in picked]


def picture_rows(
    context: Context,
    layer: str,
    units: Sequence[Chosen],
    kinds: Mapping[str, Seen],
    *,
    similarity: Tensor,
    discrepancy: DiscrepancyMap | None = None,
) -> list[Row]:
    """Write the pictures of the chosen units and return a row for each.

    The adversarial images are recomputed: attack, seed and image id determine them. An adversarial
    image is framed if it is mistaken for a class near those of the unit's real images: at least
    half as similar to their distribution as the most similar class.
    With `discrepancy`, each picture's map is written beside it. The first kind is "real".
    """
    if not units:
        return []
    data, names = context.data, context.data.classes
    numbers = [chosen.unit for chosen in units]
    near = near_classes(data.labels[kinds["real"].top.compute()[1]], similarity)
    rows: list[Row] = []
    for kind, seen in kinds.items():
        responses, ids = seen.top.compute()
        shown = ids[numbers, :SHOWN]
        distinct = torch.unique(shown)  # one image may excite several units
        images = images_of(context, distinct, seen.attack)
        maps = None
        if discrepancy is not None:
            maps = discrepancy(
                context.prepared, images, layer=layer, units=[numbers] * len(distinct), ids=distinct
            )
        for place, chosen in enumerate(units):
            for rank, number in enumerate(shown[place].tolist()):
                guess, label = int(seen.predicted[number]), int(data.labels[number])
                at = int(torch.searchsorted(distinct, number))
                unit = f"{slug(context.name)}-{slug(layer)}-{chosen.unit}"
                stem = f"{unit}-{seen.attacked if seen.attack else kind}-{rank}"
                file, map_file = f"figures/images/{stem}.png", ""
                write_png(images[at], context.folder / file)
                if maps is not None:
                    map_file = f"figures/images/{stem}-map.png"
                    write_png(highlighted(images[at], maps[at, place]), context.folder / map_file)
                fooled = seen.attack is not None and guess != label
                rows.append(
                    {
                        "model": context.name,
                        "layer": layer,
                        "unit": chosen.unit,
                        "lc": chosen.lc,
                        "chosen": chosen.chosen,
                        "images": kind,
                        "rank": rank,
                        "id": number,
                        "label": names[label],
                        "predicted": names[guess],
                        "response": responses[chosen.unit, rank].item(),
                        "framed": fooled and bool(near[chosen.unit, guess]),
                        "file": file,
                        "map": map_file,
                        "attacked": seen.attacked,
                    }
                )
    return sorted(rows, key=lambda row: numbers.index(row["unit"]))
