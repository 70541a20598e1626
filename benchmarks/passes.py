"""What an audit costs, counted: forward passes' worth of operations, without any clock.

    python benchmarks/passes.py

A unit is one forward pass of the model on one image; a gradient with respect to the image is one
more. Counted are multiplications and additions in convolutions and matrix products.
"""

import tempfile
from typing import Any

import torch
from peak import operations

from advlens import load_model
from advlens.auditing import audit
from advlens.prepared import prepare
from advlens.settings import AuditSettings


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
