"""95 % intervals of shares and means."""

import math
from collections.abc import Sequence

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


def mean_interval(values: Sequence[float]) -> tuple[float, float | None, float | None]:
    """The mean of n independent values and its 95 % interval by Student's t; none for n < 2."""
    n = len(values)
    mean = math.fsum(values) / n if n else math.nan
    if n < 2:
        return mean, None, None
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1) / n)
    half = student(n - 1) * spread
    return mean, mean - half, mean + half


def student(v: int) -> float:
    """The two-sided 95 % quantile of Student's t with v degrees of freedom.

    Cornish and Fisher's expansion (1938), accurate to .05 % from v = 4 and to 1 % at v = 2.
    """
    z = Z95
    return (
        z
        + (z**3 + z) / (4 * v)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
        + (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / (92160 * v**4)
    )
