"""Gradients through a dead ReLU, only where there would be none ("fake ReLU").

A component of a representation may be 0 on a whole image, such as noise, and then no step can raise
it. Engstrom et al. 2019 (robustness, `fake_relu=True`) let the last ReLU pass all gradients on
every image; here it does so only on images for which it would pass none.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node

_RELUS = ("ReluBackward0", "HardtanhBackward0")
"""autograd's names for the backward of ReLU and of ReLU6."""


def pass_blocked_gradients(values: Tensor) -> None:
    """Let the last ReLU before `values` pass blocked gradients in the next backward pass.

    An image is blocked if a gradient reaches the ReLU but none leaves it, at any of its units; then
    the gradient of its output replaces that of its input. All other images keep their own
    gradients. Where paths join behind several ReLUs (concatenated branches), each is the last one
    on its path and decides for itself. This costs no pass and works on any model, traced or not:
    the hooks lie on this pass's autograd nodes and vanish with them.

    Args:
        values: one number or one row per image, still attached to its graph.
    """
    waiting = [values.grad_fn]
    seen: set[Node] = set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.name() in _RELUS:
            node.register_hook(_unblocked)
        else:
            waiting += [before for before, _ in node.next_functions]


def _unblocked(inputs: Any, outputs: Any) -> tuple[Tensor, ...]:
    """Gradients of a ReLU's input, from those that it would pass and those that it received."""
    (passed, *others), (got,) = inputs, outputs
    blocked = ~passed.flatten(1).any(dim=1)
    shape = (-1, *[1] * (passed.ndim - 1))
    return torch.where(blocked.view(shape), got, passed), *others
