"""What changes weights: the optimizer, the moving average, gradients of several processes."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from advlens.distributed import Processes

if TYPE_CHECKING:
    from advlens.training.settings import Training


def make_optimizer(
    settings: "Training", parameters: Iterable[nn.Parameter]
) -> torch.optim.Optimizer:
    """SGD or Adam by the settings; the loop sets the learning rate at each step."""
    if settings.optimizer == "adam":
        return torch.optim.Adam(
            parameters, settings.learning_rate, weight_decay=settings.weight_decay
        )
    return torch.optim.SGD(
        parameters,
        settings.learning_rate,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        nesterov=settings.nesterov,
    )


def update_average(average: dict[str, Tensor], model: nn.Module, decay: float, step: int) -> None:
    """Move an exponential moving average of a model's state towards the state, in place.

    The first steps count more, so that the random start is forgotten: the decay is at most
    (1 + step)/(10 + step). Counters are copied.
    """
    share = 1 - min(decay, (1 + step) / (10 + step))
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            average[name].lerp_(tensor, share)
        else:
            average[name].copy_(tensor)


def sum_gradients(processes: Processes, tensors: Sequence[Tensor]) -> None:
    """Sum tensors over the processes in place, by one reduction."""
    if processes.count == 1:
        return
    flat = processes.total(torch.cat([tensor.flatten() for tensor in tensors]))
    for tensor, part in zip(tensors, torch.split(flat, [t.numel() for t in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))
