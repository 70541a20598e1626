"""Schedules of the learning rate: its share of the peak, from the progress and the losses so far.

They keep no state, so that a continued run has the same rates.
"""

import math
from collections.abc import Sequence
from typing import Literal

Schedule = Literal["one-cycle", "cosine", "plateau", "constant"]
PATIENCE = 3
"""Epochs without a lower loss that "plateau" waits before it divides the rate by 10."""


def rate(schedule: Schedule, progress: float, losses: Sequence[float]) -> float:
    """Share of the peak learning rate, 0 to 1.

    Args:
        schedule: "one-cycle" goes up linearly for the first quarter, then down to 0; "cosine" down
            along half a wave; "plateau" divides by 10 each time that the training loss has not
            fallen for some epochs (D22); "constant" stays.
        progress: share of all steps that is done.
        losses: of the epochs that are done.
    """
    if schedule == "one-cycle":
        return min(progress / 0.25, (1 - progress) / 0.75)
    if schedule == "cosine":
        return (1 + math.cos(math.pi * progress)) / 2
    return 0.1 ** plateaus(losses) if schedule == "plateau" else 1.0


def plateaus(losses: Sequence[float]) -> int:
    """How often the loss has stayed above .9999 of its least value for more than 3 epochs."""
    found, least, waited = 0, math.inf, 0
    for loss in losses:
        if loss < least * 0.9999:
            least, waited = loss, 0
        else:
            waited += 1
        if waited > PATIENCE:
            found, waited = found + 1, 0
    return found
