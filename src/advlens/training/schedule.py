"""Schedules of the learning rate, as shares of its peak.

A share follows from the progress and the losses so far. Nothing else is kept, so a continued run
has the same rates.
"""

import math
from collections.abc import Sequence
from typing import Literal

Schedule = Literal["one-cycle", "cosine", "plateau", "constant"]
PATIENCE = 3
"""Epochs without a lower loss that "plateau" accepts; after one more it divides the rate by 10."""


def rate(schedule: Schedule, progress: float, losses: Sequence[float]) -> float:
    """Share of the peak learning rate, 0 to 1.

    Args:
        schedule: "one-cycle" rises linearly for the first quarter, then falls to 0; "cosine" falls
            along half a wave; "plateau" divides by 10 each time the training loss has not fallen
            for more than `PATIENCE` epochs (D22); "constant" stays at the peak.
        progress: share of all steps that is done.
        losses: the training losses of the epochs done.
    """
    if schedule == "one-cycle":
        return min(progress / 0.25, (1 - progress) / 0.75)
    if schedule == "cosine":
        return (1 + math.cos(math.pi * progress)) / 2
    return 0.1 ** plateaus(losses) if schedule == "plateau" else 1.0


def plateaus(losses: Sequence[float]) -> int:
    """How often the loss has stayed above .9999 of its lowest value for more than 3 epochs."""
    count, lowest, waited = 0, math.inf, 0
    for loss in losses:
        if loss < lowest * 0.9999:
            lowest, waited = loss, 0
        else:
            waited += 1
        if waited > PATIENCE:
            count, waited = count + 1, 0
    return count
