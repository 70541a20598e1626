"""Long computations of a stage: they show progress, save each minute, and resume."""

import dataclasses
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, Self, TypeVar

from torch import Tensor

from advlens.arrays import Images
from advlens.auditing.stage import Context
from advlens.datasets import Batch
from advlens.distributed import State
from advlens.errors import AdvlensError, RunError
from advlens.features import Synthesis
from advlens.runs.folder import SHARED

SAVE_EVERY = 60.0  # seconds between saved states, the most that a kill can cost
SAVE_SHARE = 20.0  # at least this many times as long as saving takes


class Accumulator(Protocol):
    """What sees images batch by batch, in several processes, and survives a kill."""

    def state(self) -> dict[str, Tensor]: ...
    def restore(self, state: dict[str, Tensor]) -> None: ...
    def merge(self, other: Self) -> None: ...


A = TypeVar("A", bound=Accumulator)


def streamed(
    context: Context,
    job: str,
    start: Callable[[], A],
    update: Callable[[A, Batch], object],
    batches: Callable[[list[int]], Iterable[Batch]],
    count: int,
    *,
    shared: bool = False,
) -> A:
    """An accumulator that has seen `count` images, resumed from what the run folder holds.

    Each process sees its own batches; in the end every process has the merged accumulator.

    Args:
        context: the stage's context.
        job: `<stage>.<words>`, the name of its saved state, which is removed when the stage
            finishes; or, if shared, a name that tells this set of images from all others.
        start: makes an empty accumulator.
        update: shows it a batch.
        batches: the batches of some of the images 0 … count − 1.
        count: number of images.
        shared: all models of the run need the same; the state is kept until the last has it.
    """
    processes, run = context.processes, context.run
    owner, name = SHARED if shared else context.number, context.own(job)
    mine, own, done = processes.deal(count, context.batch_size), start(), 0
    if (saved := run.state(owner, name, len(mine))) is not None:
        path, (done, state) = run.continued.pop(), saved
        try:
            own.restore(state)
        except (AdvlensError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise RunError(
                f"{path} is damaged ({error}); remove it to start this pass again"
            ) from error
    with context.fitting():
        if done < len(mine) or saved is None:
            kept, pause = time.monotonic(), SAVE_EVERY
            stage, label = job.partition(".")[0], job.partition("-")[0]
            with context.progress([stage], label, len(mine), done=done) as progress:
                for batch in batches(mine[done:]):
                    update(own, batch)
                    done += len(batch.ids)
                    progress.update(len(batch.ids))
                    if time.monotonic() - kept > pause and done < len(mine):
                        began = time.monotonic()
                        run.save_state(owner, name, done, own.state())
                        kept = time.monotonic()
                        pause = max(SAVE_EVERY, SAVE_SHARE * (kept - began))
            # kept until the stage finishes, because its later parts may take long as well
            run.save_state(owner, name, done, own.state())
    return merged(context, own, start)


def merged(context: Context, own: A, start: Callable[[], A]) -> A:
    """The accumulators of all processes merged by rank, bit-identical in every process."""
    if context.processes.count == 1:
        return own

    def restored(state: State) -> A:
        accumulator = start()
        accumulator.restore(dict(state))
        return accumulator

    def merge(first: State, second: State) -> State:
        whole = restored(first)
        whole.merge(restored(second))
        return whole.state()

    return restored(context.processes.folded(own.state(), merge, context.device))


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
        name = context.own(job)
        if (saved := context.run.state(context.number, name, len(steps))) is not None:
            steps.restore(saved[1])
        kept = time.monotonic()
        stage, label = job.partition(".")[0], f"{job}, steps"
        with context.progress(
            [stage], label, len(steps), done=steps.done, unit="steps"
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
