"""Common mistakes with a model and its images: how each is detected and reported.

A warning gives the measured number, what it means and how to fix it. Small samples prove little: no
accuracy or mean over fewer than `FEWEST` images is judged.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Int64
from torch import Tensor

from advlens.arrays import Labels, Logits
from advlens.intervals import Z95, wilson
from advlens.words import Estimate, number, percent

FEWEST = 20
MOST_APART = 5.0
"""Largest factor between two variances that is not reported: dark, gray and noisy images stay below
4 at the first batch normalization; images that are not normalized have 16."""
MOST_OFF = 2.0
"""Largest distance between two means that is not reported, in standard deviations."""


@dataclass(frozen=True)
class FirstNorm:
    """The input of the first batch normalization compared with its learned statistics.

    Attributes:
        layer: the layer's name.
        fresh: whether it has the statistics of an untrained layer.
        variance: measured / learned, the median over channels.
        off: |measured mean − learned mean| in learned standard deviations, the median over
            channels.
    """

    layer: str
    fresh: bool
    variance: float
    off: float


@dataclass(frozen=True)
class Seen:
    """What one pass over some natural images, in evaluation mode, shows of a model.

    Attributes:
        logits: N×classes, on the CPU.
        labels: labels of these images, if they belong to classes.
        norm: the first batch normalization, if there is one.
        means, deviations: mean and standard deviation of each channel of the normalized images.
    """

    logits: Logits
    labels: Labels | None
    norm: FirstNorm | None
    means: Sequence[float]
    deviations: Sequence[float]


def mistakes(model: str, classes: Sequence[str], seen: Seen) -> list[str]:
    """A sentence for each mistake that the numbers show, the most certain first."""
    sentences = [
        _scale(seen) or _normalization(seen),
        _outputs(seen.logits),
        _accuracy(classes, seen),
    ]
    return [f"{model} {sentence}" for sentence in sentences if sentence]


def _scale(seen: Seen) -> str:
    """Check for mean and std that are not on the scale of the pixels."""
    means, deviations = ([abs(v) for v in values] for values in (seen.means, seen.deviations))
    if max(means) <= 50 and (max(deviations) == 0 or 0.02 <= max(deviations) <= 50):
        return ""
    return (
        f"gets images of mean {number(max(means))} and standard deviation "
        f"{number(max(deviations))} after its normalization, where 0 and 1 are meant; give mean "
        "and std on the scale of [0, 1], such as .485 and .229"
    )


def _normalization(seen: Seen) -> str:
    norm = seen.norm
    if norm is None:
        return ""
    if norm.fresh:
        return (
            f"has the statistics of a new layer (mean 0, variance 1) in {norm.layer}, its first "
            "batch normalization, so it was not trained, or its weights were not loaded; name them "
            "as MODEL@weights-file"
        )
    if 1 / MOST_APART <= norm.variance <= MOST_APART and norm.off <= MOST_OFF:
        return ""
    cause = (
        "as without the normalization of the training"
        if norm.variance < 1
        else "as with images normalized twice"
    )
    return (
        f"gets other images than in training: at {norm.layer}, its first batch normalization, "
        f"their variance is {number(norm.variance)} times the one learned and their mean "
        f"{number(norm.off)} standard deviations off, {cause}; check mean and std, which advlens "
        "applies once to pixels in [0, 1]"
    )


def _outputs(logits: Logits) -> str:
    values = logits.double()
    if values.shape[1] < 2 or not values.isfinite().all():
        return ""
    among = bool((values >= -1e-6).all() and (values <= 1 + 1e-6).all())
    if among and float(values.amax()) >= 0.5:  # those of new weights are near 0
        whole = float((values.sum(dim=1) - 1).abs().amax()) < 1e-2
        return (
            f"returns values from 0 to 1{' that sum to 1' if whole else ''}, which are not logits: "
            "behind a softmax or a sigmoid gradients fade where it is sure, and it looks more "
            "robust than it is; return what comes before it"
        )
    if float(values.logsumexp(dim=1).abs().amax()) < 1e-2:
        return (
            "returns log-probabilities, whose exponentials sum to 1: accuracies equal those of "
            "its logits, but attributions of a logit and images generated for one do not; return "
            "what comes before the log-softmax"
        )
    return ""


def _accuracy(classes: Sequence[str], seen: Seen) -> str:
    labels, n = seen.labels, len(seen.logits)
    if labels is None or n < FEWEST or len(classes) < 2:
        return ""
    predicted = seen.logits.argmax(dim=1)
    right = int((predicted == labels).sum())
    other = reordered(predicted, labels, len(classes))
    most = int(labels.bincount().max()) / n  # what a constant answer can reach in any order
    if wilson(other.right, n)[0] > max(wilson(right, n)[1], most):
        order = (
            f"its outputs are counted {other.shift:+d} from the labels"
            if other.shift
            else f"its outputs have another order, such as {classes[other.output]!r} for images of "
            f"{classes[other.label]!r}"
        )
        return (
            f"is right on {right} of {n} images as their labels stand, and on {other.right} if "
            f"{order}; give its class names in the order of its outputs, or fix the labels"
        )
    chance, most_by_chance = guessing(predicted, labels, len(classes))
    if right > most_by_chance * n:
        return ""
    low, high = wilson(right, n)
    accuracy = Estimate(value=right / n, low=low, high=high, n=n).text(as_percent=True)
    return (
        f"is right on {accuracy} of {n} images, where guessing gives {percent(chance)} and up to "
        f"{percent(most_by_chance)}, so nothing is left for an attack to take; check its weights, "
        "the order of its classes, mean, std and resize, or take more images"
    )


def guessing(predicted: Labels, labels: Labels, classes: int) -> tuple[float, float]:
    """The share that is right when the same N ≥ 2 predictions are dealt to the images at random.

    With n_c labels and m_c predictions of class c and S = Σ n_c m_c, on average S / N are right
    (chance agreement in Cohen's kappa), with the variance
    (S − Σ n_c m_c (n_c + m_c) / N + (S / N)²) / (N − 1) over all deals (Hoeffding 1951). A constant
    answer reaches no more, however unequal the classes are. If all images are of one class, nothing
    tells a guess from an answer, and each guess is right with probability 1 / classes.

    Returns:
        The mean, and the upper end of the range of 95 % of the deals.
    """
    n = len(labels)
    if int(labels.amin()) == int(labels.amax()):
        mean, variance = n / classes, n / classes * (1 - 1 / classes)
    else:
        one, other = (c.bincount(minlength=classes).double() for c in (labels, predicted))
        pairs = one * other
        mean = float(pairs.sum()) / n
        squares = float((pairs * (one + other)).sum()) / n
        variance = max(0.0, (mean * n - squares + mean**2) / (n - 1))
    return mean / n, min(1.0, (mean + Z95 * math.sqrt(variance)) / n)


class Reordered(NamedTuple):
    """Accuracy with the outputs in another order.

    Attributes:
        right: images that are right, each in the order that is fitted to the half that excludes it.
        shift: the order, if it shifts all outputs by this number; 0 otherwise.
        label, output: a class, and the output that stands for it.
    """

    right: int
    shift: int
    label: int
    output: int


def reordered(predicted: Labels, labels: Labels, classes: int) -> Reordered:
    """The best order of the outputs, cross-validated; a shift is preferred if it is as good.

    An order is fitted to half of each class's images and scored on the other half, and vice versa:
    an order that fits noise does no better than guessing.
    """
    half = torch.empty_like(labels)
    half[labels.argsort(stable=True)] = torch.arange(len(labels)) % 2
    by_shift = by_order = 0
    shifts = []
    for number_ in range(2):
        fitted, held = half == number_, half != number_
        ahead = (predicted[fitted] - labels[fitted]) % classes
        shifts.append(int(ahead.bincount(minlength=classes).argmax()))
        shifted = (labels[held] + shifts[-1]) % classes
        by_shift += int((shifted == predicted[held]).sum())
        order = assigned(predicted[fitted], labels[fitted], classes)
        by_order += int((order[labels[held]] == predicted[held]).sum())
    moved = Counter(
        (label, output)
        for label, output in zip(labels.tolist(), predicted.tolist(), strict=True)
        if label != output
    )
    pair = max(moved, key=lambda pair: (moved[pair], pair), default=(0, 0))
    shift = (shifts[0] + classes // 2) % classes - classes // 2  # −1 rather than classes − 1
    if shifts[0] == shifts[1] and shift and by_shift >= by_order:
        return Reordered(by_shift, shift, *pair)
    return Reordered(by_order, 0, *pair)


def assigned(predicted: Labels, labels: Labels, classes: int) -> Int64[Tensor, " classes"]:
    """The output that stands for each class: the most frequent pairs first, each used once.

    Among equally frequent pairs, those with class and output equal come first. A class without a
    pair keeps its own output, or gets one that is left where its own is taken.
    """
    pairs = Counter(zip(labels.tolist(), predicted.tolist(), strict=True))
    order = torch.arange(classes)
    given, taken = set[int](), set[int]()
    for label, output in sorted(pairs, key=lambda pair: (-pairs[pair], pair[0] != pair[1], pair)):
        if label not in given and output not in taken:
            order[label] = output
            given.add(label)
            taken.add(output)
    without = torch.tensor(sorted(taken - given), dtype=torch.int64)
    order[without] = torch.tensor(sorted(given - taken), dtype=torch.int64)
    return order
