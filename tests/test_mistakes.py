"""The usual mistakes: what tells them, just beyond its threshold, and when nothing is said."""

import copy
import itertools
import math
import re
from collections.abc import Callable

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from advlens import Classifier, ModelError, NumericError, load_model
from advlens.auditing import opening
from advlens.auditing.mistakes import (
    FEWEST,
    FirstNorm,
    Seen,
    assigned,
    guessing,
    mistakes,
    reordered,
)
from advlens.auditing.opening import looked_at
from advlens.auditing.subjects import Subject
from advlens.datasets import DataView, ImageData, load_data
from advlens.intervals import Z95
from advlens.prepared import prepare

SAMPLE = load_data("sample")
PACKAGED = ("cifar10-standard", "cifar10-l2", "cifar10-consistency", "cifar10-reference")
NORMALIZATIONS = {
    "none": (lambda n: Classifier(n, name="m"), r"variance is 0\.0\d+ .*without the normalization"),
    "twice": (lambda n: normalized(nn.Sequential(normalized(n))), r"variance is 1\d\.\d .*twice"),
    "to 255": (lambda n: normalized(n, 255.0), r"deviation 0\.00\d+ after .*scale of \[0, 1\]"),
    "none, for 1d": (lambda n: normalized(one_dimensional()), "statistics of a new .* in 1, its"),
}
ORDERS = {
    "one up": (lambda y: (y + 1) % 10, r"right on \d of 100 .* on 9\d if .* counted -1 from"),
    "one down": (lambda y: (y - 1) % 10, r"right on \d of 100 .* on 9\d if .* counted \+1 from"),
    "two exchanged": (
        lambda y: torch.tensor([0, 1, 2, 5, 4, 3, 6, 7, 8, 9])[y],
        "on 9. if its outputs have another order, such as '(cat' for images of 'dog|dog' .* 'cat)",
    ),
    "all": (lambda y: torch.randperm(10, generator=random(3))[y], "outputs have another order"),
    "at random": (
        lambda y: y[torch.randperm(100, generator=random(0))],
        r"of 100 images, where guessing gives 10.0% and up to 1\d.\d%,",
    ),
}
SURE = torch.eye(3).repeat(10, 1) * 9
"""Logits of 30 images, whose predictions are 0, 1, 2, 0 …"""
RIGHT = torch.arange(30) % 3
TWICE, WITHOUT = "as with images normalized twice", "as without the normalization"
NORMS = [(4.99, 1.99, ""), (1 / 4.99, 1.99, ""), (5.01, 0, TWICE), (1 / 5.01, 0, WITHOUT)]
WITHIN = [(50.0, 1.0), (0.0, 50.0), (0.0, 0.02), (0.0, 0.0)]
BEYOND = [(50.1, 1.0), (-50.1, 1.0), (0.0, 50.1), (0.0, 0.019)]


def random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def looked(model: Classifier, data: ImageData) -> Subject:
    subject = Subject(model.name, model, prepare(model))
    subject.data = data
    return subject


def warnings(model: Classifier, data: ImageData) -> list[str]:
    """But for what the prepared copy says of the model."""
    subject = looked(model, data)
    found = looked_at(subject, batch_size=64, seed=0)
    return [text for text in found if text not in subject.prepared.notes]


def relabeled(change: Callable[[Tensor], Tensor], count: int = 100) -> ImageData:
    data = SAMPLE.subset(count, seed=0)
    return DataView(data, positions=torch.arange(count), labels=change(data.labels))


class Behind(nn.Module):
    """A packaged network with something done to its logits."""

    def __init__(self, change: Callable[[Tensor], Tensor]):
        super().__init__()
        self.network, self.change = load_model("cifar10-standard").network, change

    def forward(self, images: Tensor) -> Tensor:
        return self.change(self.network(images))


def normalized(network: nn.Module, scale: float = 1.0) -> Classifier:
    model = load_model("cifar10-standard")
    numbers = {name: (scale * getattr(model, name)).flatten().tolist() for name in ("mean", "std")}
    sizes = {"image_size": 32, "resize": 32}
    return Classifier(network, name="m", classes=model.classes, **sizes, **numbers)


