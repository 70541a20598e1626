"""No interruption changes a bit, and what cannot go on is refused and left as it is."""

import itertools
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import SHORT, Whole, assert_ends_as, classifier, images, metrics, silent, train
from torch import Tensor, nn

from advlens import NumericError, Pgd, RunError, Training
from advlens.datasets import ArrayData
from advlens.files import locked
from advlens.runs.checkpoint import load_checkpoint
from advlens.runs.tables import Row
from advlens.training import loop as loop_module
from advlens.training import state as state_module
from advlens.training import validation as validation_module
from advlens.training.objectives import Adversarial, Standard, TrainingBatch
from together import start


def test_each_epoch_is_told_once_it_is_safe_and_again_to_a_continued_run(tmp_path):
    told: list[Row] = []

    def tell(row: Row) -> None:
        told.append(row)
        assert metrics(tmp_path) == told
        if len(told) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        SHORT(classifier(), images(), tmp_path, report=silent, on_epoch=tell)
    assert [row["epoch"] for row in told] == [1, 2, 3]
    told.clear()
    SHORT(classifier(), images(), tmp_path, report=silent, on_epoch=told.append)
    assert (told, len(told)) == (metrics(tmp_path), 6)


def begun(out: Path, settings: Training, checkpoints: int) -> BaseProcess:
    """A process that trains in `out`, when it has written so many checkpoints there or ended."""
    last = out / "last.pt"
    known = last.stat().st_mtime_ns if last.exists() else None
    (process,) = start(1, train, out, settings)
    while checkpoints and process.is_alive():
        if last.exists() and (now := last.stat().st_mtime_ns) != known:
            checkpoints, known = checkpoints - 1, now
        time.sleep(0.001)
    return process


def test_a_checkpoint_is_laid_out_as_before(whole):
    """With another layout, trainings that were begun before are refused: the changelog says so."""
    assert list(load_checkpoint(whole.out / "last.pt")) == [
        *("identity", "classifier", "optimizer", "average", "step", "seconds", "busy"),
        *("learning_rate", "sums", "rows", "best", "best_weights"),
    ]


@pytest.mark.timeout(300)  # processes one after another, on a machine that may be busy
def test_sigkills_at_any_moment_change_no_bit(tmp_path):
    """A checkpoint that is not written whole or not at all is torn by one kill in three."""
    settings = replace(SHORT, epochs=30, objective=Standard())
    whole = Whole(train(tmp_path / "whole", settings), tmp_path / "whole")
    out, random = tmp_path / "killed", np.random.default_rng(0)
    for number in range(16):
        process = begun(out, settings, int(random.integers(1, 4)))
        time.sleep(random.uniform(0, 0.02) * (number % 2))
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL
        state = load_checkpoint(out / "last.pt")
        if (out / "metrics.jsonl").exists():
            epochs = [row["epoch"] for row in metrics(out)]
            assert epochs == list(range(1, len(epochs) + 1))
            assert len(epochs) <= len(state["rows"])
    assert 16 <= state["step"] < 90
    assert_ends_as(whole, out, settings)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_leaves_a_checkpoint_and_its_code(number, code, whole, tmp_path):
    process = begun(tmp_path, SHORT, 2)
    os.kill(process.pid or 0, number)
    process.join()
    assert process.exitcode == code
    assert 2 <= load_checkpoint(tmp_path / "last.pt")["step"] < 18
    assert_ends_as(whole, tmp_path)


def test_a_signal_during_validation_leaves_the_epoch_to_the_next(whole, tmp_path, monkeypatch):
    def interrupt(*args: object, **keywords: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("validation goes on after the signal")

    real = validation_module.prepare

    def prepare_and_interrupt(model: nn.Module) -> object:
        os.kill(os.getpid(), signal.SIGTERM)
        return real(model)

    with monkeypatch.context() as patched:
        patched.setattr(validation_module, "prepare", prepare_and_interrupt)
        patched.setattr(Pgd, "outcomes", interrupt)
        with pytest.raises(SystemExit) as end:
            train(tmp_path)
    assert end.value.code == 143
    state = load_checkpoint(tmp_path / "last.pt")
    assert (state["step"], state["rows"]) == (3, [])
    assert_ends_as(whole, tmp_path)


def test_a_signal_while_images_are_read_ends_at_once(tmp_path, monkeypatch):
    def read(data: ArrayData, device: torch.device, *, shown: bool) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)
        raise AssertionError("reading goes on after the signal")

    monkeypatch.setattr(loop_module, "TrainingImages", read)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path)


def failing(write: Callable[..., None], fatal: int, after: bool) -> Callable[..., None]:
    """The same function, whose call of that number fails before or after its work."""
    calls = itertools.count(1)

    def written(*args: object) -> None:
        call = next(calls)
        if call < fatal or after:
            write(*args)
        if call == fatal:
            raise RunError("the disk is full")

    return written


@pytest.mark.parametrize("name", ["save_checkpoint", "write_text", "save_weights"])
def test_an_end_before_or_after_a_write_loses_nothing(name, whole, tmp_path, monkeypatch):
    real = getattr(state_module, name)
    for fatal, after in ((1, False), (1, True), (3, False), (1, True), (4, False)):
        with monkeypatch.context() as patched:
            patched.setattr(state_module, name, failing(real, fatal, after))
            with pytest.raises(RunError, match="the disk is full"):
                train(tmp_path)
        if (tmp_path / "last.pt").exists():
            load_checkpoint(tmp_path / "last.pt")
    assert_ends_as(whole, tmp_path)


@dataclass(frozen=True)
class Breaks:
    """A loss, or a gradient, that is not finite at one step."""

    where: str
    at: int
    calls: list[int] = field(default_factory=list, repr=False)

    def __call__(self, batch: TrainingBatch) -> Tensor:
        self.calls.append(1)
        loss = Standard()(batch)
        if len(self.calls) == self.at:
            first = next(batch.network.parameters())
            loss = loss * torch.nan if self.where == "loss" else loss + (first * 0).norm().sqrt()
        return loss


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_value_that_is_not_finite_stops_and_spares_the_checkpoint(where, tmp_path):
    with pytest.raises(NumericError, match=r"step 5 .*network\..* intact"):
        train(tmp_path, replace(SHORT, objective=Breaks(where, at=5)))
    state = load_checkpoint(tmp_path / "last.pt")
    assert state["step"] == 4
    assert all(tensor.isfinite().all() for tensor in state["classifier"].values())


ANOTHER: dict[str, Any] = {
    **{"batch_size": {"batch_size": 8}, "seed": {"seed": 3}},
    **{"objective": {"objective": Standard()}, "data": {"data": images(59)}},
    "attack": {"objective": Adversarial(attack=replace(Adversarial().attack, seed=1))},
    "start": {"network": classifier(1)},
}


@pytest.mark.parametrize("name", ANOTHER)
def test_a_folder_with_another_run_is_refused(name, whole):
    before = (whole.out / "last.pt").read_bytes()
    given = {"network": classifier(), "data": images()} | ANOTHER[name]
    start = given.pop("network"), given.pop("data")
    with pytest.raises(RunError, match="other settings"):
        replace(SHORT, **given)(*start, whole.out, report=silent)
    assert (whole.out / "last.pt").read_bytes() == before


def test_a_second_process_is_refused_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "sleep", None)  # a wait would fail
    with locked(tmp_path), pytest.raises(RunError, match="another advlens process"):
        train(tmp_path)
