"""features.starts: the moments of each class, samples of its Gaussian, and noise."""

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor

from advlens.errors import DataError
from advlens.features import ClassGaussian, noise_images, starts

FEW, MANY = 7, 90  # images of a class: fewer and more than the 24 block values of one


def images(n: int, size: tuple[int, int] = (10, 6), seed: int = 0) -> Tensor:
    """Correlated images around medium gray, far enough from 0 and 1 that no sample is clamped."""
    random = torch.Generator().manual_seed(seed)
    own = torch.rand(n, 3, *size, generator=random)
    return 0.45 + 0.05 * own + 0.05 * torch.rand(n, 1, 1, 1, generator=random)


def blocks_by_hand(images: Tensor) -> np.ndarray:
    """Each channel's 4×4 blocks, image borders cut where they do not fit; in 65 536 levels."""
    rows = [
        [
            channel[y : y + 4, x : x + 4].mean()
            for channel in image
            for y in range(0, channel.shape[0], 4)
            for x in range(0, channel.shape[1], 4)
        ]
        for image in images.double().numpy()
    ]
    return np.round(np.array(rows) * 65536) / 65536


def fitted(parts: list[Tensor], size: tuple[int, int] = (10, 6), step: int = 1000) -> ClassGaussian:
    """One class per part, shuffled together, taken in step by step."""
    gaussian, pixels = ClassGaussian(len(parts), (3, *size)), torch.cat(parts)
    labels = torch.cat([torch.full((len(part),), c) for c, part in enumerate(parts)])
    order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(0))
    for chosen in order.split(step):
        gaussian.update(pixels[chosen], labels[chosen], chosen)
    return gaussian


def small(gaussian: ClassGaussian, n: int) -> np.ndarray:
    samples = gaussian.sample(torch.zeros(n, dtype=torch.int64))
    return samples[:, :, ::4, ::4].flatten(1).double().numpy()


@pytest.mark.parametrize("seen", [2, FEW, 18, 19, MANY])
def test_samples_have_exactly_the_covariance_of_the_images(seen, monkeypatch):
    """A sample is linear in its noise: x = μ + Mz. Unit vectors for z show M; Σ must be MMᵀ."""
    part, unit_vectors = images(seen), lambda seed, ids, shape, stream: torch.eye(*shape * 2)[ids]
    monkeypatch.setattr(starts, "normal", unit_vectors)
    dimension = 3 * 3 * 2
    length = dimension if seen > dimension else seen + dimension
    samples, blocks = small(fitted([part, images(FEW, seed=1)]), length), blocks_by_hand(part)
    mean = blocks.mean(axis=0)
    covariance = sum(np.outer(row, row) for row in blocks - mean) / (seen - 1)
    found = (samples - mean).T @ (samples - mean)
    np.testing.assert_allclose(found, covariance + 1e-4 * np.eye(dimension), rtol=0, atol=1e-7)


@pytest.mark.parametrize("seen", [FEW, MANY])
def test_samples_are_normal_with_these_moments(seen):
    part, n = images(seen, (8, 8)), 6000
    samples, blocks = small(fitted([part], (8, 8)), n), blocks_by_hand(part)
    covariance = np.cov(blocks.T) + 1e-4 * np.eye(12)
    error = np.sqrt(np.diag(covariance) / n)
    assert (np.abs(samples.mean(axis=0) - blocks.mean(axis=0)) < 4.5 * error).all()
    variances = np.diag(covariance)
    error = np.sqrt((np.outer(variances, variances) + covariance**2) / n)
    assert (np.abs(np.cov(samples.T) - covariance) < 4.5 * error).all()
    whitened = (samples - blocks.mean(axis=0)) @ np.linalg.inv(np.linalg.cholesky(covariance)).T
    assert np.abs((whitened**4).mean(axis=0) - 3).max() < 0.6


@pytest.mark.parametrize("step", [1, 13])
def test_streams_and_shards_fit_the_same(step):
    """However the images come, to the same bits."""
    parts = [images(FEW), images(MANY, seed=1), images(20, seed=2)]
    labels = torch.arange(60) % 3
    assert torch.equal(fitted(parts, step=step).sample(labels), fitted(parts).sample(labels))


