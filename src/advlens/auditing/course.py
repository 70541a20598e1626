"""How far an audit is as a whole."""

import time
from collections.abc import Mapping, Sequence

from advlens.progress import Progress
from advlens.words import duration

TRUSTED = 10.0
"""Seconds after which what the run has taken so far corrects the forecast."""


class Course:
    """Which model and stage is at work, and the time left for all of them.

    Args:
        expected: for each model the expected seconds of each unfinished stage, in order.
        finished: for each model the number of its finished stages.
    """

    def __init__(self, expected: Sequence[Mapping[str, float]] = (), finished: Sequence[int] = ()):
        self._left = [dict(stages) for stages in expected]
        self._finished, self._totals = list(finished), list(finished)
        for number, stages in enumerate(expected):
            self._totals[number] += len(stages)
        self._began, self._done = time.monotonic(), 0.0

    def progress(
        self,
        number: int,
        stages: Sequence[str],
        label: str,
        total: int,
        *,
        done: int = 0,
        unit: str = "images",
        shown: bool = True,
    ) -> Progress:
        """Progress of some stages of a model, and of all models.

        Args:
            number: the model's number.
            stages: those at work.
            label, total, done, unit, shown: as for `Progress`.
        """
        if number >= len(self._left):
            return Progress(label, total, done=done, unit=unit, shown=shown)
        own = self._left[number]
        for name in own.keys() & {*stages}:
            own[name] *= 1 - done / max(total, 1)  # an earlier process has done the rest
        place = f"model {number + 1} of {len(self._left)}, stage {self._finished[number] + 1} of "
        return Progress(
            f"{place}{self._totals[number]}: {label}",
            total,
            done=done,
            unit=unit,
            shown=shown,
            whole=lambda share: f"{duration(self._rest(number, stages, share))} left in all",
        )

    def _rest(self, number: int, stages: Sequence[str], share: float) -> float:
        """Seconds left, where a share of what these stages had left is done."""
        done = share * sum(self._left[number].get(name, 0) for name in stages)
        left = sum(sum(stages.values()) for stages in self._left) - done
        taken, done = time.monotonic() - self._began, self._done + done
        return left * taken / done if taken > TRUSTED and done > 0 else left

    def finish(self, number: int, stage: str) -> None:
        """Count a stage of a model as finished."""
        if number < len(self._left):
            self._done += self._left[number].pop(stage, 0.0)
            self._finished[number] += 1
