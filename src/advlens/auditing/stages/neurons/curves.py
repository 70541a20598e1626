"""CS1 and CS2 against LC over the units of all layers: the curves of D22's Figure 10."""

import math
from collections.abc import Sequence

import torch

from advlens.consistency import LayerConsistency
from advlens.intervals import Z95
from advlens.runs.tables import Row


def curve(layers: Sequence[LayerConsistency], *, bins: int = 10) -> list[Row]:
    """One row per bin of LC: mean CS1 and CS2 of its units, with 95 % intervals over units.

    The bin width is the smallest of 1, 2 or 5 times a power of ten that needs at most `bins` bins,
    so that the bins of several models share one grid.
    """
    lc, cs1, cs2 = (
        torch.cat([layer.values[name][~layer.dead] for layer in layers])
        for name in ("lc", "cs1", "cs2")
    )
    if len(lc) == 0:
        return []
    width = _width(lc.max().item() - lc.min().item(), bins)
    number = (lc / width).floor().long()
    rows: list[Row] = []
    for index in range(int(number.min()), int(number.max()) + 1):
        inside = number == index
        if not inside.any():
            continue
        row: dict[str, float | int | None] = {
            "bin_low": index * width,
            "bin_high": (index + 1) * width,
        }
        row["lc"] = lc[inside].mean().item()
        for name, values in (("cs1", cs1[inside]), ("cs2", cs2[inside])):
            mean, count = values.mean().item(), len(values)
            half = Z95 * values.std().item() / math.sqrt(count) if count > 1 else None
            row[name] = mean
            row[f"{name}_low"] = None if half is None else max(0.0, mean - half)
            row[f"{name}_high"] = None if half is None else min(1.0, mean + half)
        rows.append(row | {"units": int(inside.sum())})
    return rows


def _width(span: float, bins: int) -> float:
    smallest = max(span, 1e-6) / bins
    power = 10.0 ** math.floor(math.log10(smallest))
    return next(power * step for step in (1, 2, 5, 10) if power * step >= smallest)
