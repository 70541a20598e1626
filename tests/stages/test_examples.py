"""The images that an audit shows beside their adversarial twins: which ones, and their pictures."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from advlens import L2, AuditSettings, Classifier, Linf, Pgd
from advlens.auditing.stages.accuracy.examples import amplification, chosen
from advlens.auditing.stages.accuracy.predictions import Predictions
from advlens.datasets import ArrayData
from advlens.prepared import prepare
from small_runs import audited, convolution, noise, rows, small

CLASSES = ("cat", "dog", "ship", "frog", "deer", "horse", "bird")
N, SHOWN = 80, 5
KINDS = ("shared", "fooled", "error", "least robust", "most robust")


def settings(**more) -> AuditSettings:
    few = {"stages": ("accuracy",), "steps": 3, "batch_size": 16, "device": "cpu", "seed": 3}
    return AuditSettings(**few | {"shown": SHOWN} | more)


def classifier(seed: int) -> Classifier:
    def make() -> nn.Module:
        network = convolution(8, 2, 7)
        network[-1].weight.data *= 40
        with torch.no_grad():
            network[-1].bias.data -= network(noise(N).images(range(N)) / 255).mean(dim=0)
        return network

    return small(make, f"tiny{seed}", classes=CLASSES, seed=seed)


def images() -> ArrayData:
    """Labels that one of the two models predicts, or the other."""
    with torch.no_grad():
        pixels = noise(N).images(range(N)) / 255
        one, two = (classifier(seed)(pixels).argmax(dim=1) for seed in (0, 1))
    return noise(N, CLASSES, labels=torch.where(torch.arange(N) % 2 == 0, one, two))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    models = [classifier(0), classifier(1)]
    asked = settings(epsilon_linf=2 / 255)
    return audited(models, images(), tmp_path_factory.mktemp("run"), settings=asked)


def seen(seed: int) -> tuple[list[int], list[list[float]], list[list[float]], torch.Tensor]:
    """Labels, logits before and under the attack, and the change of each image."""
    data, prepared = images(), prepare(classifier(seed))
    attack = Pgd(threat=Linf(epsilon=2 / 255), steps=3, seed=3)
    pixels = data.images(range(N)).float() / 255
    attacked = attack(prepared, pixels, data.labels)
    with torch.no_grad():
        before, after = (prepared(each).double().tolist() for each in (pixels, attacked))
    return data.labels.tolist(), before, after, attacked - pixels


def best(scores: list[float]) -> int:
    return max(range(len(scores)), key=scores.__getitem__)


def certain(scores: list[float]) -> float:
    return 1 / math.fsum(math.exp(score - max(scores)) for score in scores)


def odds(scores: list[float], label: int) -> float:
    """log (1 − p) / p of the label's probability p."""
    others = [math.exp(score - scores[label]) for c, score in enumerate(scores) if c != label]
    return math.log(math.fsum(others))


def ids(run: Path, model: str, kind: str) -> list[int]:
    return [int(r["id"]) for r in rows(run, "examples") if (r["model"], r["kind"]) == (model, kind)]


@pytest.mark.parametrize("seed", [0, 1])
def test_which_images_are_shown_is_a_rule(run, seed):
    labels, before, after, _ = seen(seed)
    model = f"tiny{seed}"
    right = [i for i in range(N) if best(before[i]) == labels[i]]
    fooled = [i for i in right if best(after[i]) != labels[i]]
    order = torch.randperm(N, generator=torch.Generator().manual_seed(3)).tolist()
    assert SHOWN < len(fooled) < len(right) < N - SHOWN
    assert ids(run, model, "shared") == order[:16]
    assert ids(run, model, "fooled") == [i for i in order if i in fooled][:SHOWN]
    wrong = sorted({*range(N)} - {*right}, key=lambda i: -certain(before[i]))
    assert ids(run, model, "error") == wrong[:SHOWN]
    robust = sorted(right, key=lambda i: odds(after[i], labels[i]))
    assert ids(run, model, "most robust") == robust[:SHOWN]
    assert ids(run, model, "least robust") == robust[: -SHOWN - 1 : -1]


