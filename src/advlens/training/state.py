"""Whether a checkpoint can be one of a training."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from advlens.training.weights import make_optimizer

if TYPE_CHECKING:
    from advlens.training.settings import Training

JUDGED = {"epoch", "loss", "natural", "adversarial", "n", "images_per_second", "seconds", "kept"}
"""What the row of an epoch holds, at least."""


def doubtful(
    state: Mapping[str, Any],
    settings: "Training",
    parameters: Sequence[nn.Parameter],
    total: int,
    steps_per_epoch: int,
) -> str:
    """What in a checkpoint with the right keys and types cannot be, or nothing.

    Args:
        state: that of a loop, as it was read.
        settings: of the training.
        parameters: that are trained.
        total: steps of the training.
        steps_per_epoch: of these, those of an epoch.
    """
    rows, step = state["rows"], state["step"]
    epochs = step // steps_per_epoch
    if not 0 <= step <= total or len(rows) not in (epochs, epochs - 1):
        return f"it is at step {step} of {total} with {len(rows)} epochs judged"
    if bool(rows) != bool(state["best_weights"]):
        return "its kept weights do not go with its epochs"
    numbers = [*state["sums"].values()]
    for place, row in enumerate(rows, 1):
        if not isinstance(row, dict) or not row.keys() >= JUDGED or row["epoch"] != place:
            return f"the row of epoch {place} is none"
        numbers += row.values()
    if any(not isinstance(n, int | float) or not abs(n) < 1e300 for n in numbers):
        return "a number of an epoch is none"
    try:
        for place, parameter in enumerate(parameters):
            for tensor in state["optimizer"]["state"].get(place, {}).values():
                if isinstance(tensor, Tensor) and tensor.shape not in ((), parameter.shape):
                    return f"the optimizer's state of parameter {place} has another shape"
        make_optimizer(settings, parameters).load_state_dict(state["optimizer"])
    except Exception as error:  # of what torch does not look at itself
        return f"its optimizer's state cannot be used ({type(error).__name__})"
    return ""
