"""Long computations of a stage: shown as they go, kept every minute, taken up where they were."""

import time
from typing import Any

from torch import Tensor

from advlens.arrays import Images
from advlens.features import Synthesis, Synthesized
from advlens.progress import Progress
from advlens.stages.base import Context

SAVE_EVERY = 60.0  # seconds between states, all that a kill can cost


def synthesized(
    context: Context, name: str, method: Synthesis, starts: Images, targets: Tensor
) -> Synthesized:
    """The images that a method makes, continuing what the run folder holds under this name."""
    device = next(context.classifier.parameters()).device
    steps: Any = method.begin(context.prepared, starts.to(device), targets)
    if (saved := context.run.state(context.number, name)) is not None:
        steps.restore(saved[1])
    kept = time.monotonic()
    label = f"{context.name}: {name}, steps"
    with Progress(label, len(steps), done=steps.done, unit="steps") as progress:
        for _ in steps:
            progress.update(1)
            if time.monotonic() - kept > SAVE_EVERY:
                context.run.save_state(context.number, name, steps.done, steps.state())
                kept = time.monotonic()
    # kept until the stage is finished: its later parts may take long as well
    context.run.save_state(context.number, name, steps.done, steps.state())
    found: Synthesized = steps.result()
    return found


def forget(context: Context, *names: str) -> None:
    """Drop the states of computations that are no longer needed."""
    for name in names:
        context.run.drop_state(context.number, name)
