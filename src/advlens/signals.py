"""Signals that ask a process to end: at once, or after the work under way is saved."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C, a cluster's time limit, a terminal that is gone."""


def end_at_signals() -> None:
    """From here on SIGINT, SIGTERM and SIGHUP end this process at once, with a sentence.

    Nothing needs to be tidied up: a run survives SIGKILL as well.
    """
    program = os.getpid()

    def end(number: int, frame: FrameType | None) -> None:
        # neither a worker that this process has forked nor another process of torchrun speaks
        if os.getpid() == program and os.environ.get("RANK", "0") == "0":
            why = "interrupted" if number == signal.SIGINT else f"stopped by {_name(number)}"
            line = "\n" if os.isatty(2) else ""  # below a progress bar
            with contextlib.suppress(OSError):
                os.write(2, f"{line}advlens: {why}; the same command continues\n".encode())
        os._exit(128 + number)

    for number in _heeded():
        signal.signal(number, end)


@contextmanager
def remembered_signals() -> Iterator[Callable[[], int]]:
    """Within the block, the first SIGINT, SIGTERM or SIGHUP is remembered; a second ends all.

    Yields:
        A function that returns the number of the signal that came, 0 before. Outside the main
        thread, where signals cannot be caught, it always returns 0.
    """
    received: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        received.append(number)
        for each in _heeded():
            signal.signal(each, signal.SIG_DFL)
        if number == signal.SIGHUP:
            signal.signal(number, signal.SIG_IGN)  # a shell and the kernel each send one
            _forget_terminal()

    with _handled(remember):
        yield lambda: received[0] if received else 0


@contextmanager
def ignored_signals() -> Iterator[None]:
    """Within the block, no signal disturbs an end that is under way."""
    with _handled(signal.SIG_IGN):
        yield


@contextmanager
def _handled(handler: Callable[[int, FrameType | None], None] | signal.Handlers) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in _heeded()}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def _heeded() -> list[signal.Signals]:
    """Those not ignored, as SIGHUP is under nohup; none outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        return []
    return [number for number in ENDING if signal.getsignal(number) is not signal.SIG_IGN]


def _forget_terminal() -> None:
    """Write nowhere what would go to a terminal that is gone, which would be an error."""
    for stream in (1, 2):
        try:
            os.write(stream, b"")
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)


def _name(number: int) -> str:
    return signal.Signals(number).name
