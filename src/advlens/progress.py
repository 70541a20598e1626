"""Progress for people: a bar on a terminal, a line every minute in a log."""

import sys
import time
from collections.abc import Callable
from types import TracebackType

from tqdm import auto

from advlens.words import one_line

NOTEBOOK = auto.notebook_tqdm is not auto.std_tqdm
"""Whether this is a notebook that can show bars."""
BETWEEN, EVERY = 5.0, 60.0
"""Seconds from one line to the next without a terminal: where a pass begins, and within it."""


class Progress:
    """Count images: `with Progress("what", total) as progress: progress.update(64)`.

    Args:
        what: the label in front.
        total: number of images in all.
        done: number of images that an earlier process handled.
        unit: the counted things.
        shown: whether to print; among several processes, the first one prints for all.
        whole: how far the work as a whole is, given the share of this part that is done since its
            start; said in place of the time left for this part.
    """

    said = -BETWEEN
    """When the last line was printed, of whichever pass."""

    def __init__(
        self,
        what: str,
        total: int,
        *,
        done: int = 0,
        unit: str = "images",
        shown: bool = True,
        whole: Callable[[float], str] | None = None,
    ):
        self.shown, self.whole = shown, whole
        self.what, self.total, self.done, self.unit = one_line(what), total, done, unit
        self.began_at = done
        self.started = time.monotonic()
        self.bar = (
            auto.tqdm(
                total=total, initial=done, desc=self.what, unit=f" {unit}", dynamic_ncols=True
            )
            if shown and (NOTEBOOK or sys.stderr.isatty())
            else None
        )

    def update(self, images: int) -> None:
        """Count this many more images as done."""
        self.done += images
        if self.bar is not None:
            self.bar.update(images)
            if self.whole is not None:
                self.bar.set_postfix_str(self.whole(self._share()), refresh=False)
        else:
            self._say(EVERY)

    def __enter__(self) -> "Progress":
        if self.bar is None:
            self._say(BETWEEN)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.bar is not None:
            self.bar.close()

    def _share(self) -> float:
        """The share done of what was left at the start."""
        return (self.done - self.began_at) / max(self.total - self.began_at, 1)

    def _say(self, pause: float) -> None:
        """Print a line if the last one is at least this many seconds old."""
        now = time.monotonic()
        if not self.shown or now - Progress.said < pause:
            return
        Progress.said = now
        rate = (self.done - self.began_at) / max(now - self.started, 1e-9)
        speed = f", {rate:.1f} {self.unit}/s" if rate > 0 else ""
        if rate > 0 and self.whole is not None:
            speed += f", {self.whole(self._share())}"
        elif rate > 0 and self.done < self.total:
            speed += f", {(self.total - self.done) / rate:.0f} s left"
        print(
            f"{self.what}: {self.done}/{self.total} {self.unit}{speed}",
            file=sys.stderr,
            flush=True,
        )