@pytest.mark.parametrize("first", [FEW, MANY])
@pytest.mark.parametrize("second", [0, FEW, 15, MANY])
def test_merged_shards_are_the_whole(first, second):
    both = torch.cat([images(first), images(second, seed=1)])
    merged, other, whole = (ClassGaussian(2, (3, 10, 6)) for _ in range(3))
    ids = torch.randperm(first + second, generator=torch.Generator().manual_seed(0))
    parts = torch.arange(first), torch.arange(first, first + second), ids.argsort()
    for gaussian, part in zip((merged, other, whole), parts, strict=True):
        gaussian.update(both[part], torch.zeros(len(part), dtype=torch.int64), ids[part])
    merged.merge(other)
    labels = torch.zeros(9, dtype=torch.int64)
    assert torch.equal(merged.sample(labels), whole.sample(labels))
    assert (merged.count.tolist(), other.count.tolist()) == ([first + second, 0], [second, 0])


def test_samples_are_images_of_blocks_and_depend_on_seed_id_and_class_alone():
    gaussian = fitted([images(FEW), images(MANY, seed=1)])
    labels, ids = torch.tensor([0, 1, 0, 1, 1]), torch.tensor([5, 6, 7, 8, 9])
    together = gaussian.sample(labels, ids)
    for i in (3, 0):
        alone = gaussian.sample(labels[i : i + 1], ids[i : i + 1])[0]
        torch.testing.assert_close(alone, together[i], rtol=0, atol=1e-6)
    assert len({tuple(image.flatten().tolist()) for image in together}) == 5
    assert not torch.equal(gaussian.sample(labels, ids, seed=1), together)
    colors = images(FEW)[..., :1, :1].sub(0.5).sign().clamp(0, 1).expand(-1, -1, 10, 6)
    samples = fitted([colors]).sample(torch.zeros(50, dtype=torch.int64))
    assert (samples.shape, samples.dtype) == ((50, 3, 10, 6), torch.float32)
    assert (samples.min(), samples.max()) == (0, 1)
    rows, columns = torch.arange(10) // 4 * 4, torch.arange(6) // 4 * 4
    assert torch.equal(samples, samples[:, :, rows][..., columns])


def test_kept_in_a_file_it_draws_the_same_bits():
    gaussian = fitted([images(FEW), images(MANY, seed=1), images(0)])
    again = ClassGaussian(3, (3, 10, 6))
    again.update(images(4), torch.tensor([0, 1, 2, 2]), torch.arange(4))  # forgotten
    again.restore(load(save(gaussian.state())))
    labels = torch.tensor([0, 1, 0, 1])
    assert torch.equal(again.sample(labels), gaussian.sample(labels))
    more = images(3, seed=9), torch.tensor([0, 1, 2]), torch.arange(500, 503)
    again.update(*more)
    gaussian.update(*more)
    assert torch.equal(again.sample(labels), gaussian.sample(labels))
    with pytest.raises(DataError, match="fit them again"):
        ClassGaussian(2, (3, 10, 6)).restore(gaussian.state())


def test_what_cannot_be_fitted_or_drawn():
    gaussian, ids = fitted([images(FEW), images(1, seed=1)]), torch.arange(2)
    for label, seen in ((1, 1), (2, 0), (-1, 0)):
        with pytest.raises(DataError, match=f"class {label} can be fitted to {seen} images"):
            gaussian.sample(torch.tensor([0, label]))
    for pixels, labels, words in (
        (images(2, (8, 8)), [0, 0], r"to images of \(3, 10, 6\), not of \(3, 8, 8\)"),
        (images(2), [0, 2], "labels must be 0 to 1, found 0 to 2"),
        (images(2) * 255, [0, 1], "must lie in"),
    ):
        with pytest.raises(DataError, match=words):
            gaussian.update(pixels, torch.tensor(labels), ids)
    assert gaussian.count.tolist() == [FEW, 1]
    assert gaussian.sample(torch.empty(0, dtype=torch.int64)).shape == (0, 3, 10, 6)


def test_noise():
    noise = noise_images(torch.arange(200), (3, 8, 8))
    assert noise.mean().item() == pytest.approx(0.5, abs=2e-3)
    assert noise.std().item() == pytest.approx(1 / 20, abs=1e-3)
    assert 0 <= noise.min() < noise.max() <= 1
    assert torch.equal(noise_images(torch.tensor([17, 3]), (3, 8, 8)), noise[[17, 3]])
    assert not torch.equal(noise_images(torch.arange(200), (3, 8, 8), seed=1), noise)
