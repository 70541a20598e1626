"""The loop: what epochs and steps are made of, and what is kept of them."""

import copy
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tiny import SHORT, Watch, Whole, assert_ends_as, classifier, images, metrics, same, train
from torch import Tensor, nn

from advlens.datasets import ArrayData
from advlens.errors import SettingsError
from advlens.prepared import prepare
from advlens.runs.checkpoint import load_checkpoint
from advlens.training import Augmentation, Training, objectives
from advlens.training import images as images_module
from advlens.training.objectives import Objective, Standard, TrainingBatch


def trained(out: Path, settings: Training, data: ArrayData | None = None) -> nn.Module:
    return settings(classifier(), data or images(), out, report=lambda text: None)


def test_an_epoch_sees_each_training_image_once_and_no_held_out_one(tmp_path):
    watch = Watch()
    train(tmp_path, replace(SHORT, objective=watch, epochs=2, batch_size=15))
    seen = [batch.ids.tolist() for batch in watch.batches]
    assert [len(ids) for ids in seen] == [12] * 8  # not 15, 15, 15, 3
    held_out = set(images().subset(12, seed=0).positions.tolist())
    for epoch in (seen[:4], seen[4:]):
        ids = list(itertools.chain(*epoch))
        assert len(ids) == len(set(ids)) == 48
        assert not held_out & set(ids)
    assert seen[:4] != seen[4:]
    assert len({batch.seed for batch in watch.batches}) == 2  # each epoch's attacks start elsewhere


def test_the_first_of_the_best_epochs_is_kept(tmp_path):
    logits: list[Tensor] = []

    @dataclass(frozen=True)
    class Scores:
        """Says which share of the images is right, whatever the model."""

        shares: tuple[float, ...] = (0.0, 1.0, 0.0, 1.0, 0.5)

        def outcomes(self, model, images, labels, *, ids, clean):
            right = len(labels) * self.shares[len(logits)]
            logits.append(clean.clone())
            clean.zero_()  # nor is it natural accuracy that decides
            return torch.eye(3)[(labels + (torch.arange(len(labels)) >= right)) % 3]

    best = trained(tmp_path, replace(SHORT, epochs=5, validation_attack=Scores()))
    again = prepare(best)(images().subset(12, seed=0).images(range(12)).float() / 255)
    assert [torch.equal(again, each) for each in logits] == [False, True, False, False, False]


def test_the_best_epoch_is_kept_or_on_request_the_last(whole, tmp_path):
    last = Whole(train(tmp_path, replace(SHORT, keep="last")), tmp_path)
    for weights, out in (whole, last):
        assert same(weights, load_checkpoint(out / "last.pt")["best_weights"])
        stored = load_file(out / "best.safetensors")
        assert all(torch.equal(stored[name], weights[f"network.{name}"]) for name in stored)
    assert same(last.weights, load_checkpoint(tmp_path / "last.pt")["classifier"])
    assert [row["kept"] for row in metrics(tmp_path)] == [True] * 6
    rows = metrics(whole.out)
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert rows[-1]["loss"] < rows[0]["loss"]
    scores = [(row["natural"] + row["adversarial"]) / 2 for row in rows]
    better = [score > max(scores[:number], default=-1) for number, score in enumerate(scores)]
    assert [row["kept"] for row in rows] == better
    assert load_checkpoint(whole.out / "last.pt")["best"] == pytest.approx(max(scores), rel=1e-12)


def test_the_same_seed_gives_the_same_bits_and_another_does_not(whole, tmp_path):
    assert_ends_as(whole, tmp_path / "same")
    assert not same(whole.weights, train(tmp_path / "other", replace(SHORT, seed=1)))


SHARED = objectives.FeatureConsistency(
    clean_pass="shared", gradient="attacked", layer="representation"
)
BOTH = "natural_loss natural_accuracy adversarial_loss adversarial_accuracy"
OBJECTIVES: dict[str, tuple[Objective, int, str]] = {
    "standard": (Standard(), 1, "natural_loss natural_accuracy"),
    "adversarial": (objectives.Adversarial(), 1, "adversarial_loss adversarial_accuracy"),
    "consistency": (objectives.FeatureConsistency(), 2, f"{BOTH} distance"),
    "shared": (SHARED, 2, f"{BOTH} distance"),
    "trades": (objectives.Trades(), 2, f"{BOTH} divergence"),
    "unrelaxed": (objectives.Unrelaxed(), 3, f"{BOTH} distance"),
}


@pytest.mark.parametrize(("objective", "passes", "terms"), OBJECTIVES.values(), ids=OBJECTIVES)
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_every_objective_trains_in_both_precisions(objective, passes, terms, precision, tmp_path):
    weights = train(tmp_path, replace(SHORT, objective=objective, epochs=1, precision=precision))
    assert not same(weights, dict(classifier().state_dict()))
    assert all(tensor.isfinite().all() for tensor in weights.values())
    # batch normalization saw each of the 3 steps, and nothing of attacks and validation
    assert weights["network.1.num_batches_tracked"].item() == 3 * passes
    (row,) = metrics(tmp_path)
    assert {key[6:] for key in row if key.startswith("train_")} == set(terms.split())


PLAIN = {
    "sgd": Training(),
    "adam": Training(optimizer="adam", learning_rate=0.01, schedule="cosine"),
    "clipped and averaged": Training(
        nesterov=False, schedule="constant", clip=0.02, average=0.9, channels_last=False
    ),
}


