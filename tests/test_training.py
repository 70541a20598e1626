"""Training: its images and schedule against naive ones, and that no interruption changes a bit."""

import contextlib
import itertools
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from advlens import training as training_module
from advlens.attacks import Pgd
from advlens.checkpoint import load_checkpoint
from advlens.datasets import ArrayData
from advlens.errors import NumericError, RunError, SettingsError
from advlens.files import locked
from advlens.models import Classifier
from advlens.objectives import Adversarial, FeatureConsistency, Objective, Standard, TrainingBatch
from advlens.prepared import prepare
from advlens.threat import L2, Linf
from advlens.training import Training, augment, one_cycle

CLASSES = ("cat", "dog", "ship")
SHORT = Training(
    objective=Adversarial(), epochs=6, batch_size=16, validation=12, checkpoint_every=0.0,
    validation_attack=Pgd(threat=L2(epsilon=0.5), steps=2),
)  # fmt: skip


def images(count: int = 60) -> ArrayData:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 3, 8, 8), generator=generator, dtype=torch.uint8)
    labels = torch.arange(count) % 3
    pixels[torch.arange(count), labels] //= 4
    return ArrayData(pixels, name="noise", classes=CLASSES, synsets=None, labels=labels)


def classifier(seed: int = 0) -> Classifier:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = nn.Sequential(
            nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3, 2),
            nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3),
        )  # fmt: skip
    return Classifier(network, name="tiny", classes=CLASSES, image_size=8, resize=8)


def silent(text: str) -> None:
    pass


