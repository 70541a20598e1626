"""Progress for people: a bar on a terminal, a line every few seconds in a log."""

import sys
import time
from types import TracebackType

from tqdm import tqdm

from advlens.words import one_line


class Progress:
    """Count images: `with Progress("what", total) as progress: progress.update(64)`.

    Args:
        what: the label in front.
        total: number of images in all.
        done: number of images that an earlier process handled.
        every: seconds between lines without a terminal.
        unit: the counted things.
        shown: whether to print; among several processes, the first one prints for all.
    """

    def __init__(
        self,
        what: str,
        total: int,
        *,
        done: int = 0,
        every: float = 10.0,
        unit: str = "images",
        shown: bool = True,
    ):
        self.shown = shown
        self.what, self.total, self.done, self.every = one_line(what), total, done, every
        self.unit = unit
        self.began_at = self.told = done
        self.started = self.said = time.monotonic()
        self.bar = (
            tqdm(total=total, initial=done, desc=self.what, unit=f" {unit}", dynamic_ncols=True)
            if shown and sys.stderr.isatty()
            else None
        )

    def update(self, images: int) -> None:
        """Count this many more images as done."""
        self.done += images
        if self.bar is not None:
            self.bar.update(images)
        elif time.monotonic() - self.said >= self.every:
            self._say()

    def __enter__(self) -> "Progress":
        if self.bar is None:
            self._say()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.bar is not None:
            self.bar.close()
        elif kind is None and self.told != self.done:
            self._say()

    def _say(self) -> None:
        self.said, self.told = time.monotonic(), self.done
        if not self.shown:
            return
        rate = (self.done - self.began_at) / max(self.said - self.started, 1e-9)
        speed = f", {rate:.1f} {self.unit}/s" if rate > 0 else ""
        if rate > 0 and self.done < self.total:
            speed += f", {(self.total - self.done) / rate:.0f} s left"
        print(
            f"{self.what}: {self.done}/{self.total} {self.unit}{speed}",
            file=sys.stderr,
            flush=True,
        )
