"""Models compared on the same images: intervals, tests and their table."""

import math
import random
from collections import Counter
from statistics import mean, median

import pytest
from scipy.stats import binomtest, norm, ttest_1samp, ttest_rel

from advlens import intervals
from advlens.auditing.differences import compared
from advlens.intervals import Z95, holm, mcnemar, paired_interval, two_sample, wilson

TABLES = [(20, 12, 2, 16), (0, 5, 0, 0), (7, 0, 0, 9), (50, 3, 9, 2), (1, 20, 30, 1), (0, 0, 0, 4)]
"""Trials in which both succeed, only the first, only the second, neither."""
FGSM = {"attack": "Fgsm", "norm": "Linf", "epsilon": 0.01, "steps": 1}
COVERED = [(100, (0.8, 0.08, 0.05, 0.07)), (400, (0.85, 0.06, 0.03, 0.06))]
MEDIANS = [(6, 1, 0.96875), (9, 2, 0.9609375), (16, 4, 0.97873)]


def by_hand(a: int, b: int, c: int, d: int) -> tuple[float, float]:
    """Newcombe's method 10 from the correlation of the two outcomes and the roots of Wilson's."""
    n, product = a + b + c + d, (a + b) * (c + d) * (a + c) * (b + d)
    cross = a * d - b * c
    phi = (cross - n / 2 if cross > n / 2 else min(cross, 0)) / math.sqrt(product) if product else 0
    p, q = (a + b) / n, (a + c) / n
    (l1, u1), (l2, u2) = (wilson(share * n, n) for share in (p, q))
    for share, ends in ((p, (l1, u1)), (q, (l2, u2))):  # what Wilson's ends solve
        for end in ends:
            assert (share - end) ** 2 == pytest.approx(Z95**2 * end * (1 - end) / n, abs=1e-12)
    below = (p - l1) ** 2 - 2 * phi * (p - l1) * (u2 - q) + (u2 - q) ** 2
    above = (u1 - p) ** 2 - 2 * phi * (u1 - p) * (q - l2) + (q - l2) ** 2
    return p - q - math.sqrt(below), p - q + math.sqrt(above)


@pytest.mark.parametrize("table", TABLES, ids=str)
def test_the_paired_interval_equals_the_formula(table):
    assert paired_interval(*table) == pytest.approx(by_hand(*table), abs=1e-12)
    both, first, second, neither = table
    low, high = paired_interval(both, second, first, neither)
    assert paired_interval(*table) == pytest.approx((-high, -low), abs=1e-12)


def test_two_shares_give_newcombes_interval():
    """Newcombe 1998, table II, method 10: 56/70 less 48/80, and 9/10 less 3/10."""
    for (a, m), (b, n), ends in (
        ((56, 70), (48, 80), (0.0524, 0.3339)),
        ((9, 10), (3, 10), (0.1705, 0.8090)),
        ((10, 10), (0, 10), (0.6075, 1.0)),
    ):
        difference, low, high, _ = two_sample((a / m, *wilson(a, m)), (b / n, *wilson(b, n)))
        assert difference == pytest.approx(a / m - b / n)
        assert (low, high) == pytest.approx(ends, abs=6e-5)


def test_two_means_give_the_z_test():
    (a, s), (b, t) = (3.0, 0.4), (1.5, 0.3)
    ends = [(m - Z95 * e, m + Z95 * e) for m, e in ((a, s), (b, t))]
    for first, second, sign in ((0, 1, 1), (1, 0, -1)):
        values = ((a, *ends[0]), (b, *ends[1]))
        difference, low, high, p = two_sample(values[first], values[second])
        assert difference == pytest.approx(sign * 1.5)
        assert high - low == pytest.approx(2 * Z95 * 0.5)
        assert p == pytest.approx(2 * norm.sf(3.0), rel=1e-5)
    assert two_sample((1.0, 1.0, 1.0), (1.0, 1.0, 1.0)) == (0.0, 0.0, 0.0, 1.0)
    assert two_sample((2.0, 2.0, 2.0), (1.0, 1.0, 1.0))[3] == 0.0


def test_a_difference_is_established_exactly_where_its_interval_leaves_out_nothing():
    for half in (0.05, 0.0707, 0.0708, 0.1):
        _, low, _, p = two_sample((0.5, 0.5 - half, 0.6), (0.4, 0.3, 0.4 + half))
        assert (p < 0.05) == (low > 0)


def test_paired_values_of_newcombe_1998_and_of_equal_differences():
    assert paired_interval(20, 12, 2, 16) == pytest.approx((0.0562, 0.3292), abs=5e-5)
    assert paired_interval(0, 0, 0, 0) == (-1, 1)
    assert intervals.paired_mean([0.5, 0.5, 0.5]) == (0.5, 0.5, 0.5, 0)
    assert intervals.paired_mean([0.0, 0.0]) == (0, 0, 0, 1)


