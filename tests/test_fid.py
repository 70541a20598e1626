"""fid: closed forms, scipy, numpy and torch-fidelity as oracles, and what must not pass."""

import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric

from advlens.errors import DataError, NumericError
from advlens.fid import distances
from advlens.fid.distances import FeatureStatistics, Moments, fid, frechet_distance, kid
from advlens.fid.representations import Source
from advlens.fid.sets import SeenSet


def source(dimension: int) -> Source:
    return Source(network="N", layer="l", dimension=dimension, resize="as they are", weights=None)


def computed(*features: Tensor) -> list[Moments]:
    return [statistics(part).compute() for part in features]


def statistics(features: Tensor) -> FeatureStatistics:
    seen = FeatureStatistics(source(features.shape[1]))
    seen.update(features)
    return seen


def moments(mean: Tensor, covariance: Tensor, n: int = 10_000) -> Moments:
    return Moments(source=source(len(mean)), n=n, mean=mean, covariance=covariance)


def normal(n: int, d: int, seed: int = 0) -> Tensor:
    """Correlated features away from the origin."""
    random = torch.Generator().manual_seed(seed)
    mixed = torch.randn(d, d, generator=random, dtype=torch.float64) / math.sqrt(d)
    return torch.randn(n, d, generator=random, dtype=torch.float64) @ mixed + seed


def from_features(first: Tensor, second: Tensor) -> float:
    """The distance without covariances: tr (Σ₁Σ₂)^½ is the nuclear norm of X₁X₂ᵀ, centered."""
    parts = [(x - x.mean(0)) / math.sqrt(len(x) - 1) for x in (first, second)]
    root = torch.linalg.matrix_norm(parts[0] @ parts[1].T, "nuc")
    apart = (first.mean(0) - second.mean(0)).square().sum()
    return float(apart + sum(part.square().sum() for part in parts) - 2 * root)


@pytest.mark.parametrize("decades", [0, 3, 6])
def test_diagonal_gaussians_have_a_closed_form(decades: int) -> None:
    random = torch.Generator().manual_seed(1)
    scales = torch.logspace(0, -decades, 64, dtype=torch.float64)
    first, second = (torch.rand(64, generator=random).double() * scales + scales for _ in range(2))
    means = torch.randn(2, 64, generator=random, dtype=torch.float64)
    expected = (means[0] - means[1]).square().sum() + (first - second).square().sum()
    squares = first.square().diag(), second.square().diag()
    found = frechet_distance(moments(means[0], squares[0]), moments(means[1], squares[1]))
    assert found == pytest.approx(float(expected), abs=1e-8)
    assert found > 1


def test_equals_the_formula_with_scipys_root() -> None:
    first, second = normal(200, 40, 1), normal(300, 40, 2)
    a, b = np.cov(first.numpy().T), np.cov(second.numpy().T)
    root = scipy.linalg.sqrtm(a @ b).real
    expected = ((first.mean(0) - second.mean(0)) ** 2).sum().item() + np.trace(a + b - 2 * root)
    found = fid(*computed(first, second))
    assert found.value == pytest.approx(expected, rel=1e-10)
    assert found.n == (200, 300)


def test_equals_torch_fidelity() -> None:
    first, second = normal(500, 100, 1), normal(400, 100, 2)
    theirs = fid_features_to_statistics(first), fid_features_to_statistics(second)
    oracle = fid_statistics_to_metric(*theirs, verbose=False)["frechet_inception_distance"]
    assert fid(*computed(first, second)).value == pytest.approx(oracle, rel=1e-9)


SINGULAR = [(20, 30, 50), (2, 2, 50), (20, 400, 50), (400, 400, 7), (51, 52, 50)]


@pytest.mark.parametrize(("n", "m", "rank"), SINGULAR)
def test_singular_covariances(n: int, m: int, rank: int) -> None:
    """Fewer images than features, or features that depend on each other."""
    first, second = normal(n, 50, 1), normal(m, 50, 2)
    first[:, rank:] = first[:, : 50 - rank].repeat(1, 7)[:, : 50 - rank] if rank < 50 else 0
    pair = computed(first, second)
    expected = from_features(first, second)
    assert frechet_distance(*pair) == pytest.approx(expected, rel=1e-10)
    assert frechet_distance(*pair[::-1]) == pytest.approx(expected, rel=1e-10)


