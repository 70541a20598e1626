"""How often the report's intervals hold the truth, and how often its tests find a difference.

    python benchmarks/intervals.py --repeats 1000

Samples are drawn from populations whose values are known. A 95 % interval should hold the truth in
93 to 98 % of the draws. "Found" is the share of draws in which a difference is established by the
paired test at p < .05, and in which the intervals of the two values are disjoint.
"""

import argparse
from collections.abc import Callable, Iterator

import numpy as np
import torch

from advlens.consistency import (
    Composition,
    LayerConsistency,
    class_counts,
    layer_consistency,
    level,
)
from advlens.intervals import (
    mcnemar,
    mean_interval,
    median_interval,
    paired_interval,
    paired_jackknife,
    paired_mean,
    wilson,
)
from advlens.statistics import TopK
from advlens.wordnet import CIFAR10_SYNSETS, similarity_matrix

Draw = tuple[bool, bool | None, bool | None]
"""Whether the interval holds the truth, and whether the paired test and the intervals decide."""
C = torch.from_numpy(similarity_matrix(tuple(CIFAR10_SYNSETS.values())))
CLASSES, UNITS, POPULATION = len(C), 16, 100_000


def _holds(interval: tuple[float, float | None, float | None], truth: float) -> bool:
    _, low, high = interval
    return low is not None and high is not None and low <= truth <= high


def share(n: int, p: float) -> Callable[[np.random.Generator], Draw]:
    """A share of n images, such as an accuracy."""

    def draw(random: np.random.Generator) -> Draw:
        low, high = wilson(int(random.binomial(n, p)), n)
        return low <= p <= high, None, None

    return draw


def mean(n: int) -> Callable[[np.random.Generator], Draw]:
    """The mean of a skewed measure of n images (a gamma distribution of shape 4)."""

    def draw(random: np.random.Generator) -> Draw:
        return _holds(mean_interval(random.gamma(4, size=n).tolist()), 4), None, None

    return draw


def median(n: int) -> Callable[[np.random.Generator], Draw]:
    """The median of n completeness gaps (an exponential distribution)."""

    def draw(random: np.random.Generator) -> Draw:
        values = random.exponential(size=n).tolist()
        return _holds(median_interval(values), float(np.log(2))), None, None

    return draw


def shares(n: int, cells: tuple[float, ...]) -> Callable[[np.random.Generator], Draw]:
    """Two models on the same n images: both right, only the first, only the second, neither."""

    def draw(random: np.random.Generator) -> Draw:
        both, first, second, neither = map(int, random.multinomial(n, cells))
        low, high = paired_interval(both, first, second, neither)
        one, two = wilson(both + first, n), wilson(both + second, n)
        apart = one[0] > two[1] or two[0] > one[1]
        return low <= cells[1] - cells[2] <= high, mcnemar(first, second) < 0.05, apart

    return draw


def means(n: int, difference: float) -> Callable[[np.random.Generator], Draw]:
    """A measure of n images by two models; what is common to both is as large as what is not."""

    def draw(random: np.random.Generator) -> Draw:
        common = random.normal(size=n)
        one, two = (common + random.normal(size=n) for _ in range(2))
        one = one + difference
        _, low, high, p = paired_mean((one - two).tolist())
        (_, *first), (_, *second) = mean_interval(one.tolist()), mean_interval(two.tolist())
        return low <= difference <= high, p < 0.05, first[0] > second[1] or second[0] > first[1]

    return draw


class Responses:
    """A population of images, and the units' responses to them before and after an attack."""

    def __init__(self, strength: float):
        random = np.random.default_rng(0)
        self.labels = random.integers(0, CLASSES, POPULATION)
        wanted = random.normal(size=(UNITS, CLASSES))
        noise, other = random.normal(size=(2, POPULATION, UNITS))
        self.real = wanted.T[self.labels] + noise
        mixed = np.sqrt(1 - strength**2) * noise + strength * other
        self.attacked = (1 - strength) * wanted.T[self.labels] + mixed

    def level(self, responses: np.ndarray) -> float:
        """The mean LC of the population's top images, without the bias of k images."""
        top = np.argsort(-responses, axis=0)[: POPULATION // 100].T
        k = top.shape[1]
        values = level(Composition.of(class_counts(torch.from_numpy(self.labels[top]), CLASSES), C))
        return float(((k * values - 1) / (k - 1)).mean())


def consistency(n: int, strength: float) -> Callable[[np.random.Generator], Draw]:
    """consis_adv less LC of 1 % of n images."""
    population = Responses(strength)
    truth = population.level(population.attacked) - population.level(population.real)

    def draw(random: np.random.Generator) -> Draw:
        images = random.choice(POPULATION, n, replace=False)
        labels = torch.from_numpy(population.labels[images])
        layer = measured(population.real[images], population.attacked[images], labels)
        real, attacked = layer.intervals["lc"], layer.intervals["consis_adv"]
        influences = [layer.influences[name].tolist() for name in ("consis_adv", "lc")]
        difference = attacked.corrected - real.corrected
        low, high, p = paired_jackknife(difference, *influences, layer.top)
        apart = attacked.high < real.low or real.high < attacked.low
        return low <= truth <= high, p < 0.05, apart

    return draw


def measured(real: np.ndarray, attacked: np.ndarray, labels: torch.Tensor) -> LayerConsistency:
    """The measures of a sample's top images."""
    tops = []
    for responses in (real, attacked):
        top = TopK(max(2, round(len(labels) / 100)), UNITS)
        top.update(torch.from_numpy(responses).float() + 10, torch.arange(len(labels)))
        tops.append(top)
    return layer_consistency(*tops, labels, labels, C)


def cases() -> Iterator[tuple[str, Callable[[np.random.Generator], Draw]]]:
    """What the report says, in the sizes of the demo and of a whole test set."""
    yield "accuracy .91, n = 500", share(500, 0.91)
    yield "accuracy .01, n = 500", share(500, 0.01)
    yield "mean over images, n = 16", mean(16)
    yield "median gap, n = 6", median(6)
    yield "median gap, n = 16", median(16)
    yield "accuracies .91 and .85, n = 500", shares(500, (0.83, 0.08, 0.02, 0.07))
    yield "accuracies .60 and .58, n = 2000", shares(2000, (0.55, 0.05, 0.03, 0.37))
    yield "equal accuracies, n = 500", shares(500, (0.83, 0.04, 0.04, 0.09))
    yield "attributions of two models, 1 apart, n = 16", means(16, 1.0)
    yield "equal attributions, n = 16", means(16, 0.0)
    yield "consistency under a weak attack, n = 2000", consistency(2000, 0.1)
    yield "consistency under a strong attack, n = 2000", consistency(2000, 0.5)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=1000)
    repeats = parser.parse_args().repeats
    print("| what | holds the truth | found, paired | found, disjoint |\n| --- | --- | --- | --- |")
    for name, draw in cases():
        random = np.random.default_rng(1)
        draws = zip(*(draw(random) for _ in range(repeats)), strict=True)
        cells = ["–" if None in each else f"{np.mean(each):.3f}" for each in draws]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