@pytest.mark.parametrize("settings", PLAIN.values(), ids=PLAIN)
def test_a_run_equals_a_plain_loop(settings, tmp_path):
    """By another order of work: no channels last, torch's own schedulers' formulas.

    Both in float64: in float32 a ReLU near 0 may switch, and Adam divides gradients by their size.
    """
    watch, still = Watch(), Augmentation(crop=0, flip=False)
    settings = replace(settings, objective=watch, epochs=2, batch_size=16, validation=12, seed=5)
    train(tmp_path, replace(settings, augmentation=still), dtype=torch.float64)
    plain, state = classifier().double(), load_checkpoint(tmp_path / "last.pt")
    kind = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[settings.optimizer]
    extra = {"momentum": 0.9, "nesterov": settings.nesterov} if settings.optimizer == "sgd" else {}
    optimizer = kind(plain.parameters(), lr=1.0, weight_decay=5e-4, **extra)  # type: ignore[arg-type]
    average = copy.deepcopy(plain)
    losses, decay = [], settings.average or 0.0
    for step, chosen in enumerate(batch.ids for batch in watch.batches):
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
    expected = {"classifier": plain, "average": average} if decay else {"classifier": plain}
    for key, network in expected.items():
        wanted = dict(network.state_dict())
        torch.testing.assert_close(dict(state[key]), wanted, rtol=1e-9, atol=1e-12)
    for row, part in zip(metrics(tmp_path), (losses[:3], losses[3:]), strict=True):
        assert row["loss"] == pytest.approx(np.mean(part), rel=1e-6)  # terms are kept in float32
        assert row["train_natural_loss"] == row["loss"]


@pytest.mark.parametrize("average", [None, 0.5])
def test_validation_measures_what_is_kept(average, tmp_path):
    network = trained(tmp_path, replace(SHORT, epochs=1, average=average))
    held_out = images().subset(12, seed=0)
    pixels, labels = held_out.images(range(12)).float() / 255, held_out.labels
    with torch.no_grad():
        clean = network(pixels)
        ids, attack = held_out.positions, SHORT.validation_attack
        attacked = attack.outcomes(network, pixels, labels, ids=ids)
    (row,) = metrics(tmp_path)
    for name, logits in (("natural", clean), ("adversarial", attacked)):
        odds = logits.double().exp()
        likely = odds.gather(1, labels.unsqueeze(1)).squeeze(1) / odds.sum(dim=1)
        assert row[name] == (logits.argmax(dim=1) == labels).double().mean()
        assert row[f"{name}_loss"] == pytest.approx(-likely.log().mean().item(), rel=1e-5)


def test_streamed_images_train_as_resident_ones(whole, tmp_path, monkeypatch):
    streams: list[int] = []
    real = ArrayData.stream

    def stream(data: ArrayData, batches: Sequence[Sequence[int]]) -> Iterator[Tensor]:
        streams.append(len(batches))
        return real(data, batches)

    monkeypatch.setattr(images_module, "_memory", lambda device: 0)
    monkeypatch.setattr(ArrayData, "stream", stream)
    assert_ends_as(whole, tmp_path)
    # first two images to look at the model; an epoch's steps, its validation; never the whole set
    assert streams == [1, *[3, 1] * 6]


def test_images_larger_than_the_classifiers_are_cropped(tmp_path):
    large, watch = images(side=12), Watch()
    settings = replace(SHORT, epochs=1, objective=watch, augmentation=Augmentation(crop=0))
    network = trained(tmp_path, settings, large)
    assert {tuple(batch.images.shape[1:]) for batch in watch.batches} == {(3, 8, 8)}
    held_out = large.subset(12, seed=0)
    center = held_out.images(range(12))[:, :, 2:10, 2:10].float() / 255
    with torch.no_grad():
        right = (network(center).argmax(dim=1) == held_out.labels).double().mean().item()
    assert metrics(tmp_path)[0]["natural"] == right


def test_the_prepared_copy_has_the_weights_of_its_step(tmp_path):
    @dataclass(frozen=True)
    class Compare:
        def __call__(self, batch: TrainingBatch) -> Tensor:
            plain, prepared = copy.deepcopy(batch.network).eval(), batch.prepared()
            torch.testing.assert_close(prepared(batch.images), plain(batch.images))
            assert batch.prepared() is prepared
            return Standard()(batch)

    train(tmp_path, replace(SHORT, objective=Compare(), epochs=2))


@pytest.mark.filterwarnings(
    "ignore:Guards may run slower", "ignore:The .grad attribute of a Tensor"
)
def test_compiled_networks_train_the_same(whole, tmp_path, monkeypatch):
    """torch.compile is asked for the network; what it makes of it is its own affair."""
    compiled: list[nn.Module] = []
    real = torch.compile

    def eager(network: nn.Module) -> Any:
        compiled.append(network)
        return real(network, backend="eager")

    monkeypatch.setattr(torch, "compile", eager)
    weights = train(tmp_path, replace(SHORT, compile=True))
    assert len(compiled) == 1
    torch.testing.assert_close(weights, whole.weights)


def test_too_many_held_out_images_are_refused(tmp_path):
    with pytest.raises(SettingsError, match="none to train on"):
        train(tmp_path, Training(validation=60))