def test_nearly_singular_covariances_lose_nothing() -> None:
    """A Cholesky factor exists, but the roots of the eigenvalues would be of rounding."""
    scales = torch.logspace(0, -9, 60, dtype=torch.float64)
    first, second = normal(500, 60, 0) * scales, normal(500, 60, 3) * scales
    pair = computed(first, second)
    assert not torch.linalg.cholesky_ex(pair[0].covariance).info
    assert frechet_distance(*pair) == pytest.approx(from_features(first, second), abs=1e-11)


def test_sets_at_no_distance_and_without_spread() -> None:
    for n in (10, 500):
        (same,) = computed(normal(n, 50))
        assert 0 <= frechet_distance(same, same) < 1e-10
    assert frechet_distance(*computed(torch.zeros(3, 4), torch.ones(5, 4))) == 4
    with pytest.raises(NumericError, match="NaN or infinite"):
        frechet_distance(same, replace(same, mean=same.mean * math.nan))


def test_features_of_different_sources_do_not_mix() -> None:
    first = statistics(normal(9, 3))
    other = FeatureStatistics(replace(first.source, resize="another"))
    other.update(normal(9, 3))
    with pytest.raises(DataError, match=r"as they are.*another"):
        fid(first.compute(), other.compute())
    with pytest.raises(DataError, match="different sources"):
        first.merge(other)


@pytest.mark.parametrize("sizes", [[1] * 30, [30], [7, 0, 13, 10], [29, 1]])
@pytest.mark.parametrize("shards", [False, True])
def test_streamed_equals_whole(sizes: list[int], shards: bool) -> None:
    features = (normal(30, 6) + 1e4).float()  # the spread is small beside the mean
    seen = FeatureStatistics(source(6))
    for part in features.split(sizes):
        if shards:
            seen.merge(statistics(part))
        else:
            seen.update(part)
    found = seen.compute()
    assert found.n == 30
    np.testing.assert_allclose(found.mean, features.double().mean(0), rtol=1e-14)
    np.testing.assert_allclose(found.covariance, np.cov(features.double().T), rtol=1e-9)


def test_later_images_change_neither_moments_nor_what_was_merged() -> None:
    first, second = FeatureStatistics(source(3)), statistics(normal(9, 3))
    first.merge(FeatureStatistics(source(3)))
    first.merge(second)
    found, before = first.compute(), second.compute()
    mean, covariance = before.mean.clone(), before.covariance.clone()
    assert torch.equal(found.mean, mean)
    first.update(normal(9, 3, 5))
    for same in (found, before, second.compute()):
        assert torch.equal(same.mean, mean)
        assert torch.equal(same.covariance, covariance)


def test_too_few_images_or_bad_features() -> None:
    with pytest.raises(DataError, match=r"1 images.*at least 2"):
        statistics(normal(1, 3)).compute()
    with pytest.raises(NumericError, match=r"layer l.*NaN"):
        statistics(torch.tensor([[1.0, math.nan]]))


def test_a_score_is_never_bare() -> None:
    few, as_many, many = (fid(*computed(normal(n, 12), normal(40, 12, 1))) for n in (9, 12, 13))
    assert "9 images are too few for the covariance of 12" in few.warning
    for part in ("FID", "n = 9 and 40", "N, layer l, images as they are", few.warning):
        assert part in str(few)
    assert as_many.warning is not None
    assert many.warning is many.interval is None
    other = kid(normal(9, 12), normal(40, 12), source(12))
    assert other.warning is None
    assert "±" in str(other)
    half = 1.959964 * other.error
    assert other.interval == pytest.approx((other.value - half, other.value + half))


def mmd(first: Tensor, second: Tensor) -> float:
    """The unbiased MMD² by its definition."""

    def kernel(x: Tensor, y: Tensor) -> float:
        return (float(x @ y) / len(x) + 1) ** 3

    m, n = len(first), len(second)
    own = [
        sum(kernel(part[i], part[j]) for i in range(k) for j in range(k) if i != j) / (k * (k - 1))
        for part, k in ((first, m), (second, n))
    ]
    return sum(own) - 2 * sum(kernel(x, y) for x in first for y in second) / (m * n)


def test_kid_and_its_error_equal_the_double_loop() -> None:
    first, second = normal(7, 5, 1), normal(9, 5, 2)
    found = kid(first, second, source(5))
    assert found.value == pytest.approx(mmd(first, second), rel=1e-10)
    variance = 0.0
    for own, other in ((first, second), (second, first)):
        rest = [mmd(torch.cat([own[:i], own[i + 1 :]]), other) for i in range(len(own))]
        variance += (len(own) - 1) ** 2 / len(own) * np.var(rest, ddof=1)
    assert found.error == pytest.approx(math.sqrt(variance), rel=1e-9)


