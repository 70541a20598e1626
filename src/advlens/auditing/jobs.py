"""Long computations of a stage: they show progress, save each minute, and resume."""

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from advlens.arrays import Images
from advlens.auditing.stage import Context
from advlens.features import Synthesis
from advlens.progress import Progress

SAVE_EVERY = 60.0  # seconds between saved states, the most that a kill can cost


def synthesized(
    context: Context, job: str, method: Synthesis, starts: Images, targets: Tensor
) -> Images:
    """The images that a method makes, resumed from what the run folder holds under this name.

    Each process makes its own batches; in the end every process has all images.

    Args:
        context: the stage's context.
        job: `<stage>.<words>`, the name of its saved state, which is removed when the stage
            finishes.
        method: the method that makes the images, step by step.
        starts, targets: as the method expects them.
    """
    method = dataclasses.replace(method, batch_size=context.batch_size)

    def make(mine: Sequence[int]) -> Images:
        own = list(mine)
        steps: Any = method.begin(context.prepared, starts[own].to(context.device), targets[own])
        name = context.processes.own(job)
        if (saved := context.run.state(context.number, name, len(steps))) is not None:
            steps.restore(saved[1])
        kept = time.monotonic()
        label = f"{context.name}: {job}, steps"
        with Progress(
            label, len(steps), done=steps.done, unit="steps", shown=context.processes.first
        ) as progress:
            for _ in steps:
                progress.update(1)
                if time.monotonic() - kept > SAVE_EVERY:
                    context.run.save_state(context.number, name, steps.done, steps.state())
                    kept = time.monotonic()
        # kept until the stage finishes, because its later parts may take long as well
        context.run.save_state(context.number, name, steps.done, steps.state())
        images: Images = steps.result().images
        return images

    return context.dealt(len(starts), make)
