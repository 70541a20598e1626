"""The loop: what an epoch is made of, and that no interruption changes a bit."""

import contextlib
import copy
import dataclasses
import itertools
import os
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tiny import SHORT, classifier, images, metrics, same, silent, train, without_time
from torch import Tensor, nn

from advlens.attacks import Pgd
from advlens.attacks.threat import Linf
from advlens.datasets import ArrayData
from advlens.errors import NumericError, RunError, SettingsError
from advlens.files import locked
from advlens.prepared import prepare
from advlens.runs.checkpoint import load_checkpoint
from advlens.training import Augmentation, Training
from advlens.training import images as images_module
from advlens.training import loop as loop_module
from advlens.training import state as state_module
from advlens.training import validation as validation_module
from advlens.training.objectives import (
    Adversarial,
    FeatureConsistency,
    Objective,
    Standard,
    Trades,
    TrainingBatch,
    Unrelaxed,
)
from together import start


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Tensor], Path]:
    out = tmp_path_factory.mktemp("uninterrupted")
    return train(out), out


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


def test_the_last_epoch_is_kept_on_request(
    uninterrupted: tuple[dict[str, Tensor], Path], tmp_path: Path
) -> None:
    _, whole = uninterrupted
    weights = train(tmp_path, dataclasses.replace(SHORT, keep="last"))
    state = load_checkpoint(tmp_path / "last.pt")
    assert same(weights, state["classifier"])
    stored = load_file(tmp_path / "best.safetensors")
    assert all(torch.equal(stored[name], weights[f"network.{name}"]) for name in stored)
    assert [row["kept"] for row in metrics(tmp_path)] == [True] * 6
    scores = [row["natural"] + row["adversarial"] for row in metrics(whole)]
    assert [row["kept"] for row in metrics(whole)] == [
        score > max(scores[:number], default=-1) for number, score in enumerate(scores)
    ]


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


BOTH = {"natural_loss", "natural_accuracy", "adversarial_loss", "adversarial_accuracy", "distance"}
TERMS = {
    "standard": (Standard(), 1, {"natural_loss", "natural_accuracy"}),
    "adversarial": (Adversarial(), 1, {"adversarial_loss", "adversarial_accuracy"}),
    "consistency": (FeatureConsistency(), 2, BOTH),
    "shared": (
        FeatureConsistency(clean_pass="shared", gradient="attacked", layer="representation"),
        2,
        BOTH,
    ),
}


@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_every_objective_trains_in_both_precisions(
    name: str, precision: Literal["float32", "bf16"], tmp_path: Path
) -> None:
    objective, passes, terms = TERMS[name]
    settings = Training(
        objective=objective,
        epochs=1,
        batch_size=16,
        validation=12,
        precision=precision,
        validation_attack=Pgd(threat=Linf(epsilon=8 / 255), steps=1),
    )
    weights = train(tmp_path, settings)
    assert all(tensor.isfinite().all() for tensor in weights.values())
    # batch normalization saw each of the 3 steps, and nothing of attacks and validation
    assert weights["network.1.num_batches_tracked"].item() == 3 * passes
    (row,) = metrics(tmp_path)
    assert {key[6:] for key in row if key.startswith("train_")} == terms


@pytest.mark.parametrize("objective", [Trades(), Unrelaxed()])
def test_the_objectives_with_attacks_of_their_own_train(
    objective: Objective, tmp_path: Path
) -> None:
    weights = train(tmp_path, dataclasses.replace(SHORT, objective=objective, epochs=1))
    assert not same(weights, dict(classifier().state_dict()))
    assert all(tensor.isfinite().all() for tensor in weights.values())