def mmd_of_classes(parts: dict[int, Tensor], shares: dict[int, float], second: Tensor) -> float:
    """The MMD² of a mixture of classes, each by its own images, and of independent images."""

    def kernels(x: Tensor, y: Tensor) -> Tensor:
        return (x @ y.T / x.shape[1] + 1) ** 3

    def mean(x: Tensor, y: Tensor) -> float:
        if x is not y:
            return float(kernels(x, y).mean())
        return float((kernels(x, x).sum() - kernels(x, x).trace()) / (len(x) * (len(x) - 1)))

    own = sum(shares[a] * shares[b] * mean(parts[a], parts[b]) for a in parts for b in parts)
    return own + mean(second, second) - 2 * sum(shares[a] * mean(parts[a], second) for a in parts)


def test_kid_of_fixed_numbers_of_each_class_equals_the_means_over_classes() -> None:
    first, second, classes = normal(12, 5, 1), normal(9, 5, 2), torch.tensor([2, 0, 2, 7] * 3)
    first[classes == 2] += 1
    parts = {each: first[classes == each] for each in (0, 2, 7)}
    shares = {each: len(part) / 12 for each, part in parts.items()}
    found = kid(first, second, source(5), classes=classes)
    assert found.value == pytest.approx(mmd_of_classes(parts, shares, second), rel=1e-10)
    variance = 0.0
    for each, part in parts.items():
        rest = [
            mmd_of_classes({**parts, each: torch.cat([part[:i], part[i + 1 :]])}, shares, second)
            for i in range(len(part))
        ]
        variance += (len(part) - 1) ** 2 / len(part) * np.var(rest, ddof=1)
    rest = [
        mmd_of_classes(parts, shares, torch.cat([second[:i], second[i + 1 :]])) for i in range(9)
    ]
    variance += 8**2 / 9 * np.var(rest, ddof=1)
    assert found.error == pytest.approx(math.sqrt(variance), rel=1e-9)


def test_kid_of_fixed_numbers_of_each_class_is_unbiased_and_its_error_holds() -> None:
    """As if the images were independent, it is too low, and its error several times too large."""
    random, d = torch.Generator().manual_seed(0), 4
    centers = torch.randn(5, d, generator=random, dtype=torch.float64) * 2
    classes = torch.arange(5).repeat(6)
    found, plain = [], []
    for _ in range(300):
        noise = torch.randn(430, d, generator=random, dtype=torch.float64) * 0.3
        first = centers[classes] + noise[:30]
        second = centers[torch.randint(5, (400,), generator=random)] + noise[30:]
        found.append(kid(first, second, source(d), classes=classes))
        plain.append(kid(first, second, source(d)))
    values, wrong = (np.array([one.value for one in each]) for each in (found, plain))
    spread = values.std(ddof=1)
    assert abs(values.mean()) < 3 * spread / math.sqrt(len(values))
    assert wrong.mean() < -3 * wrong.std(ddof=1) / math.sqrt(len(wrong))
    errors, wide = (math.sqrt(np.mean([one.error**2 for one in each])) for each in (found, plain))
    assert 0.95 * spread < errors < 1.6 * spread
    assert wide > 2 * spread
    assert np.mean([one.interval[0] <= 0 <= one.interval[1] for one in found]) > 0.92


def test_kid_equals_torch_fidelitys_with_one_subset() -> None:
    first, second = normal(60, 20, 1), normal(60, 20, 2)
    settings = {"kid_subsets": 1, "kid_subset_size": 60, "verbose": False, "rng_seed": 0}
    oracle = kid_features_to_metric(first, second, **settings)
    found = kid(first, second, source(20))
    assert found.value == pytest.approx(oracle[KEY_METRIC_KID_MEAN], rel=1e-9)


def test_kid_does_not_depend_on_the_block() -> None:
    first, second = normal(23, 5, 1).float(), normal(31, 5, 2).float()
    whole, parts = (kid(first, second, source(5), block=block) for block in (100, 7))
    assert parts.value == pytest.approx(whole.value, rel=1e-10)
    assert parts.error == pytest.approx(whole.error, rel=1e-10)