@pytest.mark.parametrize(("n", "shares"), COVERED)
def test_the_paired_interval_covers(n, shares):
    """In 93 % of 800 draws at least; with 95 %, fewer are a matter of 1 in 200."""
    draw, hits = random.Random(0), 0
    for _ in range(800):
        seen = Counter(draw.choices(range(4), shares, k=n))
        low, high = paired_interval(*(seen[kind] for kind in range(4)))
        hits += low <= shares[1] - shares[2] <= high
    assert hits / 800 >= 0.93


@pytest.mark.parametrize("pair", [(3, 9), (0, 5), (7, 7), (0, 0), (12, 2), (3000, 2800)], ids=str)
def test_mcnemar_equals_scipy(pair):
    first, second = pair
    expected = binomtest(first, first + second).pvalue if sum(pair) else 1
    assert mcnemar(first, second) == pytest.approx(expected, rel=1e-9)


def test_holm_rejects_step_by_step():
    values = [0.01, 0.04, 0.03, 0.005, 0.2, 0.2]
    corrected = holm(values)
    for level in (0.01, 0.03, 0.05, 0.06, 0.12, 0.3, 0.5):
        rejected, left = set(), sorted(values)
        while left and left[0] * len(left) <= level:
            rejected.add(left.pop(0))
        assert {v for v, c in zip(values, corrected, strict=True) if c <= level} == rejected
    assert holm([0.9, 0.9]) == [1, 1]
    assert holm([]) == []


def row(model: str, right: str, first: int = 0, attack: str = "Pgd", epsilon: float = 0.5):
    told = {"attack": attack, "norm": "L2", "epsilon": epsilon, "steps": 20, "settings": ""}
    return {"model": model, **told, "first": first, "right": right}


def test_each_pair_of_models_is_compared_under_each_attack_that_both_faced():
    a, b, c = "1101" * 50, "1000" * 50, "1101" * 49 + "0101"
    rows = [row("a", a[:100]), row("b", b), row("a", a[100:], 100), row("c", c)]
    rows += [row("a", a, epsilon=1.0), row("b", b, attack="Fgsm")]
    made = compared({"accuracy_images": rows})["differences"]
    assert [(r["model"], r["other"]) for r in made] == [("a", "b"), ("a", "c"), ("b", "c")]
    ab, ac, bc = made
    assert (ab["difference"], ab["n"], ab["epsilon"]) == (0.5, 200, 0.5)
    assert (ab["low"], ab["high"]) == paired_interval(50, 100, 0, 50)
    assert (ab["p"], ac["difference"]) == (mcnemar(100, 0), pytest.approx(1 / 200))
    assert bc["difference"] == pytest.approx(-99 / 200)
    assert [r["p_holm"] for r in made] == holm([r["p"] for r in made])


@pytest.mark.parametrize(("n", "rank", "covered"), MEDIANS)
def test_the_median_has_the_interval_of_order_statistics(n, rank, covered):
    values = random.Random(n).sample(range(1000), n)
    ordered = sorted(values)
    assert intervals.median_interval(values) == (median(values), ordered[rank - 1], ordered[-rank])
    outside = sum(math.comb(n, k) for k in range(rank)) / 2**n
    assert 1 - 2 * outside == pytest.approx(covered, abs=1e-5)
    assert 2 * (outside + math.comb(n, rank) / 2**n) > 0.05  # a narrower one would not do
    assert intervals.median_interval(values[:5]) == (median(values[:5]), None, None)  # too few
    assert math.isnan(intervals.median_interval([])[0])


def test_detectors_are_compared_unit_by_unit():
    """Of 40 units 12 keep a detector, 3 lose theirs, 5 gain one; the first layer does not count."""
    cells = {("color", "color"): 8, ("color", "object"): 4, ("color", "none"): 3}
    cells |= {("object", "object"): 0, ("none", "object"): 5, ("none", "none"): 20}
    names = ("model", "layer", "images", "before", "after", "units")
    rows = [
        dict(zip(names, ("a", layer, images, *change, units), strict=True))
        for layer, images in (("conv1", "adversarial"), ("conv2", "adversarial"), ("conv2", "x"))
        for change, units in cells.items()
    ]
    made = compared({"dissection_transitions": rows})["changes"]
    measures = [f"{kind}detectors" for kind in ("", "color ", "object ")]
    assert [(r["measure"], r["layer"]) for r in made] == [(name, "conv2") for name in measures]
    expected = [(12, 5, 3, 20), (8, 0, 7, 25), (0, 9, 0, 31)]
    for change, (both, gained, lost, neither) in zip(made, expected, strict=True):
        assert change["difference"] == pytest.approx((gained - lost) / 40)
        assert (change["low"], change["high"]) == paired_interval(both, gained, lost, neither)
        assert (change["p"], change["n"]) == (mcnemar(gained, lost), 40)