def one_dimensional() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(3072), nn.Linear(3072, 10))


def test_guessing_equals_all_deals_of_the_predictions():
    labels, predicted = torch.tensor([0, 0, 0, 1, 1, 2]), torch.tensor([0, 1, 1, 1, 3, 2])
    deals = itertools.permutations(range(6))
    shares = [float((labels == predicted[[*deal]]).sum()) / 6 for deal in deals]
    mean = math.fsum(shares) / len(shares)
    spread = math.sqrt(math.fsum((share - mean) ** 2 for share in shares) / len(shares))
    assert guessing(predicted, labels, 4) == pytest.approx((mean, mean + Z95 * spread), rel=1e-12)
    labels, zeros = torch.tensor([0] * 90 + [1] * 10), torch.zeros(100, dtype=torch.int64)
    assert guessing(zeros, labels, 2) == pytest.approx((0.9, 0.9), rel=1e-12)
    one_class = (0.2, 0.2 + Z95 * math.sqrt(0.2 * 0.8 / 25))
    assert guessing(zeros[:25], zeros[:25], 5) == pytest.approx(one_class, rel=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_a_good_model_is_the_best_one(seed):
    labels = torch.randint(7, (200,), generator=random(seed))
    order = torch.randperm(7, generator=random(seed + 50))
    noisy = torch.rand(200, generator=random(seed)) < 0.2
    drawn = torch.randint(7, (200,), generator=random(seed + 99))
    predicted, table = torch.where(noisy, drawn, order[labels]), torch.zeros(7, 7)
    for label, output in zip(labels.tolist(), predicted.tolist(), strict=True):
        table[label, output] += 1
    _, best = linear_sum_assignment(table.numpy(), maximize=True)
    assert assigned(predicted, labels, 7).tolist() == best.tolist() == order.tolist()


def test_an_order_is_counted_on_images_that_it_is_not_from():
    labels = torch.randint(6, (150,), generator=random(0))
    predicted = torch.randint(6, (150,), generator=random(1))
    halves: dict[int, list[int]] = {0: [], 1: []}
    for place, image in enumerate(sorted(range(150), key=lambda i: (int(labels[i]), i))):
        halves[place % 2].append(image)
    expected = 0
    for fitted, held in ((0, 1), (1, 0)):
        order = assigned(predicted[halves[fitted]], labels[halves[fitted]], 6)
        expected += sum(int(order[labels[i]]) == int(predicted[i]) for i in halves[held])
    assert reordered(predicted, labels, 6).right == expected < 50
    on_all = assigned(predicted, labels, 6)  # fitted to its own images, noise looks like an order
    assert int((on_all[labels] == predicted).sum()) > expected


@pytest.mark.parametrize("shift", [1, -1, 4])
def test_a_shift_is_named(shift):
    labels = torch.arange(40) % 10
    found = reordered((labels + shift) % 10, labels, 10)
    assert (found.right, found.shift) == (40, shift)


@pytest.mark.parametrize("count", [1, 20, 120])
@pytest.mark.parametrize("name", PACKAGED)
def test_nothing_is_said_of_the_packaged_models(name, count):
    assert warnings(load_model(name), SAMPLE.subset(count, seed=count)) == []


def test_nothing_is_said_of_weak_models_with_equal_and_unequal_classes():
    often_wrong = Behind(lambda logits: logits + 10 * torch.sin(1000 * logits))
    assert warnings(normalized(often_wrong), SAMPLE.subset(100, seed=0)) == []
    cats, dogs = ((SAMPLE.labels == c).nonzero()[:100, 0].tolist() for c in (3, 5))
    assert warnings(load_model("cifar10-l2"), SAMPLE.part([*cats, *dogs[:3]])) == []
    assert warnings(load_model("cifar10-l2"), SAMPLE.part(cats)) == []


@pytest.mark.parametrize("case", ORDERS)
def test_labels_in_another_order(case):
    change, said = ORDERS[case]
    (sentence,) = warnings(load_model("cifar10-standard"), relabeled(change))
    assert sentence.startswith("cifar10-standard is right on ")
    assert re.search(said, sentence)


@pytest.mark.parametrize("case", NORMALIZATIONS)
def test_normalization_that_is_not_that_of_the_training(case):
    make, said = NORMALIZATIONS[case]
    first = warnings(make(load_model("cifar10-standard").network), SAMPLE.subset(60, seed=0))[0]
    assert re.search(said, first)


def test_the_statistics_at_the_first_batch_normalization():
    model, data = load_model("cifar10-standard"), SAMPLE.subset(40, seed=0)
    pixels = data.images(range(40)).double() / 255
    first, norm = copy.deepcopy(model.network.conv1).double(), model.network.bn1
    with torch.no_grad():
        maps = first((pixels - model.mean.double()) / model.std.double())
    ratios, off = [], []
    for channel in range(32):
        values = maps[:, channel].flatten()
        mean = float(values.sum()) / len(values)
        known, spread = float(norm.running_mean[channel]), float(norm.running_var[channel])
        ratios.append(float(((values - mean) ** 2).sum()) / len(values) / spread)
        off.append(abs(mean - known) / spread**0.5)
    watched = opening._Watched(model, prepare(model))
    with torch.no_grad():
        seen = watched.look((batch.images for batch in data.batches(16)), data.labels).norm
    assert (seen.layer, seen.fresh) == ("bn1", False)
    # sums of squares in float64 of float32 values: their rounding is all that differs
    assert seen.variance == pytest.approx(sorted(ratios)[15], rel=1e-4)
    assert seen.off == pytest.approx(sorted(off)[15], abs=1e-4)


class Stuck(Behind):
    """Stays in training mode."""

    def train(self, mode: bool = True) -> "Stuck":
        super().train(True)
        return self


def without_running_statistics() -> nn.Module:
    network = load_model("cifar10-standard").network
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean = module.running_var = None
            module.track_running_stats = False
    return network


DEPENDENT = {
    "training": lambda: Stuck(nn.Identity()),
    "no statistics": without_running_statistics,
    "centered": lambda: Behind(lambda logits: logits - logits.mean(dim=0)),
}


@pytest.mark.parametrize("make", DEPENDENT.values(), ids=DEPENDENT)
def test_answers_that_depend_on_the_batch(make):
    found = looked_at(looked(normalized(make()), SAMPLE.subset(60, seed=0)), 64, 0)
    assert "m returns for an image depends on the other images of its batch" in found[0]


def test_new_weights_are_guessing():
    first, second = warnings(load_model("resnet20"), SAMPLE.subset(40, seed=0))
    assert "has the statistics of a new layer (mean 0, variance 1) in bn1, its first" in first
    assert re.search("right on .* of 40 images, where guessing gives", second)


def test_the_model_comes_back_as_it_was_given():
    model = load_model("cifar10-standard").train()
    model.network.layer1.eval()
    before = [module.training for module in model.modules()]
    hooks = [len(module._forward_pre_hooks) for module in model.modules()]
    state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    warnings(model, SAMPLE.subset(30, seed=0))
    assert [module.training for module in model.modules()] == before
    assert [len(module._forward_pre_hooks) for module in model.modules()] == hooks
    assert all(torch.equal(state[key], tensor) for key, tensor in model.state_dict().items())


def test_a_model_of_one_batch_size_is_looked_at_and_one_that_fails_is_one_sentence():
    def of_one_size(logits: Tensor) -> Tensor:
        if len(logits) != 64:
            raise ValueError("batches of 64 only")
        return logits

    (sentence,) = warnings(normalized(Behind(of_one_size)), relabeled(lambda y: (y + 1) % 10, 100))
    assert "counted -1 from the labels" in sentence

    def fail(logits: Tensor) -> Tensor:
        raise IndexError("of 7")

    with pytest.raises(ModelError, match=r"fails on .*IndexError: of 7"):
        warnings(normalized(Behind(fail)), SAMPLE.subset(30, seed=0))
    with pytest.raises(NumericError, match="NaN"):
        warnings(normalized(Behind(lambda logits: logits / 0 * 0)), SAMPLE.subset(30, seed=0))


def said(logits=SURE, labels=None, norm=None, means=(0.1, -0.2, 0.3), deviations=(1.1, 0.9, 1.0)):
    """All sentences, nothing where nothing is a mistake."""
    seen = Seen(logits=logits, labels=labels, norm=norm, means=means, deviations=deviations)
    return " ".join(mistakes("m", ["a", "b", "c"], seen))


@pytest.mark.parametrize(("variance", "off", "cause"), [*NORMS, (1.0, 2.01, TWICE)])
def test_variances_five_times_apart_or_means_two_deviations_off(variance, off, cause) -> None:
    text = said(norm=FirstNorm("bn", False, variance, off))
    assert cause in text
    assert bool(text) == bool(cause)


@pytest.mark.parametrize(("mean", "deviation"), WITHIN + BEYOND)
def test_the_scale_of_normalized_pixels(mean: float, deviation: float) -> None:
    text = said(means=(0.0, mean, 0.0), deviations=(0.0, deviation, 0.0))
    assert ("on the scale of [0, 1]" in text) == ((mean, deviation) in BEYOND)


@pytest.mark.parametrize("count", [FEWEST - 1, FEWEST])
def test_fewer_than_twenty_images_are_not_judged(count: int) -> None:
    """Each class is taken for the next one, which 6 images of each show as well as 20 in all."""
    assert FEWEST == 20
    text = said(SURE[:count], (RIGHT[:count] + 1) % 3)
    assert ("counted -1 from the labels" in text) == (count == FEWEST)


def rows(*values: float) -> Tensor:
    return torch.tensor([values] * 30, dtype=torch.float64)


SUMS, RANGE = "that sum to 1, which are not logits", "values from 0 to 1, which are not logits"
LOGARITHMS = {f: rows(*(math.log(f * p) for p in (0.7, 0.2, 0.1))) for f in (1, 1.009, 1.011)}
PROBABILITIES = [
    *((rows(0.5, 0.2, 0.3), SUMS), (rows(0.5, 0.2, 0.309), SUMS)),
    *((rows(0.5, 0.2, 0.311), RANGE), (rows(1.0, 0.9, 0.0), RANGE)),
    (rows(0.49, 0.21, 0.3), ""),  # the logits of new weights may be so small
    *((rows(1.00001, 0.0, 0.0), ""), (rows(0.9, -0.00001, 0.1), "")),
    *((LOGARITHMS[factor], "returns log-probabilities") for factor in (1, 1.009)),
    (LOGARITHMS[1.011], ""),
]


@pytest.mark.parametrize(("logits", "words"), PROBABILITIES)
def test_what_passes_as_probabilities(logits: Tensor, words: str) -> None:
    text = said(logits)
    assert words in text
    assert bool(text) == bool(words)


@pytest.mark.parametrize(("right", "guesses"), [(15, True), (16, False)])
def test_beyond_the_range_of_guessing(right: int, guesses: bool) -> None:
    """All deals of 30 predictions, about 10 of each class, to 10 images of each.

    The number that is right has the mean 10 and the variance
    (300 − 3·100·20/30 + 10²) / 29 = 200/29, so guessing reaches up to 10 + 1.96·2.63 = 15.15.
    """
    shift = torch.zeros(30, dtype=torch.int64)
    # the others are wrong in turns, half up, half down, so that no other order of outputs fits
    wrong = 30 - right
    shift[:wrong] = 1 + torch.arange(wrong) // 3 % 2
    labels, predicted = RIGHT, (RIGHT + shift) % 3
    text = said(torch.nn.functional.one_hot(predicted, 3) * 9.0, labels)
    assert ("guessing gives" in text) == guesses


def test_neither_no_mistake_nor_a_constant_answer_is_another_order():
    """24 of 30 images are of class 0 and all are taken for class 1: 24 would be right as 0."""
    labels = torch.tensor([0] * 24 + [1] * 6)
    text = said(SURE[1].expand(30, 3), labels)
    assert "guessing gives" in text
    assert "if its outputs" not in text
    assert assigned(torch.ones_like(labels), labels, 3).tolist() == [1, 0, 2]
    assert said(labels=RIGHT, norm=FirstNorm("bn", False, 1.0, 0.0)) == ""
