"""95 % intervals of shares, means and medians, and of differences on the same images."""

import math
import statistics
from collections.abc import Sequence

from scipy.special import bdtr, stdtr, stdtrit

Z95 = 1.959963984540054  # two-sided 95 % quantile of the standard normal


def wilson(successes: float, n: float) -> tuple[float, float]:
    """95 % interval of a share from n trials (Wilson 1927); (0, 1) for n = 0.

    For dependent trials, n is the equivalent number of independent ones.
    """
    if n == 0:
        return 0.0, 1.0
    share, z2 = successes / n, Z95**2
    center = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    low = center - half if successes else 0.0  # rounding leaves 1e-19 there
    high = center + half if successes < n else 1.0
    return low, high


def paired_interval(both: int, first: int, second: int, neither: int) -> tuple[float, float]:
    """95 % interval of the difference of two shares of the same trials (Newcombe 1998, method 10).

    Args:
        both: trials in which both succeed.
        first: trials in which only the first succeeds.
        second: trials in which only the second succeeds.
        neither: trials in which both fail.
    """
    n = both + first + second + neither
    if n == 0:
        return -1.0, 1.0
    a, b = both + first, both + second
    (a_low, a_high), (b_low, b_high) = wilson(a, n), wilson(b, n)
    agreement = float(both * neither - first * second)
    if agreement > 0:
        agreement = max(agreement - n / 2, 0.0)  # his continuity correction
    spread = math.sqrt(a * (n - a) * b * (n - b))
    phi = agreement / spread if spread else 0.0

    def length(one: float, other: float) -> float:
        return math.sqrt(max(one**2 - 2 * phi * one * other + other**2, 0.0))

    difference = (first - second) / n
    below = length(a / n - a_low, b_high - b / n)
    above = length(a_high - a / n, b / n - b_low)
    return difference - below, difference + above


def two_sample(
    first: tuple[float, float, float], second: tuple[float, float, float]
) -> tuple[float, float, float, float]:
    """The difference of two independent values, its 95 % interval and its p of no difference.

    The distances to the ends that face each other add as squares (Newcombe 1998, method 10 for
    independent shares; Zou and Donner 2008). The p is that of the normal distribution whose 95 %
    point is the end towards 0.

    Args:
        first: a value and the ends of its own 95 % interval.
        second: the value that is subtracted, and its ends.
    """
    (a, a_low, a_high), (b, b_low, b_high) = first, second
    difference = a - b
    below, above = math.hypot(a - a_low, b_high - b), math.hypot(a_high - a, b - b_low)
    facing = below if difference > 0 else above
    p = (
        math.erfc(Z95 * abs(difference) / facing / math.sqrt(2))
        if facing
        else float(not difference)
    )
    return difference, difference - below, difference + above, p


def paired_jackknife(
    difference: float, first: Sequence[float], second: Sequence[float], top: int
) -> tuple[float, float, float]:
    """95 % interval of a difference of two means of top sets from the same images, and its p.

    The standard error is √((k − 1)/k Σ (a − b)²) over images (see `consistency.LayerConsistency`).

    Args:
        difference: of the means without their bias.
        first: a, the change of the first mean when each image is left out.
        second: b, that of the second mean.
        top: k, the images in a top set.

    Returns:
        The ends of the interval, and the two-sided p of no difference, by the normal distribution.
    """
    squares = math.fsum((a - b) ** 2 for a, b in zip(first, second, strict=True))
    error = math.sqrt((top - 1) / top * squares)
    p = math.erfc(abs(difference) / error / math.sqrt(2)) if error else float(difference == 0)
    return difference - Z95 * error, difference + Z95 * error, p


def mcnemar(first: int, second: int) -> float:
    """The exact two-sided p of two equal shares, from the trials in which only one succeeds.

    Each of these is of either kind with probability 1/2 (McNemar 1947).
    """
    n, least = first + second, min(first, second)
    return min(1.0, 2 * float(bdtr(least, n, 0.5))) if n else 1.0


def holm(values: Sequence[float]) -> list[float]:
    """p-values corrected for their number, so that one false claim in all is rare (Holm 1979)."""
    corrected, highest = [0.0] * len(values), 0.0
    for rank, place in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        highest = max(highest, min(1.0, (len(values) - rank) * values[place]))
        corrected[place] = highest
    return corrected


def mean_interval(
    values: Sequence[float], least: float = -math.inf, most: float = math.inf
) -> tuple[float, float | None, float | None]:
    """The mean of n independent values and its 95 % interval by Student's t; none for n < 2.

    Args:
        values: the values.
        least, most: the range of the quantity. The interval ends there: of few values, Student's
            would go on to means that no values have.
    """
    n = len(values)
    mean = math.fsum(values) / n if n else math.nan
    if n < 2:
        return mean, None, None
    half = student(n - 1) * _standard_error(values, mean)
    return mean, max(least, mean - half), min(most, mean + half)


def median_interval(values: Sequence[float]) -> tuple[float, float | None, float | None]:
    """The median of n independent values and its 95 % interval; none for n < 6.

    The interval reaches from the r-th smallest to the r-th largest value, with the largest r for
    which the binomial distribution gives it 95 %: it assumes nothing of the values.
    """
    ordered, n = sorted(values), len(values)
    median = statistics.median(ordered) if n else math.nan
    ranks = range(1, n // 2 + 1)
    inside = [rank for rank in ranks if 2 * bdtr(rank - 1, n, 0.5) <= 0.05]
    return (
        (median, ordered[inside[-1] - 1], ordered[-inside[-1]]) if inside else (median, None, None)
    )


def paired_mean(differences: Sequence[float]) -> tuple[float, float, float, float]:
    """The mean of n differences, its 95 % interval and its p of no difference, by Student's t.

    Args:
        differences: at least two.
    """
    n, mean = len(differences), math.fsum(differences) / len(differences)
    error = _standard_error(differences, mean)
    half = student(n - 1) * error
    p = 2 * float(stdtr(n - 1, -abs(mean) / error)) if error else float(mean == 0)
    return mean, mean - half, mean + half, p


def _standard_error(values: Sequence[float], mean: float) -> float:
    n = len(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1) / n)


def student(v: int) -> float:
    """The two-sided 95 % quantile of Student's t with v degrees of freedom."""
    return float(stdtrit(v, 0.975))
