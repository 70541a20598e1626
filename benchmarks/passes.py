"""What an audit costs, counted: forward passes' worth of operations, without any clock.

    python benchmarks/passes.py

A unit is one forward pass of the model on one image; a gradient with respect to the image is one
more. Counted are multiplications and additions in convolutions and matrix products.
"""

import tempfile
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from advlens import load_model
from advlens.auditing import audit
from advlens.prepared import prepare
from advlens.settings import AuditSettings


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
    with Operations() as counter:
        call()
    return counter.total


def main() -> None:
    print("| model | stage | units per image | once |\n| --- | --- | --- | --- |")
    for name in ("cifar10-standard", "cifar10-l2"):
        model = load_model(name)
        prepared, images = prepare(model), torch.rand(8, 3, 32, 32)
        prepared(images)  # the first batch is compared with the model's own, once
        unit = operations(lambda: prepared(images)) / 8  # noqa: B023 (called at once)

        def units(count: int, **settings: Any) -> float:
            with tempfile.TemporaryDirectory() as folder:
                wanted = AuditSettings(images=count, **settings)
                return operations(lambda: audit([model], "sample", folder, settings=wanted)) / unit  # noqa: B023

        for stage, few, many in (
            ("accuracy", 32, 64),
            ("neurons", 96, 128),
            ("sweep", 16, 32),
            ("attribution", 2, 4),
        ):
            chosen: dict[str, Any] = {"stages": (stage,)}
            totals = [
                units(max(count, 20), **chosen, sweep_images=count, explained=count)
                for count in (few, many)
            ]
            each = (totals[1] - totals[0]) / (many - few)
            print(f"| {name} | {stage} | {each:.1f} | {totals[0] - few * each:.0f} |", flush=True)


if __name__ == "__main__":
    main()
