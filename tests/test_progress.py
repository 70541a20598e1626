"""Lines in a log: at intervals, at the end, none after an error."""

import pytest

from advlens import progress as module
from advlens.progress import Progress


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def test_a_line_every_few_seconds_with_rate_and_rest(clock, capsys):
    with Progress("model: accuracy", 100, done=20) as progress:
        for _ in range(4):
            clock[0] += 4
            progress.update(10)
    assert capsys.readouterr().err.splitlines() == [
        "model: accuracy: 20/100 images",
        "model: accuracy: 50/100 images, 2.5 images/s, 20 s left",
        "model: accuracy: 60/100 images, 2.5 images/s, 16 s left",
    ]


def test_nothing_more_is_said_after_an_error_nor_by_other_processes(clock, capsys):
    def fails() -> None:
        with Progress("model", 10) as progress:
            progress.update(1)
            raise ValueError("x")

    with pytest.raises(ValueError, match="x"):
        fails()
    assert capsys.readouterr().err.splitlines() == ["model: 0/10 images"]
    with Progress("model", 10, every=0.0, shown=False) as progress:
        progress.update(10)
    assert progress.done == 10
    assert capsys.readouterr().err == ""