@pytest.mark.parametrize("better", ["higher", "lower"])
def test_attributions_are_compared_by_their_leads_over_random_ones(better):
    draw, sign = random.Random(1), {"higher": 1, "lower": -1}[better]
    pairs = [(model, method) for model in "ab" for method in ("IG", "Random")]
    values = {pair: [draw.gauss(0, 1) for _ in range(7)] for pair in pairs}
    values["a", "IG"][3] = math.nan
    rows = [
        {"model": model, "method": method, "measure": "insertion", "first": first}
        | {"values": " ".join(map(repr, numbers[first : first + 4]))}
        for (model, method), numbers in values.items()
        for first in (0, 4)
    ]
    measured = [{"measure": "insertion", "better": better}]
    (made,) = compared({"attribution_images": rows, "attribution": measured})["differences"]
    columns = zip(*(values[pair] for pair in pairs), strict=True)
    apart = [sign * ((a - r) - (b - s)) for i, (a, r, b, s) in enumerate(columns) if i != 3]
    test = ttest_1samp(apart, 0)
    ends = test.confidence_interval(0.95)
    assert (made["model"], made["other"], made["method"], made["n"]) == ("a", "b", "IG", 6)
    numbers = [made[name] for name in ("difference", "low", "high", "p")]
    assert numbers == pytest.approx([mean(apart), ends.low, ends.high, test.pvalue], rel=1e-9)


def test_inversions_are_compared_by_the_distances_of_the_same_images():
    draw = random.Random(3)
    values = {
        (model, start, measure): [draw.gauss(5, 1) for _ in range(6)]
        for model in "ab"
        for start in ("noise", "image")
        for measure in ("pixels", "representation", "representation (192 features)")
    }
    values["b", "image", "pixels"].pop()  # of other images
    rows = [
        {"model": model, "start": start, "measure": measure, "first": first}
        | {"values": " ".join(map(repr, numbers[first : first + 4]))}
        for (model, start, measure), numbers in values.items()
        for first in (0, 4)
    ]
    made = compared({"inversion_images": rows})["differences"]
    assert [(row["method"], row["measure"]) for row in made] == [
        *(("noise", "pixels"), ("noise", "representation (192 features)")),
        ("image", "representation (192 features)"),
    ]
    for row in made:
        one, two = (values[model, row["method"], row["measure"]] for model in "ab")
        test = ttest_rel(one, two)
        ends = test.confidence_interval(0.95)
        wanted = [mean(one) - mean(two), ends.low, ends.high, test.pvalue]
        numbers = [row[name] for name in ("difference", "low", "high", "p")]
        assert numbers == pytest.approx(wanted, rel=1e-9)
        assert (row["model"], row["other"], row["n"]) == ("a", "b", 6)


def means_row(model: str, images: str, measure: str, corrected: float | None, influences):
    told = {"model": model, "layer": "conv", "images": images, **FGSM, "measure": measure}
    parts = {first: " ".join(map(repr, influences[first : first + 3])) for first in (3, 0)}
    told |= {"corrected": corrected, "top": 4}
    return [told | {"first": first, "influences": part} for first, part in parts.items()]


def test_consistency_is_compared_by_a_paired_jackknife():
    draw = random.Random(2)
    a, b, c = ([draw.gauss(0, 0.1) for _ in range(6)] for _ in range(3))
    rows = means_row("a", "fgsm", "consis_adv", 0.5, a) + means_row("b", "fgsm", "cs1", 0.1, a)
    rows += means_row("b", "fgsm", "consis_adv", 0.9, b) + means_row("a", "real", "lc", 0.7, c)
    rows += means_row("c", "fgsm", "consis_adv", None, c)
    made = compared({"consistency_images": rows})
    (between,), (change,) = made["differences"], made["changes"]
    assert (between["measure"], between["model"], between["other"]) == ("consis_adv", "a", "b")
    assert (change["measure"], change["model"], change["images"]) == ("consistency", "a", "fgsm")
    for row, value, one, two in ((between, -0.4, a, b), (change, -0.2, a, c)):
        error = math.sqrt(3 / 4 * sum((x - y) ** 2 for x, y in zip(one, two, strict=True)))
        expected = [value, value - Z95 * error, value + Z95 * error, 2 * norm.cdf(value / error)]
        assert [row[n] for n in ("difference", "low", "high", "p")] == pytest.approx(expected)


def test_other_images_are_not_compared_and_other_radii_at_equal_success_alone():
    rows = means_row("a", "equal-success", "cs1", 0.5, [0.1] * 6)
    rows += means_row("b", "equal-success", "cs1", 0.4, [0.2] * 6)
    other = [each | {"images": "least-likely"} for each in rows]
    for each in rows[2:] + other[2:]:
        each["epsilon"] = 0.02
    (made,) = compared({"consistency_images": rows + other})["differences"]
    assert (made["images"], made["epsilon"]) == ("equal-success", None)
    assert not any(compared({"accuracy_images": [row("a", "110"), row("b", "11")]}).values())
