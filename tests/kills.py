"""A run that dies: state is only on disk, so an exception leaves what SIGKILL leaves."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from advlens.auditing import jobs, passes
from advlens.progress import Progress


class Killed(BaseException):
    """Nothing catches it."""


@contextmanager
def killed(monkeypatch: pytest.MonkeyPatch, after: int) -> Iterator[None]:
    """Within the block states are kept at once, and the run dies after so many batches or steps."""
    update, count = Progress.update, 0

    def dies(progress: Progress, done: int) -> None:
        nonlocal count
        count += 1
        update(progress, done)
        if count == after:
            raise Killed

    with monkeypatch.context() as patched:
        for module in (passes, jobs):
            for name in ("SAVE_EVERY", "SAVE_SHARE"):
                patched.setattr(module, name, 0.0)
        patched.setattr(Progress, "update", dies)
        with pytest.raises(Killed):
            yield
