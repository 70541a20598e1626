"""Work counted in floating-point operations, and the machine's own speed at matrix products."""

import time
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}
SIDE, PRODUCTS = 1024, 10
"""Of the square matrices; and how often the best of their products is sought."""


class Operations(TorchDispatchMode):
    """Counts within its block; torch's own counter refuses autograd.grad."""

    total = 0

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None):
        result = operator(*args, **(kwargs or {}))
        if operator._overloadpacket in flop_registry:
            count = flop_registry[operator._overloadpacket]
            self.total += count(*args, **(kwargs or {}), out_val=result)
        return result


def operations(call: Callable[[], object]) -> int:
    """Multiplications and additions in convolutions and matrix products."""
    with Operations() as counter:
        call()
    return counter.total


class Peak:
    """The fastest matrix products of this machine, in operations per second of CPU time."""

    def __init__(self) -> None:
        self.speeds: dict[str, float] = {}
        for precision, dtype in DTYPES.items():
            a, b = (torch.rand(SIDE, SIDE).to(dtype) for _ in range(2))
            taken = []
            for _ in range(PRODUCTS):
                began = time.process_time()
                a @ b
                taken.append(time.process_time() - began)
            self.speeds[precision] = 2 * SIDE**3 / min(taken)

    def __str__(self) -> str:
        told = [f"{speed / 1e9:.0f} GFLOP/s in {name}" for name, speed in self.speeds.items()]
        return f"matrix products: {', '.join(told)} per CPU second"

    def share(self, call: Callable[[], object], seconds: float, contender: str) -> str:
        """The share of the peak that a call uses; of the one in bfloat16 if its name says bf16."""
        speed = self.speeds["bf16" if "bf16" in contender else "float32"]
        return f"{operations(call) / seconds / speed:.0%}"
