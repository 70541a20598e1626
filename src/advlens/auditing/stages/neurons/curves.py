"""CS1 and CS2 against LC over the units of all layers: the curves of D22's Figure 10."""

import math
from collections.abc import Sequence

import torch

from advlens.consistency import LayerConsistency, interval_of
from advlens.runs.tables import Row


def curve(layers: Sequence[LayerConsistency], *, bins: int = 10) -> list[Row]:
    """One row per bin of LC: mean CS1 and CS2 of its units, with 95 % intervals over images.

    The bin width is the smallest of 1, 2 or 5 times a power of ten that needs at most `bins` bins,
    so that the bins of several models share one grid.
    """
    lc = torch.cat([layer.values["lc"][~layer.dead] for layer in layers])
    if len(lc) == 0:
        return []
    width = _width(lc.max().item() - lc.min().item(), bins)
    numbers = [(layer.values["lc"] / width).floor() for layer in layers]  # NaN for dead units
    rows: list[Row] = []
    first, last = (math.floor(end.item() / width) for end in lc.aminmax())
    for index in range(first, last + 1):
        inside = [number == index for number in numbers]
        if not any(some.any() for some in inside):
            continue
        row: dict[str, float | int] = {"bin_low": index * width, "bin_high": (index + 1) * width}
        known = zip(layers, inside, strict=True)
        row["lc"] = torch.cat([layer.values["lc"][some] for layer, some in known]).mean().item()
        for name in ("cs1", "cs2"):
            interval = interval_of(name, layers, inside)
            row |= {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}
        rows.append(row | {"units": sum(int(some.sum()) for some in inside)})
    return rows


def _width(span: float, bins: int) -> float:
    smallest = max(span, 1e-6) / bins
    power = 10.0 ** math.floor(math.log10(smallest))
    return next(power * step for step in (1, 2, 5, 10) if power * step >= smallest)
