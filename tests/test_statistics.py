"""Statistics against sorting everything at once, and the binomial; numbers of each image."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from advlens import seeding
from advlens.errors import NumericError
from advlens.intervals import mean_interval, wilson
from advlens.seeding import Stream, _philox, derived, normal, uniform
from advlens.statistics import TopK, UpperTail

IDS = torch.tensor([3, 11, 4, 2**40])


def sorted_top(values: torch.Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
    ids = np.arange(len(values))
    best = [np.lexsort((ids, -values[:, unit].numpy()))[:k] for unit in range(values.shape[1])]
    return np.stack([values[b, u].numpy() for u, b in enumerate(best)]), np.stack(best)


def responses(seed: int, images: int = 300, units: int = 7) -> torch.Tensor:
    """Numbers of both signs with many exact ties, zeros and negative zeros."""
    values = torch.randn(images, units, generator=torch.Generator().manual_seed(seed))
    values[::3] = values[::3].round()
    values[5::17] = 0.0
    values[6::17] = -0.0
    return values


@pytest.mark.parametrize("k", [1, 5, 40, 1000])
@pytest.mark.parametrize("batch", [1, 13, 300])
def test_top_k_equals_sorting_everything(k, batch):
    values = responses(0)
    top = TopK(k, values.shape[1])
    for ids in torch.arange(len(values)).split(batch):
        top.update(values[ids], ids)
    for found, expected in zip(top.compute(), sorted_top(values, k), strict=True):
        np.testing.assert_array_equal(found.numpy(), expected)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=40, max_size=40), st.integers(1, 9))
def test_any_split_merged_in_any_order_equals_the_whole(shards, k):
    values = responses(1, images=40, units=3)
    whole, parts = TopK(k, 3), [TopK(k, 3) for _ in range(4)]
    whole.update(values, torch.arange(40))
    for number, shard in enumerate(shards):
        parts[shard].update(values[number : number + 1], torch.tensor([number]))
    merged = TopK(k, 3)
    for part in reversed(parts):
        merged.merge(part)
    for ours, theirs in zip(merged.compute(), whole.compute(), strict=True):
        assert torch.equal(ours, theirs)


def test_neither_memory_nor_ids_have_a_limit():
    top = TopK(10, 4)
    for start in range(0, 20_000, 500):
        top.update(torch.rand(500, 4), torch.arange(start, start + 500))
    assert top.compute()[0].shape == (4, 10)
    assert sum(part.numel() for part in (top.keys, *top._waiting)) <= 4 * (10 + 1024 + 500)
    top = TopK(2, 1)
    top.update(torch.tensor([[1.0], [1.0], [0.5]]), torch.tensor([4_000_000_000, 3_999_999_999, 7]))
    assert top.compute()[1].tolist() == [[3_999_999_999, 4_000_000_000]]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_is_an_error(value):
    with pytest.raises(NumericError, match="NaN or infinite"):
        TopK(2, 1).update(torch.tensor([[1.0], [value]]), torch.tensor([0, 1]))
    if value > 0 or math.isnan(value):
        with pytest.raises(NumericError, match="NaN or infinite"):
            UpperTail(0.1, 2, 1).update(torch.tensor([[1.0, value]]))


@pytest.mark.parametrize(("successes", "n"), [(0, 10), (3, 10), (10, 10), (57, 100), (640, 1000)])
def test_wilson_equals_scipy(successes, n):
    expected = stats.binomtest(successes, n).proportion_ci(method="wilson")
    assert wilson(successes, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize(("n", "error"), [(3, 0.01), (5, 5e-4), (8, 5e-5), (30, 1e-6)])
def test_mean_interval_equals_scipy(n, error):
    values = np.random.default_rng(n).normal(3, 2, n)
    mean, low, high = mean_interval(values.tolist())
    half = stats.t.ppf(0.975, n - 1) * values.std(ddof=1) / math.sqrt(n)
    assert mean == pytest.approx(values.mean(), rel=1e-12)
    assert (mean - low, high - mean) == pytest.approx((half, half), rel=error)


def test_one_value_has_no_interval_and_no_count_says_nothing():
    assert mean_interval([2.0]) == (2.0, None, None)
    assert mean_interval([0.25, 0.75], 0, 1) == (0.5, 0, 1)  # Student's: −2.7 to 3.7
    assert math.isnan(mean_interval([])[0])
    assert wilson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(("share", "n"), [(0.005, 200), (0.005, 199), (0.03, 1000), (0.5, 3)])
@pytest.mark.parametrize("batch", [1, 17, 1000])
def test_upper_tail_equals_sorting_everything(share, n, batch):
    values = torch.randn(3, n, generator=torch.Generator().manual_seed(n)).round(decimals=1)
    tail = UpperTail(share, n, 3)
    for start in range(0, n, batch):
        tail.update(values[:, start : start + batch])
        assert (tail.bound <= tail.compute()).all()
    above = math.floor(round(share * n, 9))
    expected = [sorted(row, reverse=True)[above] for row in values.tolist()]
    assert tail.compute().tolist() == pytest.approx(expected, abs=0)
    assert ((values > tail.compute()[:, None]).sum(dim=1) <= above).all()
    assert tail.kept().shape == (3, above + 1)


def test_a_share_is_not_rounded_down_by_its_binary_form():
    # .005 · 58 800 is 294, and .07 · 100 is 7.000000000000001 in floating point
    assert [UpperTail(0.005, 58_800, 1).rank, UpperTail(0.07, 100, 1).rank] == [295, 8]
    assert UpperTail(0.29, 100, 1).rank == 30  # .29 · 100 is 28.999999999999996


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=60, max_size=60), st.sampled_from([0.01, 0.1, 0.4]))
def test_upper_tails_merged_in_any_order_equal_the_whole(shards, share):
    values = torch.randn(2, 60, generator=torch.Generator().manual_seed(3))
    parts = [UpperTail(share, 60, 2) for _ in range(4)]
    for place, shard in enumerate(shards):
        parts[shard].update(values[:, place : place + 1])
    merged, whole = UpperTail(share, 60, 2), UpperTail(share, 60, 2)
    whole.update(values)
    for part in reversed(parts):
        merged.merge(part)
    assert torch.equal(merged.compute(), whole.compute())


@pytest.mark.parametrize("draw", [uniform, normal])
@pytest.mark.parametrize("threads", [1, 3])
def test_numbers_belong_to_the_image_not_to_the_batch(draw, threads, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(seeding, "FEW", 15)  # a single image is not worth two
    together, *apart = (
        draw(7, ids, (2, 5), Stream.START) for ids in (IDS, *IDS.split(1), IDS.flip(0), IDS[:0])
    )
    assert together.dtype == torch.float32
    assert torch.equal(together, torch.cat(apart[:4]))
    assert torch.equal(together.flip(0), apart[4])
    assert (together.shape, apart[5].shape) == ((4, 2, 5), (0, 2, 5))


@pytest.mark.parametrize("seed", [0, 7, 2**62 + 1, 2**63 + 1025, -1])
@pytest.mark.parametrize("shape", [(), (7,), (8,), (3, 5, 5)])
def test_a_device_makes_the_bits_of_the_cpu(seed, shape):
    ids = torch.tensor([0, 3, 2**40, 2**53])
    assert torch.equal(
        _philox(seed, ids, shape, Stream.NOISE), uniform(seed, ids, shape, Stream.NOISE)
    )


def test_the_numbers_stay_the_same_for_ever():
    """Adversarial sets are stored as recipes, so these values may never change."""
    found = uniform(0, torch.tensor([0]), (3,), Stream.START)
    wanted = torch.tensor([[0.034741879, 0.011546731, 0.611950219]])
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-7)
    found = normal(1, torch.tensor([5]), (3,), Stream.NOISE)
    wanted = torch.tensor([[-0.495742083, 1.122296810, -1.176298022]])
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)
    assert derived(0, 1, 2) == 3071860871404845570


def test_streams_seeds_and_images_differ_and_have_their_distributions():
    draws = {
        (seed, number, stream): uniform(seed, torch.tensor([number]), (8,), stream)
        for seed in (0, 1, 2**63, -1)
        for number in (0, 1, -1)
        for stream in Stream
    }
    values = torch.cat(list(draws.values()))
    assert len(values.unique()) == values.numel()
    seeds = {derived(seed, *keys) for seed in range(20) for keys in ((), (1,), (2,), (0, 1))}
    assert len(seeds) == 80
    ids = torch.arange(500)
    flat = uniform(1, ids, (100,), Stream.START).numpy()
    assert flat.min() >= 0
    assert flat.max() < 1
    steps = np.sort(flat.ravel()) - np.arange(flat.size) / flat.size
    assert np.abs(steps).max() < 1.95 / np.sqrt(flat.size)  # Kolmogorov–Smirnov, p = 0.001
    bell = normal(1, ids, (100,), Stream.START).double()
    assert abs(bell.mean()) < 3.3 / bell.numel() ** 0.5
    assert bell.std() == pytest.approx(1, abs=0.02)
