"""Gradients through a dead ReLU, only where there would be none ("fake ReLU").

A component of a representation may be 0 on a whole image, such as noise: no step could ever raise
it. Engstrom et al. 2019 (robustness, `fake_relu=True`) let the last ReLU pass all gradients on
every image; here it does so only on an image of which it would pass none.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node

_RELUS = ("ReluBackward0", "HardtanhBackward0")
"""What autograd calls the backward of ReLU and of ReLU6."""


def pass_blocked_gradients(values: Tensor) -> None:
    """In the coming backward pass, the last ReLU before `values` lets blocked gradients through.

    An image is blocked if a gradient reaches the ReLU but none leaves it, at any of its units; then
    that of its output is taken for that of its input. All other images keep their own gradients.
    Where paths join behind several ReLUs (concatenated branches), each is a last one on its path,
    and decides for itself. It costs no pass, and works on any model, traced or not: the hooks lie
    on this pass's autograd nodes and vanish with them.

    Args:
        values: one number per image, or one row, still attached to its graph.
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
    """The gradients of a ReLU's input, given those that it would pass and those that it got."""
    (passed, *others), (got,) = inputs, outputs
    blocked = ~passed.flatten(1).any(dim=1)
    shape = (-1, *[1] * (passed.ndim - 1))
    return torch.where(blocked.view(shape), got, passed), *others
