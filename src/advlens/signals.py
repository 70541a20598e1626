"""Signals that ask a process to end: at once, or after the current work is saved."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C, a cluster's time limit, and a closed terminal."""


def end_at_signals() -> None:
    """End this process at once, with a sentence, at SIGINT, SIGTERM or SIGHUP from now on.

    No cleanup is needed, because a run survives even SIGKILL.
    """
    program = os.getpid()

    def end(number: int, frame: FrameType | None) -> None:
        # forked workers and torchrun's other processes print nothing
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
    """Within the block, the first SIGINT, SIGTERM or SIGHUP is remembered; a second one kills.

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
    """Within the block, no signal interrupts an end in progress."""
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
    """The signals that are not ignored, as SIGHUP is under nohup; none outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        return []
    return [number for number in ENDING if signal.getsignal(number) is not signal.SIG_IGN]


def _forget_terminal() -> None:
    """Discard output to a closed terminal, which would raise an error."""
    for stream in (1, 2):
        try:
            os.write(stream, b"")
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)


def _name(number: int) -> str:
    return signal.Signals(number).name