@pytest.mark.parametrize(
    "settings",
    [
        Training(),
        Training(optimizer="adam", learning_rate=0.01, schedule="cosine"),
        Training(nesterov=False, schedule="constant", clip=0.02, average=0.9, channels_last=False),
    ],
    ids=["sgd", "adam", "clipped and averaged"],
)
def test_a_run_equals_a_plain_loop(settings: Training, tmp_path: Path) -> None:
    """By another order of work: no channels last, torch's own schedulers' formulas.

    Both in float64: in float32 a ReLU near 0 may switch, and Adam divides gradients by their size.
    """
    settings = dataclasses.replace(
        settings,
        epochs=2,
        batch_size=16,
        validation=12,
        seed=5,
        augmentation=Augmentation(crop=0, flip=False),
    )
    ids: list[list[int]] = []

    @dataclass(frozen=True)
    class Watch:
        def __call__(self, batch: TrainingBatch) -> Tensor:
            ids.append(batch.ids.tolist())
            return Standard()(batch)

    torch_settings = dataclasses.replace(settings, objective=Watch())  # type: ignore[arg-type]
    plain = classifier().double()
    torch_settings(classifier().double(), images(), tmp_path, report=silent)
    state = load_checkpoint(tmp_path / "last.pt")
    kind = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[settings.optimizer]
    extra = {"momentum": 0.9, "nesterov": settings.nesterov} if settings.optimizer == "sgd" else {}
    optimizer = kind(plain.parameters(), lr=1.0, weight_decay=5e-4, **extra)  # type: ignore[arg-type]
    average = copy.deepcopy(plain)
    losses, decay = [], settings.average or 0.0
    for step, chosen in enumerate(ids):
        share = {
            "one-cycle": np.interp(step, [0, 1.5, 6], [0, 1, 0]),
            "cosine": np.cos(step / 6 * np.pi / 2) ** 2,
            "constant": 1.0,
        }[settings.schedule]
        optimizer.param_groups[0]["lr"] = float(share) * settings.learning_rate
        plain.train()
        pixels = (images().pixels[chosen].float() / 255).double()
        loss = F.cross_entropy(plain(pixels), images().labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        for parameter in plain.parameters() if settings.clip else ():
            assert parameter.grad is not None
            parameter.grad.copy_(parameter.grad.clip(-0.02, 0.02))
        optimizer.step()
        losses.append(loss.item())
        slow = min(decay, (1 + step) / (10 + step)) if decay else 0.0
        for name, tensor in average.state_dict().items():
            new = plain.state_dict()[name]
            tensor.copy_(slow * tensor + (1 - slow) * new if tensor.is_floating_point() else new)
    close = {"rtol": 1e-9, "atol": 1e-12}
    for name, tensor in plain.state_dict().items():
        torch.testing.assert_close(state["classifier"][name], tensor, **close)
        if decay:
            torch.testing.assert_close(state["average"][name], average.state_dict()[name], **close)
    rows = metrics(tmp_path)
    for row, part in zip(rows, (losses[:3], losses[3:]), strict=True):
        assert row["loss"] == pytest.approx(np.mean(part), rel=1e-6)  # terms are kept in float32
        assert row["train_natural_loss"] == row["loss"]


@pytest.mark.parametrize("average", [None, 0.5])
def test_validation_measures_what_is_kept(average: float | None, tmp_path: Path) -> None:
    settings = dataclasses.replace(SHORT, epochs=1, average=average)
    trained = settings(classifier(), images(), tmp_path, report=silent)
    held_out = images().subset(12, seed=0)
    pixels, labels = held_out.images(range(12)).float() / 255, held_out.labels
    attack = settings.validation_attack
    with torch.no_grad():
        clean = trained(pixels)
        attacked = attack.outcomes(trained, pixels, labels, ids=held_out.positions)
    (row,) = metrics(tmp_path)
    for name, logits in (("natural", clean), ("adversarial", attacked)):
        odds = logits.double().exp()
        likely = odds.gather(1, labels.unsqueeze(1)).squeeze(1) / odds.sum(dim=1)
        assert row[name] == (logits.argmax(dim=1) == labels).double().mean()
        assert row[f"{name}_loss"] == pytest.approx(-likely.log().mean().item(), rel=1e-5)


def test_streamed_images_train_as_resident_ones(
    uninterrupted: tuple[dict[str, Tensor], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, _ = uninterrupted
    streams: list[int] = []
    real = ArrayData.stream

    def stream(data: ArrayData, batches: Sequence[Sequence[int]]) -> Iterator[Tensor]:
        streams.append(len(batches))
        return real(data, batches)

    monkeypatch.setattr(images_module, "_memory", lambda device: 0)
    monkeypatch.setattr(ArrayData, "stream", stream)
    assert same(weights, train(tmp_path))
    # first two images to look at the model; an epoch's steps, its validation; never the whole set
    assert streams == [1, *[3, 1] * 6]


def test_images_larger_than_the_classifiers_are_cropped(tmp_path: Path) -> None:
    shapes: set[tuple[int, ...]] = set()
    first: list[Tensor] = []

    @dataclass(frozen=True)
    class Watch:
        def __call__(self, batch: TrainingBatch) -> Tensor:
            shapes.add(tuple(batch.images.shape[1:]))
            first.append(batch.images[0])
            return Standard()(batch)

    large = images(side=12)
    settings = dataclasses.replace(
        SHORT, epochs=1, objective=Watch(), augmentation=Augmentation(crop=0)
    )
    trained = settings(classifier(), large, tmp_path, report=silent)
    assert shapes == {(3, 8, 8)}
    held_out = large.subset(12, seed=0)
    center = held_out.images(range(12))[:, :, 2:10, 2:10].float() / 255
    with torch.no_grad():
        right = (trained(center).argmax(dim=1) == held_out.labels).double().mean().item()
    assert metrics(tmp_path)[0]["natural"] == right


def test_batches_of_an_epoch_are_nearly_equal(tmp_path: Path) -> None:
    sizes: list[int] = []

    @dataclass(frozen=True)
    class Watch:
        def __call__(self, batch: TrainingBatch) -> Tensor:
            sizes.append(len(batch.images))
            return Standard()(batch)

    settings = dataclasses.replace(SHORT, epochs=1, objective=Watch(), batch_size=15)
    train(tmp_path, settings)
    assert sizes == [12, 12, 12, 12]  # not 15, 15, 15, 3


@pytest.mark.filterwarnings(
    "ignore:Guards may run slower", "ignore:The .grad attribute of a Tensor"
)
def test_compiled_networks_train_the_same(
    uninterrupted: tuple[dict[str, Tensor], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch.compile is asked for the network; what it makes of it is its own affair."""
    compiled: list[nn.Module] = []
    real = torch.compile

    def eager(network: nn.Module) -> Any:
        compiled.append(network)
        return real(network, backend="eager")

    monkeypatch.setattr(torch, "compile", eager)
    weights = train(tmp_path, dataclasses.replace(SHORT, compile=True))
    assert len(compiled) == 1
    expected, _ = uninterrupted
    for name, tensor in weights.items():
        torch.testing.assert_close(tensor, expected[name])


def test_each_epoch_is_told_once_it_is_safe_and_again_to_a_continued_run(tmp_path: Path) -> None:
    told: list[float] = []

    def tell(row: Any) -> None:
        assert metrics(tmp_path)[: len(told) + 1][-1] == row
        told.append(row["epoch"])
        if len(told) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        SHORT(classifier(), images(), tmp_path, report=silent, on_epoch=tell)
    assert told == [1, 2, 3]
    told.clear()
    later = dataclasses.replace(SHORT)
    later(
        classifier(),
        images(),
        tmp_path,
        report=silent,
        on_epoch=lambda row: told.append(row["epoch"]),
    )
    assert told == [1, 2, 3, 4, 5, 6]


# Interruptions


def begin(out: Path, settings: Training = SHORT) -> BaseProcess:
    (process,) = start(1, train, out, settings)
    return process


def wait_for_checkpoints(out: Path, process: BaseProcess, count: int) -> None:
    """Return after so many new checkpoints, or when the process has ended."""
    last, seen, known = out / "last.pt", 0, None
    if last.exists():
        known = last.stat().st_mtime_ns
    while seen < count and process.is_alive():
        if last.exists() and (now := last.stat().st_mtime_ns) != known:
            seen, known = seen + 1, now
        time.sleep(0.001)


@pytest.mark.timeout(600)  # 50 processes one after another, on a machine that may be busy
def test_fifty_sigkills_at_any_moment_change_no_bit(tmp_path: Path) -> None:
    settings = dataclasses.replace(SHORT, epochs=120, objective=Standard())
    whole, out = tmp_path / "whole", tmp_path / "killed"
    weights = train(whole, settings)
    random = np.random.default_rng(0)
    for _ in range(50):
        process = begin(out, settings)
        wait_for_checkpoints(out, process, int(random.integers(0, 4)))
        time.sleep(random.uniform(0, 0.02))
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL
        if (out / "last.pt").exists():
            state = load_checkpoint(out / "last.pt")
        if (out / "metrics.jsonl").exists():
            epochs = [row["epoch"] for row in metrics(out)]
            assert epochs == list(range(1, len(epochs) + 1))
            assert len(epochs) <= len(state["rows"])
    assert 20 < state["step"] < 360
    assert same(weights, train(out, settings))
    assert without_time(metrics(out)) == without_time(metrics(whole))
    assert same(load_file(out / "best.safetensors"), load_file(whole / "best.safetensors"))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_leaves_a_checkpoint_and_its_code(
    number: int,
    code: int,
    uninterrupted: tuple[dict[str, Tensor], Path],
    tmp_path: Path,
) -> None:
    weights, _ = uninterrupted
    process = begin(tmp_path)
    wait_for_checkpoints(tmp_path, process, 2)
    os.kill(process.pid or 0, number)
    process.join()
    assert process.exitcode == code
    assert 2 <= load_checkpoint(tmp_path / "last.pt")["step"] < 18
    assert same(weights, train(tmp_path))


def test_a_signal_during_validation_leaves_the_epoch_to_the_next_process(
    uninterrupted: tuple[dict[str, Tensor], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, whole = uninterrupted

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
    assert same(weights, train(tmp_path))
    assert without_time(metrics(tmp_path)) == without_time(metrics(whole))


def test_a_signal_while_images_are_read_ends_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(data: ArrayData, device: torch.device, *, shown: bool) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)
        raise AssertionError("reading goes on after the signal")

    monkeypatch.setattr(loop_module, "TrainingImages", read)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path)


@pytest.mark.parametrize("name", ["save_checkpoint", "write_text", "save_weights"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_an_end_between_two_writes_loses_nothing(
    name: str,
    after: bool,
    uninterrupted: tuple[dict[str, Tensor], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weights, whole = uninterrupted
    real = getattr(state_module, name)
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
            patched.setattr(state_module, name, write)
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
    with pytest.raises(NumericError, match=r"step 5 .*network\..* intact"):
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


def test_a_second_process_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", never)
    with locked(tmp_path), pytest.raises(RunError, match="another advlens process"):
        train(tmp_path)


def never(seconds: float) -> None:
    raise AssertionError(f"waits for {seconds} s")


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0},
        {"batch_size": -1},
        {"learning_rate": float("nan")},
        {"precision": "fp16"},
        {"clip": 0.0},
        {"average": 1.0},
        {"momentum": -0.1},
        {"optimizer": "lion"},
        {"schedule": "steps"},
        {"keep": "first"},
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, object]) -> None:
    (name,) = wrong
    with pytest.raises(SettingsError, match=name):
        Training(**wrong)  # type: ignore[arg-type]


def test_too_many_held_out_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="none to train on"):
        train(tmp_path, Training(validation=60))
