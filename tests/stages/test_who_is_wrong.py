"""Who is wrong, and how: classes, confusions and calibration, each beside a count by hand."""

import math
from collections import Counter

import pytest
import torch
from torch import nn

from advlens import L2, AuditSettings, Classifier, Linf, Pgd
from advlens.auditing.stages.accuracy.predictions import UNSEEN, Predictions
from advlens.datasets import ArrayData
from advlens.intervals import wilson
from advlens.losses import log_odds
from advlens.prepared import prepare
from small_runs import audited, convolution, noise, rows, small

SEVEN = ("cat", "dog", "ship", "frog", "deer", "horse", "bird")
SETTINGS = AuditSettings(
    **{"stages": ("accuracy",), "steps": 3, "epsilon": (0.25, 0.5), "epsilon_linf": 2 / 255},
    **{"batch_size": 16, "device": "cpu"},
)
ATTACKS = {
    "natural": None,
    "Linf": Pgd(threat=Linf(epsilon=2 / 255), steps=3),
    "L2": Pgd(threat=L2(epsilon=0.5), steps=3),  # of two radii the one that leaves less
}
N = 60


def classifier(classes: tuple[str, ...]) -> Classifier:
    def make() -> nn.Module:
        network = convolution(8, 2, len(classes))
        network[-1].weight.data *= 40  # so that confidences fill many bins, and all classes occur
        with torch.no_grad():
            network[-1].bias.data -= network(noise(N).images(range(N)) / 255).mean(dim=0)
        return network

    return small(make, classes=classes)


def images(classes: tuple[str, ...]) -> ArrayData:
    """Images of which three quarters have the label that is predicted, none of them a dog."""
    with torch.no_grad():
        labels = classifier(classes)(noise(N).images(range(N)) / 255).argmax(dim=1)
    labels[::4] = (labels[::4] + 1) % len(classes)
    labels[labels == 1] = 2
    return noise(N, classes, labels=labels)


@pytest.fixture(scope="module", params=[SEVEN, SEVEN[:3]], ids=["seven classes", "three classes"])
def made(request, tmp_path_factory):
    """The classes, the run, and for each attack labels, logits, and the natural logits."""
    classes = request.param
    model, data = classifier(classes), images(classes)
    run = audited(model, data, tmp_path_factory.mktemp("run"), settings=SETTINGS)
    prepared, logits = prepare(model), {}
    with torch.no_grad():
        for name, attack in ATTACKS.items():
            parts = [
                prepared(
                    b.images if attack is None else attack(prepared, b.images, b.labels, ids=b.ids)
                )
                for b in data.batches(16)
            ]
            logits[name] = torch.cat(parts).double().tolist()
    return classes, run, data.labels.tolist(), logits


def best(scores: list[float]) -> int:
    return max(range(len(scores)), key=scores.__getitem__)


def certain(scores: list[float]) -> float:
    return 1 / math.fsum(math.exp(score - max(scores)) for score in scores)


def found(run, table: str, name: str) -> list[dict[str, str]]:
    return [row for row in rows(run, table) if (row["norm"] or "natural") == name]


@pytest.mark.parametrize("name", ATTACKS)
def test_each_class_has_its_accuracy(made, name):
    classes, run, labels, logits = made
    assert {row["epsilon"] for row in rows(run, "class_accuracy") if row["norm"] == "L2"} == {"0.5"}
    total = 0
    for row in found(run, "class_accuracy", name):
        label = classes.index(row["class"])
        mine = [i for i in range(N) if labels[i] == label]
        natural = [i for i in mine if best(logits["natural"][i]) == label]
        right = [i for i in natural if best(logits[name][i]) == label]
        assert (int(row["right"]), int(row["n"])) == (len(right), len(mine))
        ends = wilson(len(right), len(mine))
        assert [float(row["low"]), float(row["high"])] == pytest.approx(ends, abs=1e-6)
        total += len(right)
    assert {row["class"] for row in found(run, "class_accuracy", name)} == {*classes} - {"dog"}
    (whole,) = [
        r for r in found(run, "accuracy", name) if r["attack"] != "Fgsm" and r["epsilon"] != "0.25"
    ]
    assert total == pytest.approx(N * float(whole["top1"]), abs=1e-3)


