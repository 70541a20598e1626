"""Rows of what the top images of a layer's units show, and of what each image contributes."""

from collections.abc import Iterator, Sequence

from advlens.auditing.per_image import in_blocks
from advlens.auditing.stage import Context
from advlens.consistency import MOST, LayerConsistency
from advlens.runs.tables import Row


def class_rows(
    context: Context, layer: str, consistency: LayerConsistency, attacked: str
) -> Iterator[Row]:
    """The classes of each live unit's top images, most frequent first.

    Args:
        context: the stage's context.
        layer: the layer's name.
        consistency: its measures.
        attacked: the name of the set of attacked images.
    """
    names = context.data.classes
    live = (~consistency.dead).nonzero().flatten().tolist()
    for images, top in consistency.classes.items():
        classes, shares = top.classes[live].tolist(), top.shares[live].tolist()
        for unit, numbers, parts in zip(live, classes, shares, strict=True):
            row: dict[str, object] = {"model": context.name, "layer": layer, "unit": unit}
            row |= {"images": images, "attacked": attacked}
            for rank in range(MOST):
                known = rank < len(parts) and parts[rank] > 0
                row[f"class_{rank + 1}"] = names[numbers[rank]] if known else None
                row[f"share_{rank + 1}"] = parts[rank] if known else None
            yield row


def image_rows(
    context: Context,
    layer: str,
    consistency: LayerConsistency,
    measures: Sequence[str],
    **named: object,
) -> Iterator[Row]:
    """For each measure what images contribute to its mean over a layer's units.

    Args:
        context: the stage's context.
        layer: the layer's name.
        consistency: its measures.
        measures: some of their names.
        named: the columns that name the set of images.
    """
    for measure in measures:
        corrected = finite(consistency.intervals[measure].corrected)
        for block in in_blocks("influences", consistency.influences[measure].tolist()):
            yield {
                "model": context.name,
                "layer": layer,
                **named,
                "measure": measure,
                "corrected": corrected,
                "top": consistency.top,
                **block,
            }


def finite(value: object) -> object:
    """An empty cell in place of NaN, which stands where all units of a layer are dead."""
    return None if isinstance(value, float) and value != value else value
