"""Side by side in one process: times drift on a shared machine, ratios of one run do not."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Times:
    """Seconds of one contender, one pair per repeat."""

    cpu: list[float]
    wall: list[float]

    @property
    def median(self) -> float:
        """Of the CPU time."""
        return statistics.median(self.cpu)

    def row(self, reference: "Times") -> str:
        """Median and range of CPU time, and ratios of medians to the reference: CPU, wall."""
        ratios = [
            statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
            for ours, theirs in ((self.cpu, reference.cpu), (self.wall, reference.wall))
        ]
        return (
            f"{self.median:8.3f} s ({min(self.cpu):.3f} to {max(self.cpu):.3f}) | "
            f"{ratios[0]:5.2f} | {ratios[1]:5.2f}"
        )


def interleaved(contenders: dict[str, Callable[[], object]], repeats: int) -> dict[str, Times]:
    """Run each contender once to warm up, then all of them in turn, `repeats` times."""
    times = {name: Times([], []) for name in contenders}
    for call in contenders.values():
        call()
    for repeat in range(repeats):
        names = list(contenders)
        for name in names[repeat % len(names) :] + names[: repeat % len(names)]:
            cpu, wall = time.process_time(), time.perf_counter()
            contenders[name]()
            times[name].cpu.append(time.process_time() - cpu)
            times[name].wall.append(time.perf_counter() - wall)
    return times