def train(out: Path, settings: Training = SHORT) -> dict[str, Tensor]:
    trained = settings(classifier(), images(), out, report=silent)
    return {name: tensor.clone() for name, tensor in trained.state_dict().items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def metrics(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def without_time(rows: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Tensor], Path]:
    out = tmp_path_factory.mktemp("uninterrupted")
    return train(out), out


def test_augment_equals_a_loop_over_pixels() -> None:
    generator = torch.Generator().manual_seed(1)
    batch = torch.randint(0, 256, (7, 3, 6, 5), generator=generator, dtype=torch.uint8)
    shifts = torch.randint(0, 9, (2, 7), generator=generator)
    shifts[:, 0], shifts[:, 1] = 0, 8
    flips = torch.tensor([True, False, True, False, True, False, True])
    found = augment(batch, shifts, flips)
    for i in range(7):
        for row in range(6):
            for column in range(5):
                x = row + int(shifts[0, i]) - 4
                y = (4 - column if flips[i] else column) + int(shifts[1, i]) - 4
                inside = 0 <= x < 6 and 0 <= y < 5
                expected = batch[i, :, x, y].double() / 255 if inside else torch.zeros(3)
                assert torch.equal(found[i, :, row, column], expected.float())
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_one_cycle_rises_for_a_quarter_and_falls_to_zero() -> None:
    progress = np.linspace(0, 1, 101)
    expected = np.interp(progress, [0, 0.25, 1], [0, 1, 0])
    np.testing.assert_allclose([one_cycle(p) for p in progress], expected, atol=1e-15)


def test_an_epoch_sees_each_training_image_once_and_no_held_out_one(tmp_path: Path) -> None:
    seen: list[list[int]] = []
    seeds: list[int] = []

    @dataclass(frozen=True)
    class Watch:
        def __call__(self, batch: TrainingBatch) -> Tensor:
            seen.append(batch.ids.tolist())
            seeds.append(batch.seed)
            return Standard()(batch)

    settings = Training(objective=Watch(), epochs=2, batch_size=16, validation=12)  # type: ignore[arg-type]
    settings(classifier(), images(), tmp_path, report=silent)
    assert len(seen) == 6
    held_out = set(images().subset(12, seed=0).positions.tolist())  # type: ignore[attr-defined]
    for epoch in (seen[:3], seen[3:]):
        ids = list(itertools.chain(*epoch))
        assert len(ids) == len(set(ids)) == 48
        assert not held_out & set(ids)
    assert seen[:3] != seen[3:]
    assert len(set(seeds)) == 2  # attacks start elsewhere in each epoch


def test_the_first_of_the_best_epochs_is_kept(tmp_path: Path) -> None:
    logits: list[Tensor] = []

    @dataclass(frozen=True)
    class Scores:
        """Says which share of the images is right, whatever the model."""

        shares: tuple[float, ...] = (0.0, 1.0, 0.0, 1.0, 0.5)

        def outcomes(
            self, model: nn.Module, images: Tensor, labels: Tensor, *, ids: Tensor, clean: Tensor
        ) -> Tensor:
            right = len(labels) * self.shares[len(logits)]
            logits.append(clean.clone())
            clean.zero_()  # nor is it natural accuracy that decides
            wrong = torch.arange(len(labels)) >= right
            return torch.eye(3)[(labels + wrong) % 3]

    settings = Training(epochs=5, batch_size=16, validation=12, validation_attack=Scores())  # type: ignore[arg-type]
    trained = settings(classifier(), images(), tmp_path, report=silent)
    held_out = images().subset(12, seed=0)
    again = prepare(trained)(held_out.images(range(12)).float() / 255)
    assert [torch.equal(again, each) for each in logits] == [False, True, False, False, False]


def test_a_run_learns_and_keeps_its_best_epoch(
    uninterrupted: tuple[dict[str, Tensor], Path],
) -> None:
    weights, out = uninterrupted
    rows = metrics(out)
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert rows[-1]["loss"] < rows[0]["loss"]
    state = load_checkpoint(out / "last.pt")
    scores = [(row["natural"] + row["adversarial"]) / 2 for row in rows]
    assert state["best"] == pytest.approx(max(scores), rel=1e-12)
    stored = load_file(out / "best.safetensors")
    for name, tensor in stored.items():
        assert torch.equal(tensor, weights[f"network.{name}"])
        assert torch.equal(tensor, state["best_weights"][f"network.{name}"])


def test_the_same_seed_gives_the_same_bits_and_another_does_not(
    uninterrupted: tuple[dict[str, Tensor], Path], tmp_path: Path
) -> None:
    weights, out = uninterrupted
    assert same(weights, train(tmp_path / "same"))
    assert without_time(metrics(tmp_path / "same")) == without_time(metrics(out))
    other = Training(**{**vars(SHORT), "seed": 1})
    assert not same(weights, train(tmp_path / "other", other))


@pytest.mark.parametrize(
    ("objective", "passes"), [(Standard(), 1), (Adversarial(), 1), (FeatureConsistency(), 2)]
)
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_every_objective_trains_in_both_precisions(
    objective: Objective, passes: int, precision: Literal["float32", "bf16"], tmp_path: Path
) -> None:
    settings = Training(
        objective=objective, epochs=1, batch_size=16, validation=12, precision=precision,
        validation_attack=Pgd(threat=Linf(epsilon=8 / 255), steps=1),
    )  # fmt: skip
    weights = train(tmp_path, settings)
    assert all(tensor.isfinite().all() for tensor in weights.values())
    # batch normalization saw each of the 3 steps, and nothing of attacks and validation
    assert weights["network.1.num_batches_tracked"].item() == 3 * passes


# Interruptions


def in_child(out: Path) -> None:
    torch.set_num_threads(1)
    train(out)


@pytest.fixture(scope="module")
def start() -> Callable[[Path], BaseProcess]:
    context = multiprocessing.get_context("forkserver")
    # imported once for all children; torch imports its compiler at an optimizer's first step
    context.set_forkserver_preload(["advlens.training", "torch._dynamo"])

    def begin(out: Path) -> BaseProcess:
        process = context.Process(target=in_child, args=(out,))
        process.start()
        return process

    return begin


def wait_for_checkpoints(out: Path, process: BaseProcess, count: int) -> None:
    """Return after so many new checkpoints, or when the process has ended."""
    last, seen, known = out / "last.pt", 0, None
    if last.exists():
        known = last.stat().st_mtime_ns
    while seen < count and process.is_alive():
        if last.exists() and (now := last.stat().st_mtime_ns) != known:
            seen, known = seen + 1, now
        time.sleep(0.001)


def test_sigkill_at_any_moment_changes_no_bit(
    uninterrupted: tuple[dict[str, Tensor], Path],
    start: Callable[[Path], BaseProcess],
    tmp_path: Path,
) -> None:
    weights, whole = uninterrupted
    random = np.random.default_rng(0)
    kills = 0
    for _ in range(5):
        process = start(tmp_path)
        wait_for_checkpoints(tmp_path, process, int(random.integers(1, 4)))
        time.sleep(random.uniform(0, 0.01))
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        kills += process.exitcode == -signal.SIGKILL
        state = load_checkpoint(tmp_path / "last.pt")
        if (tmp_path / "metrics.jsonl").exists():
            epochs = [row["epoch"] for row in metrics(tmp_path)]
            assert epochs == list(range(1, len(epochs) + 1))
            assert len(epochs) <= len(state["rows"])
    assert kills >= 2
    assert same(weights, train(tmp_path))
    assert without_time(metrics(tmp_path)) == without_time(metrics(whole))
    assert same(load_file(tmp_path / "best.safetensors"), load_file(whole / "best.safetensors"))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_leaves_a_checkpoint_and_its_code(
    number: int, code: int, uninterrupted: tuple[dict[str, Tensor], Path],
    start: Callable[[Path], BaseProcess], tmp_path: Path,
) -> None:  # fmt: skip
    weights, _ = uninterrupted
    process = start(tmp_path)
    wait_for_checkpoints(tmp_path, process, 2)
    asked = time.monotonic()
    os.kill(process.pid or 0, number)
    process.join()
    assert process.exitcode == code
    assert time.monotonic() - asked < 10
    assert 2 <= load_checkpoint(tmp_path / "last.pt")["step"] < 18
    assert same(weights, train(tmp_path))


def test_a_signal_during_validation_leaves_the_epoch_to_the_next_process(
    uninterrupted: tuple[dict[str, Tensor], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, whole = uninterrupted

    def interrupt(*args: object, **keywords: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("validation goes on after the signal")

    real = training_module.prepare

    def prepare_and_interrupt(model: nn.Module) -> object:
        os.kill(os.getpid(), signal.SIGTERM)
        return real(model)

    with monkeypatch.context() as patched:
        patched.setattr(training_module, "prepare", prepare_and_interrupt)
        patched.setattr(Pgd, "outcomes", interrupt)
        with pytest.raises(SystemExit) as end:
            train(tmp_path)
    assert end.value.code == 143
    state = load_checkpoint(tmp_path / "last.pt")
    assert (state["step"], state["rows"]) == (3, [])
    assert same(weights, train(tmp_path))
    assert without_time(metrics(tmp_path)) == without_time(metrics(whole))


@pytest.mark.parametrize("name", ["save_checkpoint", "write_text", "save_weights"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_an_end_between_two_writes_loses_nothing(
    name: str, after: bool, uninterrupted: tuple[dict[str, Tensor], Path], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    weights, whole = uninterrupted
    real = getattr(training_module, name)
    for call in (1, 4, 7):
        calls = 0

        def write(*args: object, fatal: int = call) -> None:
            nonlocal calls
            calls += 1
            if calls < fatal or after:
                real(*args)
            if calls == fatal:
                raise RunError("the disk is full")

        with monkeypatch.context() as patched:
            patched.setattr(training_module, name, write)
            with contextlib.suppress(RunError):
                train(tmp_path)
        if (tmp_path / "last.pt").exists():
            load_checkpoint(tmp_path / "last.pt")
    assert same(weights, train(tmp_path))
    assert without_time(metrics(tmp_path)) == without_time(metrics(whole))
    assert same(load_file(tmp_path / "best.safetensors"), load_file(whole / "best.safetensors"))


# Refusals


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
            return (
                loss * torch.nan if self.where == "loss" else loss + (first * 0).abs().sqrt().sum()
            )
        return loss


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_value_that_is_not_finite_stops_and_spares_the_checkpoint(
    where: str, tmp_path: Path
) -> None:
    settings = Training(**{**vars(SHORT), "objective": Breaks(where, at=5)})
    with pytest.raises(NumericError, match=r"step 5 .* intact"):
        train(tmp_path, settings)
    state = load_checkpoint(tmp_path / "last.pt")
    assert state["step"] == 4
    assert all(tensor.isfinite().all() for tensor in state["classifier"].values())


def test_a_folder_with_another_run_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(out, Training(**{**vars(SHORT), "epochs": 1}))
    before = (out / "last.pt").read_bytes()
    others = {"batch_size": 8, "objective": Standard(), "seed": 3}
    others["objective"] = Adversarial(
        attack=Pgd(threat=Linf(epsilon=0.5), steps=2, step_size=0.3, select="last")
    )
    for name, value in others.items():
        with pytest.raises(RunError, match="other settings"):
            train(out, Training(**{**vars(SHORT), "epochs": 1, name: value}))
    with pytest.raises(RunError, match="other settings"):  # another start
        Training(**{**vars(SHORT), "epochs": 1})(classifier(1), images(), out, report=silent)
    with pytest.raises(RunError, match="other settings"):  # other data
        Training(**{**vars(SHORT), "epochs": 1})(classifier(), images(59), out, report=silent)
    assert (out / "last.pt").read_bytes() == before


def test_a_second_process_is_refused_at_once(tmp_path: Path) -> None:
    began = time.monotonic()
    with locked(tmp_path), pytest.raises(RunError, match="another advlens process"):
        train(tmp_path)
    assert time.monotonic() - began < 2


@pytest.mark.parametrize(
    "wrong",
    [{"epochs": 0}, {"batch_size": -1}, {"learning_rate": float("nan")}, {"precision": "fp16"}],
)
def test_wrong_settings_are_refused(wrong: dict[str, object]) -> None:
    (name,) = wrong
    with pytest.raises(SettingsError, match=name):
        Training(**wrong)  # type: ignore[arg-type]


def test_too_many_held_out_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="none to train on"):
        train(tmp_path, Training(validation=60))
