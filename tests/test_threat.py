"""threat: the balls, their uniform points, and full-length steps for any gradient."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from advlens.errors import SettingsError
from advlens.threat import L2, Linf, Threat

NORMS = [Linf, L2]


def assert_within(threat: Threat, found: torch.Tensor, images: torch.Tensor) -> None:
    """‖δ‖∞ ≤ ε + 1e-6, ‖δ‖₂ ≤ ε (1 + 1e-5), pixels in [0, 1]; lengths in float64.

    The pixels themselves are float32: each may be off by half a unit in the last place, 3e-8.
    """
    epsilon = torch.as_tensor(threat.epsilon, dtype=torch.float64)
    difference = (found.double() - images.double()).flatten(1)
    if isinstance(threat, Linf):
        assert (difference.abs().amax(dim=1) <= epsilon + 1e-6).all()
    else:
        rounding = 3e-8 * math.sqrt(difference.shape[1])
        assert (difference.square().sum(dim=1).sqrt() <= epsilon * (1 + 1e-5) + rounding).all()
    assert ((found >= 0) & (found <= 1)).all()


@st.composite
def cases(draw):
    """A threat, images in [0, 1] and any candidates."""
    n, height, width = draw(st.integers(1, 4)), draw(st.integers(1, 6)), draw(st.integers(1, 6))
    radius = st.one_of(st.just(0.0), st.floats(1e-4, 3))
    epsilon = draw(st.one_of(radius, st.lists(radius, min_size=n, max_size=n).map(torch.tensor)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    images = (torch.rand(n, 3, height, width, generator=generator) * 1.5 - 0.25).clamp(0, 1)
    spread = draw(st.sampled_from([1e-12, 1e-3, 0.3, 10, 1e6]))
    candidates = images + spread * torch.randn(images.shape, generator=generator)
    return draw(st.sampled_from(NORMS))(epsilon=epsilon), images, candidates


@settings(max_examples=500, deadline=None)
@given(cases())
def test_invariants(case):
    threat, images, candidates = case
    ids = torch.arange(len(images))
    projected = threat.project(candidates, images)
    for found in (projected, threat.sample(images, seed=1, ids=ids)):
        assert_within(threat, found, images)
        still = (torch.as_tensor(threat.epsilon) == 0).expand(len(images))
        assert torch.equal(found[still], images[still])
    torch.testing.assert_close(threat.project(projected, images), projected, rtol=0, atol=1e-6)
    inside = images + 0.99 * (projected - images)
    torch.testing.assert_close(threat.project(inside, images), inside, rtol=0, atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_large_images_do_not_overshoot(norm):
    images = torch.rand(4, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    threat = norm(epsilon=1.5 if norm is L2 else 4 / 255)
    current = threat.sample(images, seed=0, ids=torch.arange(4))
    assert_within(threat, current, images)
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    for scale in (1e-3, 1, 1e4):
        assert_within(threat, threat.project(current + scale * noise, images), images)


def kolmogorov_smirnov(values: np.ndarray) -> float:
    """Distance of the values' distribution from the uniform one, times √n."""
    ordered = np.sort(values.ravel())
    return np.abs(ordered - np.arange(ordered.size) / ordered.size).max() * ordered.size**0.5


@pytest.mark.parametrize("size", [1, 2, 8])
def test_l2_start_is_uniform_in_the_ball(size):
    images = torch.full((2000, 3, size, size), 0.5)
    found = L2(epsilon=0.25).sample(images, seed=3, ids=torch.arange(2000))
    difference = (found - images).flatten(1).double()
    length = difference.norm(dim=1)
    # the share of a d-ball within radius r is r^d
    assert kolmogorov_smirnov(((length / 0.25) ** difference.shape[1]).numpy()) < 1.95
    direction = difference / length.unsqueeze(1)
    spread = 3.5 / (2000 * direction.shape[1]) ** 0.5
    assert direction.mean(dim=0).abs().max() < spread
    assert (direction.square().mean(dim=0) * direction.shape[1] - 1).abs().max() < 0.2
    # a radius drawn as u itself, as in torchattacks, fails
    share = torch.rand(2000, generator=torch.Generator().manual_seed(0)).double()
    assert kolmogorov_smirnov((share ** difference.shape[1]).numpy()) > 1.95


def test_linf_start_is_uniform_in_the_box():
    images = torch.full((200, 3, 8, 8), 0.5)
    found = Linf(epsilon=0.25).sample(images, seed=3, ids=torch.arange(200))
    assert kolmogorov_smirnov((((found - images) / 0.25 + 1) / 2).numpy()) < 1.95


@pytest.mark.parametrize("norm", NORMS)
def test_start_depends_on_seed_and_id_only(norm):
    images = torch.rand(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([9, 2, 7, 0, 4])
    threat = norm(epsilon=0.2)
    together = threat.sample(images, seed=5, ids=ids)
    assert torch.equal(threat.sample(images[2:3], seed=5, ids=ids[2:3]), together[2:3])
    assert not torch.equal(threat.sample(images, seed=6, ids=ids), together)
    assert threat.sample(images[:0], seed=5, ids=ids[:0]).shape == (0, 3, 4, 4)


@pytest.mark.parametrize("size", [1e-38, 1e-30, 1e-9, 1.0, 1e30])
@pytest.mark.parametrize("norm", NORMS)
def test_steps_have_full_length_for_gradients_of_any_size(norm, size):
    unit = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(1)).double()
    unit /= unit.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    threat = norm(epsilon=1)
    step = threat.steepest((unit * size).float())
    torch.testing.assert_close(threat.length(step), torch.ones(6), rtol=1e-6, atol=0)
    expected = unit if norm is L2 else unit.sign()
    torch.testing.assert_close(step.double(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_zero_gradient_gives_no_step(norm):
    gradient = torch.zeros(3, 3, 4, 4)
    gradient[1, 0, 0, 0] = 1e-30
    step = norm(epsilon=1).steepest(gradient)
    assert torch.equal(step, (gradient > 0).float())


@pytest.mark.parametrize("norm", NORMS)
def test_one_epsilon_per_image(norm):
    images = torch.rand(3, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    epsilon = torch.tensor([0.0, 0.1, 0.4])
    threat, candidates, ids = norm(epsilon=epsilon), images.flip(0), torch.arange(3)
    for i in range(3):
        one = norm(epsilon=epsilon[i].item())
        part = slice(i, i + 1)
        assert torch.equal(
            threat.project(candidates, images)[part], one.project(candidates[part], images[part])
        )
        torch.testing.assert_close(
            threat.sample(images, seed=1, ids=ids)[part],
            one.sample(images[part], seed=1, ids=ids[part]),
        )
    positions = torch.tensor([2, 0])
    assert threat.at(positions).epsilon.tolist() == pytest.approx([0.4, 0.0])
    assert one.at(positions) is one
    with pytest.raises(SettingsError, match="3 values for 2 images"):
        threat.project(candidates[:2], images[:2])


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(
    "epsilon",
    [-1e-3, math.nan, math.inf, torch.tensor([0.1, -0.1]), torch.tensor([math.nan]), torch.eye(2)],
)
def test_impossible_epsilon_is_refused(norm, epsilon):
    with pytest.raises(SettingsError, match="finite number ≥ 0 in pixel units"):
        norm(epsilon=epsilon)


def test_lengths():
    difference = torch.zeros(2, 3, 2, 2)
    difference[0, 0, 0, 0], difference[0, 1, 1, 1] = 3.0, -4.0
    assert Linf(epsilon=1).length(difference).tolist() == [4, 0]
    assert L2(epsilon=1).length(difference).tolist() == [5, 0]
