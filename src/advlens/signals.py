"""Signals that ask a process to end, for work that first has something to save."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def remembered_signals() -> Iterator[Callable[[], int]]:
    """Within the block, the first SIGINT or SIGTERM is remembered; a second ends the process.

    Yields:
        A function that returns the number of the signal that came, 0 before. Outside the main
        thread, where signals cannot be caught, it always returns 0.
    """
    received: list[int] = []
    main = threading.current_thread() is threading.main_thread()
    numbers = (signal.SIGINT, signal.SIGTERM) if main else ()

    def remember(number: int, frame: FrameType | None) -> None:
        received.append(number)
        for each in numbers:
            signal.signal(each, signal.SIG_DFL)

    before = {number: signal.signal(number, remember) for number in numbers}
    try:
        yield lambda: received[0] if received else 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