@pytest.mark.parametrize("name", ATTACKS)
def test_confusions_are_all_pairs_that_occur(made, name):
    classes, run, labels, logits = made
    pairs = [
        (classes[label], classes[best(z)]) for label, z in zip(labels, logits[name], strict=True)
    ]
    cells = {(r["label"], r["predicted"]): int(r["count"]) for r in found(run, "confusion", name)}
    assert cells == Counter(pairs)
    assert any(label != guess for label, guess in cells)


@pytest.mark.parametrize("name", ATTACKS)
def test_calibration_is_that_of_a_loop_over_images(made, name):
    _, run, labels, logits = made
    bins: dict[int, list[tuple[float, bool]]] = {}
    for label, scores in zip(labels, logits[name], strict=True):
        number = next(m for m in range(1, 16) if certain(scores) <= m / 15)
        bins.setdefault(number, []).append((certain(scores), best(scores) == label))
    table = {int(row["bin"]): row for row in found(run, "calibration", name)}
    assert table.keys() == bins.keys()
    assert len(bins) > 3
    error = 0.0
    for number, each in bins.items():
        confidence = math.fsum(c for c, _ in each) / len(each)
        accuracy = sum(right for _, right in each) / len(each)
        row, n = table[number], len(each)
        assert int(row["n"]) == n
        assert float(row["confidence"]) == pytest.approx(confidence, abs=2e-6)
        assert float(row["accuracy"]) == pytest.approx(accuracy, abs=1e-6)
        ends = wilson(accuracy * n, n)
        assert [float(row["low"]), float(row["high"])] == pytest.approx(ends, abs=1e-6)
        error += n / N * abs(accuracy - confidence)
    (row,) = found(run, "calibration_error", name)
    assert float(row["ece"]) == pytest.approx(error, abs=2e-6)
    means = [(certain(z), best(z) == y) for y, z in zip(labels, logits[name], strict=True)]
    for column, values in zip(("confidence", "accuracy"), zip(*means, strict=True), strict=True):
        assert float(row[column]) == pytest.approx(math.fsum(values) / N, abs=2e-6)


def test_nothing_else_is_computed_for_it(made, tmp_path, monkeypatch):
    """A forward pass of natural images, and for each attack its own and a look at the result."""
    classes, _, _, _ = made
    seen, kind = 0, type(prepare(classifier(classes)))
    monkeypatch.setattr("advlens.auditing.looked_at", lambda *_: [])
    monkeypatch.setattr("advlens.auditing.forecasting._seconds", lambda *_: 1.0)

    def counted(self, pixels):
        nonlocal seen
        seen += len(pixels)
        return call(self, pixels)

    call = kind.forward
    monkeypatch.setattr(kind, "forward", counted)
    asked = AuditSettings(
        **{"stages": ("accuracy",), "norm": ("L2",), "fgsm": (), "steps": 3, "shown": 1},
        **{"batch_size": 60, "device": "cpu"},
    )
    audited(classifier(classes), images(classes), tmp_path, settings=asked)
    ids = {row["id"] for row in rows(tmp_path, "examples")}
    assert seen == N + (3 + 1 + 1) * N + (3 + 1) * len(ids)  # the examples are attacked again


def test_predictions_merge_and_go_on_as_if_seen_at_once():
    random = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(2, 9, 4, generator=random), torch.arange(9) % 4
    whole, first, second = (Predictions(2, 9) for _ in range(3))
    for attack in range(2):
        for part, ids in ((first, torch.arange(0, 9, 2)), (second, torch.arange(1, 9, 2))):
            for seen in (whole, part):
                seen.take(attack, ids, logits[attack, ids], labels[ids])
    assert int((first.predicted == UNSEEN).sum()) == 8
    restored = Predictions(2, 9)
    restored.restore({key: value.clone() for key, value in first.state().items()}, 4)
    restored.merge(second)
    for key, value in whole.state().items():
        assert torch.equal(restored.state()[key], value)
    assert torch.allclose(whole.odds[1], log_odds(logits[1], labels))
    assert whole.right(labels).tolist() == [
        [bool(natural == label) for natural, label in zip(whole.predicted[0], labels, strict=True)],
        [bool(n == a == label) for n, a, label in zip(*whole.predicted, labels, strict=True)],
    ]
    for name, value in (("predicted", 4), ("predicted", -2), ("confidence", 1.5)):
        state = {key: tensor.clone() for key, tensor in whole.state().items()}
        state[f"accuracy.{name}"][0, 3] = value
        with pytest.raises(ValueError, match="are not classes with a confidence from 0 to 1"):
            Predictions(2, 9).restore(state, 4)
