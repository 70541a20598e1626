"""The results of a dissection, as rows of tables."""

from collections import Counter
from collections.abc import Mapping, Sequence

from advlens.datasets import BrodenData, Concept
from advlens.dissection import Concepts, Kind
from advlens.intervals import wilson
from advlens.runs.tables import Row

Dissected = Mapping[str, Mapping[Kind, Concepts]]
SWEEP = (0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08, 0.09, 0.10)
NONE = "none"
TOGETHER = "all layers"


def unit_rows(model: str, dissected: Dissected, concepts: Mapping[int, Concept]) -> list[Row]:
    """Each unit's best concept, on each kind of images."""
    return [
        {
            "model": model,
            "layer": layer,
            "unit": unit,
            "images": kind,
            "label": label,
            "concept": concepts[label].name if label else "",
            "category": concepts[label].category if label else "",
            "iou": values.iou[unit].item(),
            "threshold": values.thresholds[unit].item(),
            "permuted_iou": values.permuted_iou[unit].item(),
            "dead": bool(values.dead[unit]),
        }
        for layer, kinds in dissected.items()
        for kind, values in kinds.items()
        for unit, label in enumerate(values.labels.tolist())
    ]


def detected(
    values: Concepts, concepts: Mapping[int, Concept], minimum: float, *, permuted: bool = False
) -> list[Concept | None]:
    """The concept that each unit detects: its best one, if the IoU exceeds `minimum`."""
    labels, ious = (
        (values.permuted_labels, values.permuted_iou) if permuted else (values.labels, values.iou)
    )
    return [
        concepts[label] if iou > minimum and label else None
        for label, iou in zip(labels.tolist(), ious.tolist(), strict=True)
    ]


def share_rows(
    model: str,
    dissected: Dissected,
    concepts: Mapping[int, Concept],
    data: BrodenData,
    minimum: float,
) -> list[Row]:
    """Shares of units that detect a concept, by category: D19, Table 2, and D22, Table 1.

    There are rows for each layer, for all layers together, and for several IoU thresholds, with the
    detectors that the labels of other images give.
    """
    return [
        _share_row(
            {"model": model, "layer": name, "images": kind, "minimum": least, "category": category},
            *(
                [
                    c
                    for layer in layers
                    for c in detected(dissected[layer][kind], concepts, least, permuted=p)
                ]
                for p in (False, True)
            ),
        )
        for name, layers in _groups(dissected).items()
        for kind in dissected[layers[0]]
        for least in sorted({*SWEEP, minimum})
        for category in (*data.categories, "all")
    ]


def _share_row(
    row: Row, units: Sequence[Concept | None], permuted: Sequence[Concept | None]
) -> Row:
    category = row["category"]
    real, chance = (
        sum(c is not None and category in (c.category, "all") for c in each)
        for each in (units, permuted)
    )
    low, high = wilson(real, len(units))
    return {
        **row,
        "units": len(units),
        "detectors": real,
        "share": real / len(units),
        "low": low,
        "high": high,
        "permuted_detectors": chance,
        "permuted_share": chance / len(units),
    }


def transition_rows(
    model: str,
    dissected: Dissected,
    concepts: Mapping[int, Concept],
    data: BrodenData,
    minimum: float,
) -> list[Row]:
    """How many units move from which category on real images to which under attack."""
    rows: list[Row] = []
    for name, layers in _groups(dissected).items():
        for kind in list(dissected[layers[0]])[1:]:
            pairs = [
                pair
                for layer in layers
                for pair in zip(
                    detected(dissected[layer]["real"], concepts, minimum),
                    detected(dissected[layer][kind], concepts, minimum),
                    strict=True,
                )
            ]
            moves = Counter((_category(a), _category(b)) for a, b in pairs)
            kept = Counter(_category(a) for a, b in pairs if a is not None and a == b)
            rows += [
                {
                    "model": model,
                    "layer": name,
                    "images": kind,
                    "before": before,
                    "after": after,
                    "units": moves[before, after],
                    "same_concept": kept[before] if before == after else 0,
                }
                for before in (*data.categories, NONE)
                for after in (*data.categories, NONE)
            ]
    return rows


def _category(concept: Concept | None) -> str:
    return NONE if concept is None else concept.category


def _groups(dissected: Dissected) -> dict[str, list[str]]:
    """Each layer by itself, and all of them if there are several."""
    groups = {layer: [layer] for layer in dissected}
    return groups | ({TOGETHER: list(dissected)} if len(dissected) > 1 else {})
