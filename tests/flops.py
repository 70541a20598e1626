"""Floating-point operations of a call, counted exactly."""

from collections.abc import Callable

from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


class _Flops(TorchDispatchMode):
    """torch's own counts; its FlopCounterMode also tracks modules and refuses autograd.grad."""

    total = 0

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        result = operator(*args, **(kwargs or {}))
        if operator._overloadpacket in flop_registry:
            self.total += flop_registry[operator._overloadpacket](
                *args, **(kwargs or {}), out_val=result
            )
        return result


def flops(call: Callable[[], object]) -> int:
    """Multiplications and additions in convolutions and matrix products, backward ones as well."""
    with _Flops() as counter:
        call()
    return counter.total
