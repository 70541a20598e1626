"""The images that a unit responds to most, real and adversarial (D22, figures 2 and 4–9)."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image
from torch import Tensor

from advlens.attacks import Attack
from advlens.consistency import LayerConsistency, class_counts
from advlens.files import atomic
from advlens.runs import Row
from advlens.stages.base import Context
from advlens.statistics import TopK

SHOWN = 8  # images per unit and kind, as in D22's figures


@dataclass(frozen=True)
class Chosen:
    """A unit that the report shows, and why."""

    unit: int
    lc: float
    chosen: str


def choose_units(layer: LayerConsistency, each: int = 3) -> list[Chosen]:
    """The live units of highest LC, and those around the median; equal LC by number."""
    lc = layer.values["lc"]
    live = [unit for unit in range(len(lc)) if not layer.dead[unit]]
    order = sorted(live, key=lambda unit: (-lc[unit].item(), unit))
    start = max(each, (len(order) - each) // 2)
    picked = [("highest LC", unit) for unit in order[:each]]
    picked += [("median LC", unit) for unit in order[start : start + each]]
    return [Chosen(unit, lc[unit].item(), why) for why, unit in picked]


def picture_rows(
    context: Context, layer: str, units: Sequence[Chosen], attack: Attack,
    *, tops: Mapping[str, TopK], predicted: Mapping[str, Tensor], similarity: Tensor,
) -> list[Row]:  # fmt: skip
    """Write the pictures of the chosen units and return a row for each.

    The adversarial images are made again: attack, seed and image id give the same image.
    An adversarial image is framed where it is mistaken for a class near those of the unit's real
    images: at least half as similar to their distribution as the most similar class is.
    """
    data, names = context.data, context.data.classes
    device = next(context.classifier.parameters()).device
    real_ids = tops["real"].compute()[1]
    counts = class_counts(data.labels[real_ids], len(similarity))
    closeness = counts @ similarity
    near = closeness >= 0.5 * closeness.amax(dim=1, keepdim=True)
    rows: list[Row] = []
    for kind in ("real", "adversarial"):
        responses, ids = tops[kind].compute()
        for chosen in units:
            shown = ids[chosen.unit, :SHOWN]
            (batch,) = data.batches(len(shown), shown.tolist())
            images = batch.images.to(device)
            if kind == "adversarial":
                images = attack(context.prepared, images, batch.labels.to(device), ids=batch.ids)
            for rank, (number, image) in enumerate(zip(shown.tolist(), images, strict=True)):
                guess, label = int(predicted[kind][number]), int(data.labels[number])
                unit = f"{_slug(context.name)}-{_slug(layer)}-{chosen.unit}"
                file = f"figures/images/{unit}-{kind}-{rank}.png"
                fooled = kind == "adversarial" and guess != label
                _write_png(image, context, file)
                rows.append(
                    {
                        "model": context.name, "layer": layer, "unit": chosen.unit, "lc": chosen.lc,
                        "chosen": chosen.chosen, "images": kind, "rank": rank, "id": number,
                        "label": names[label], "predicted": names[guess],
                        "response": responses[chosen.unit, rank].item(),
                        "framed": fooled and bool(near[chosen.unit, guess]),
                        "file": file,
                    }
                )  # fmt: skip
    return sorted(rows, key=lambda row: [c.unit for c in units].index(row["unit"]))


def _write_png(image: Tensor, context: Context, file: str) -> None:
    pixels = (image.detach() * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    with atomic(context.folder / file) as output:
        Image.fromarray(pixels).save(output, format="PNG")


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-.")[:60] or "x"