def expected_kernel(a: float, b: float, d: int) -> float:
    """E k(x, y) for x ~ N(a, 1)ᵈ and y ~ N(b, 1)ᵈ, from the moments of u = xᵀy."""
    aa, bb, ab = a * a * d, b * b * d, a * b * d
    u2 = d + aa + bb + ab**2
    return 1 + 3 * ab / d + 3 * u2 / d**2 + (ab**3 + 3 * ab * aa + 3 * ab * (bb + d + 2)) / d**3


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_kid_is_unbiased_and_its_error_holds(shift: float) -> None:
    """400 repetitions. Of equal distributions the jackknife's error is √2 too large."""
    random, d = torch.Generator().manual_seed(0), 4
    truth = expected_kernel(0, 0, d) + expected_kernel(shift, shift, d)
    truth -= 2 * expected_kernel(0, shift, d)
    found = []
    for _ in range(400):
        first, second = torch.randn(2, 300, d, generator=random, dtype=torch.float64)
        found.append(kid(first, second + shift, source(d)))
    values = np.array([one.value for one in found])
    spread = values.std(ddof=1)
    assert abs(values.mean() - truth) < 3 * spread / math.sqrt(len(values))
    errors = math.sqrt(np.mean([one.error**2 for one in found]))
    assert 0.95 * spread < errors < (1.1 if shift else 1.6) * spread
    assert np.mean([one.interval[0] <= truth <= one.interval[1] for one in found]) > 0.92


def test_kid_refuses_what_it_cannot_use() -> None:
    with pytest.raises(DataError, match="at least 3"):
        kid(normal(2, 3), normal(9, 3), source(3))
    with pytest.raises(DataError, match="2 images of a set or class are too few"):
        kid(normal(9, 3), normal(9, 3), source(3), classes=torch.tensor([0] * 7 + [1] * 2))
    with pytest.raises(NumericError, match="NaN"):
        kid(normal(9, 3) * math.nan, normal(9, 3), source(3))


def test_feature_distances() -> None:
    first, second = normal(5, 8, 1).float(), normal(5, 8, 2).float()
    expected = [math.dist(x, y) for x, y in zip(first.tolist(), second.tolist(), strict=True)]
    np.testing.assert_allclose(distances.feature_distances(first, second), expected, rtol=1e-12)


def seen(features: Tensor, kept: Tensor, labels: Tensor | None = None, step: int = 7) -> SeenSet:
    result = SeenSet(source(features.shape[1]), kept, labels)
    for ids in torch.randperm(len(features), generator=torch.Generator().manual_seed(0)).split(
        step
    ):
        result.update(features[ids], ids)
    return result


@pytest.mark.parametrize("balanced", [False, True])
def test_sets_have_the_moments_of_all_images_and_the_features_of_some(balanced: bool) -> None:
    first, second = normal(40, 6).float(), normal(31, 6, seed=1).float()
    kept, labels = torch.arange(0, 40, 3), torch.arange(40) % 4
    classes = labels[kept] if balanced else None
    one, other = seen(first, kept, classes), seen(second, torch.arange(31))
    found = {distance.measure: distance for distance in one.distances(other)}
    assert (found["FID"].n, found["KID"].n) == ((40, 31), (14, 31))
    wanted = from_features(first.double(), second.double())
    assert found["FID"].value == pytest.approx(wanted, rel=1e-9)
    assert found["KID"] == kid(first[::3], second, source(6), classes=classes)


def test_a_set_in_shards_and_after_a_kill_is_the_whole() -> None:
    features, kept = normal(40, 6).float(), torch.tensor([3, 4, 21, 39])
    parts = [SeenSet(source(6), kept) for _ in range(2)]
    for part, ids in zip(parts, torch.randperm(40).split(22), strict=True):
        part.update(features[ids], ids)
        fresh = SeenSet(source(6), kept)
        fresh.restore(part.state())
        part.__dict__.update(fresh.__dict__)
    parts[0].merge(parts[1])
    assert torch.equal(parts[0].features, features[kept])
    whole = statistics(features).compute()
    torch.testing.assert_close(parts[0].moments.compute().mean, whole.mean)
    torch.testing.assert_close(parts[0].moments.compute().covariance, whole.covariance)
    for change in ({"features": features}, {"mean": whole.mean.float()}, {"n": None}):
        with pytest.raises(DataError, match="other features than those of 4 ids"):
            parts[1].restore(parts[0].state() | change)


def test_a_distance_needs_images() -> None:
    few = [seen(normal(n, 3).float(), torch.arange(n)) for n in (1, 2, 3)]
    names = {n: [d.measure for d in few[n - 1].distances(few[2])] for n in (1, 2, 3)}
    assert names == {1: [], 2: ["FID"], 3: ["FID", "KID"]}
    # a class of two images has no error of its own
    two = seen(normal(5, 3).float(), torch.arange(5), torch.tensor([0, 0, 0, 1, 1]))
    assert two.distances(few[2])[1] == kid(two.features, few[2].features, source(3))