def test_images_that_fool_all_models_are_shown_of_each():
    """The rule knows no model: of two that are fooled alike it chooses the same."""
    labels = torch.arange(30) % 7
    one, two = Predictions(2, 30), Predictions(2, 30)
    for seen, wrong in ((one, 1), (two, 2)):
        seen.predicted[0], seen.predicted[1] = labels, labels + wrong
        seen.odds[1] = torch.arange(30.0) * wrong
    first, second = (chosen(each, 1, labels, 6, seed=1) for each in (one, two))
    assert first["fooled"] == second["fooled"] != chosen(one, 1, labels, 6, seed=2)["fooled"]
    assert first["error"] == []
    assert first["least robust"] == [29, 28, 27, 26, 25, 24]


def test_a_row_says_what_is_predicted_and_how_far_the_image_was_moved(run):
    for row in rows(run, "examples"):
        labels, before, after, change = seen(int(row["model"][-1]))
        image = int(row["id"])
        assert row["label"] == CLASSES[labels[image]]
        for scores, name, sure in (
            (before[image], "predicted", "confidence"),
            (after[image], "attacked_as", "attacked_confidence"),
        ):
            assert row[name] == CLASSES[best(scores)]
            assert float(row[sure]) == pytest.approx(certain(scores), abs=2e-6)
        assert float(row["distance"]) == pytest.approx(change[image].abs().max().item(), abs=1e-6)
        assert (row["attack"], row["norm"], row["factor"]) == ("Pgd", "Linf", "31")  # ⌊255 / 8⌋


def test_the_pictures_are_the_images_and_the_amplified_difference(run):
    data = images()
    for row in rows(run, "examples")[:: SHOWN - 1]:
        image = int(row["id"])
        _, _, _, change = seen(int(row["model"][-1]))
        natural, attacked, difference = (
            np.asarray(Image.open(run / row[name])).astype(float).transpose(2, 0, 1)
            for name in ("natural", "attacked", "difference")
        )
        assert np.array_equal(natural, data.images([image])[0].numpy())
        moved = 255 * change[image].double().numpy()
        assert np.abs(attacked - (natural + moved)).max() <= 0.51
        assert np.abs(difference - np.clip(127.5 + 31 * moved, 0, 255)).max() <= 0.51
        assert difference.min() >= 0.5 * 255 - 127  # nothing is cut
        assert np.ptp(difference) > 100


@pytest.mark.parametrize(
    ("more", "norms"),
    [
        ({"norm": ("L2",), "epsilon": (0.1, 0.2)}, {("L2", "0.2", "6")}),
        ({"norm": ("L2",), "attack": ("foolbox:LinfPGD(epsilon=.01, steps=3)",)}, {"L2"}),
        ({"steps": 1}, set()),
        ({"natural": True}, set()),
    ],
    ids=["L2", "only ours", "one step", "no attack"],
)
def test_the_attack_is_ours_iterated_and_in_the_usual_norm(more, norms, tmp_path):
    audited(classifier(0), images(), tmp_path, settings=settings(**more))
    if not norms:
        assert not (tmp_path / "results" / "examples.csv").exists()
        return
    found = {(row["norm"], row["epsilon"], row["factor"]) for row in rows(tmp_path, "examples")}
    assert norms in (found, {norm for norm, *_ in found})
    assert {row["kind"] for row in rows(tmp_path, "examples")} == {*KINDS}


def test_a_difference_is_amplified_by_a_whole_number():
    small_ones, large = torch.zeros(1, 3, 32, 32), torch.zeros(1, 3, 224, 224)
    assert amplification(Linf(epsilon=8 / 255), small_ones) == 7
    assert amplification(L2(epsilon=0.5), small_ones) == 6  # .5 √3072 / (8 · .5)
    assert amplification(L2(epsilon=3.0), large) == 8
    assert amplification(Linf(epsilon=0.9), large) == 1
    assert amplification(Linf(epsilon=1e-6), large) == 127
