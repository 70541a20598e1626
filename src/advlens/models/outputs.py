"""The logits in a network's output: a tensor, a dict, a tuple, a record."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx

from advlens.errors import ModelError

PREFERRED = ("logits", "out", "output", "scores", "predictions")
"""Names of the head that is the default, in this order."""


def logits_of(output: Any, head: str | None = None) -> Any:
    """The logits in a network's output.

    Args:
        output: a tensor, or a mapping, record, tuple or list that holds one, nested or not.
        head: key, attribute or number of the part to take (default: `logits`, or another usual
            name, or else the first part).

    Raises:
        ModelError: the part does not exist, or holds no tensor.
    """
    return _found(output, head)[0]


def two_logits(logits: Any) -> Any:
    """Logits as they are, but one logit z of an image as the two logits −z/2 and z/2.

    These have the probabilities of a sigmoid: z is the second class's log odds against the first.
    Both change with the image, so that either class can be explained.
    """
    if isinstance(logits, fx.Proxy):  # the shape is known when the graph runs
        return logits.tracer.create_proxy("call_function", two_logits, (logits,), {})
    if not has_one_logit(logits):
        return logits
    half = logits.reshape(-1, 1) / 2
    return torch.cat([-half, half], dim=1)


def has_one_logit(logits: Tensor) -> bool:
    """Whether these are one logit for each image, N or N×1."""
    return logits.ndim == 1 or (logits.ndim == 2 and logits.shape[1] == 1)


def head_taken(output: Any, head: str | None = None) -> str | None:
    """The part that `logits_of` takes, such as `logits of (loss, logits)`; None if there is one."""
    return _found(output, head)[1]


def _found(output: Any, head: str | None) -> tuple[Any, str | None]:
    if isinstance(output, (Tensor, fx.Proxy)):
        return output, None
    parts = _parts(output)
    name = str(head) if head is not None else next((n for n in PREFERRED if n in parts), None)
    if name is None:
        name = next(iter(parts), None)
    if name not in parts:
        known = ", ".join(parts) or f"none in a {type(output).__name__}"
        raise ModelError(
            f"the network returns no head {head!r}; there are: {known}"
            if head is not None
            else f"the network returns a {type(output).__name__}, which holds no logits; "
            "let its forward return a tensor"
        )
    logits, within = _found(parts[name], None)
    return logits, f"{name} of ({', '.join(parts)})" if len(parts) > 1 else within


def _parts(output: Any) -> dict[str, Any]:
    """The parts of an output by name; those of a sequence by number."""
    if isinstance(output, Mapping):
        return {str(key): value for key, value in output.items() if value is not None}
    kinds = ("_fields", "__dataclass_fields__", "__dict__")  # named tuples, dataclasses, others
    fields: Any = next(filter(None, (getattr(output, kind, None) for kind in kinds)), ())
    named = {name: getattr(output, name) for name in fields}
    if named or not isinstance(output, (tuple, list)):
        return {name: value for name, value in named.items() if value is not None}
    return {str(number): value for number, value in enumerate(output) if value is not None}
