"""Work counted in floating-point operations, and the machine's own speed at matrix products."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}
REPEATS = 20
"""How often the fastest product is sought."""


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
    """The fastest products of this machine, in operations per second of CPU time.

    They are those of square matrices or a convolution of many channels: its matrices may have the
    better kernel.
    """

    def __init__(self) -> None:
        self.speeds = dict[str, float]()
        for precision, dtype in DTYPES.items():
            a, b = (torch.rand(1024, 1024).to(dtype) for _ in range(2))
            images, weights = torch.rand(16, 256, 32, 32), torch.rand(256, 256, 3, 3)
            layout: Any = {"dtype": dtype, "memory_format": torch.channels_last}
            x, w = images.to(**layout), weights.to(**layout)
            calls = (partial(torch.mm, a, b), partial(F.conv2d, x, w, padding=1))
            self.speeds[precision] = max(operations(call) / _fastest(call) for call in calls)

    def __str__(self) -> str:
        told = [f"{speed / 1e9:.0f} GFLOP/s in {name}" for name, speed in self.speeds.items()]
        return f"matrix products: {', '.join(told)} per CPU second"

    def share(self, call: Callable[[], object], seconds: float, contender: str) -> str:
        """The share of the peak that a call uses; of the one in bfloat16 if its name says bf16."""
        speed = self.speeds["bf16" if "bf16" in contender else "float32"]
        return f"{operations(call) / seconds / speed:.0%}"


def _fastest(call: Callable[[], object]) -> float:
    taken = []
    for _ in range(REPEATS):
        began = time.process_time()
        call()
        taken.append(time.process_time() - began)
    return min(taken)
