"""seeding: every image has its own numbers, whatever the batch."""

import numpy as np
import pytest
import torch

from advlens.seeding import Stream, derived, normal, uniform

IDS = torch.tensor([3, 11, 4, 2**40])


@pytest.mark.parametrize("draw", [uniform, normal])
def test_numbers_belong_to_the_image_not_to_the_batch(draw):
    together, *apart = (
        draw(7, ids, (2, 5), Stream.START) for ids in (IDS, *IDS.split(1), IDS.flip(0), IDS[:0])
    )
    assert together.dtype == torch.float32
    assert torch.equal(together, torch.cat(apart[:4]))
    assert torch.equal(together.flip(0), apart[4])
    assert (together.shape, apart[5].shape) == ((4, 2, 5), (0, 2, 5))


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
