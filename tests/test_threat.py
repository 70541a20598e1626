"""threat: the balls, their uniform points, and full-length steps for any gradient."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from advlens.attacks.threat import L2, Linf, Threat, Uniform
from advlens.errors import SettingsError
from advlens.seeding import Stream
from steps_by_hand import stream

NORMS = [Linf, L2]
each_norm = pytest.mark.parametrize("norm", NORMS)
WRONG = [-1e-3, math.nan, math.inf, *map(torch.tensor, ([0.1, -0.1], [math.nan])), torch.eye(2)]
RANGES = [(0.2, 0.1), (-0.1, 0.1), (math.nan, 1), (0, math.nan), (0, math.inf), (-math.inf, 0)]


def random_images(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


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


@settings(max_examples=250, deadline=None)
@given(cases())
def test_invariants(case):
    threat, images, candidates = case
    ids, projected = torch.arange(len(images)), threat.project(candidates, images)
    for found in (projected, threat.sample(images, seed=1, ids=ids)):
        assert_within(threat, found, images)
        still = (torch.as_tensor(threat.epsilon) == 0).expand(len(images))
        assert torch.equal(found[still], images[still])
    torch.testing.assert_close(threat.project(projected, images), projected, rtol=0, atol=1e-6)
    inside = images + 0.99 * (projected - images)
    torch.testing.assert_close(threat.project(inside, images), inside, rtol=0, atol=1e-6)


@each_norm
def test_large_images_do_not_overshoot(norm):
    images = random_images(4, 3, 224, 224)
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
    assert direction.mean(dim=0).abs().max() < 3.5 / (2000 * direction.shape[1]) ** 0.5
    assert (direction.square().mean(dim=0) * direction.shape[1] - 1).abs().max() < 0.2


def test_linf_start_is_uniform_in_the_box():
    images = torch.full((200, 3, 8, 8), 0.5)
    found = Linf(epsilon=0.25).sample(images, seed=3, ids=torch.arange(200))
    assert kolmogorov_smirnov((((found - images) / 0.25 + 1) / 2).numpy()) < 1.95


@each_norm
def test_start_depends_on_seed_and_id_only(norm):
    images, ids = random_images(5, 3, 4, 4), torch.tensor([9, 2, 7, 0, 4])
    threat = norm(epsilon=0.2)
    together = threat.sample(images, seed=5, ids=ids)
    assert torch.equal(threat.sample(images[2:3], seed=5, ids=ids[2:3]), together[2:3])
    assert not torch.equal(threat.sample(images, seed=6, ids=ids), together)
    assert threat.sample(images[:0], seed=5, ids=ids[:0]).shape == (0, 3, 4, 4)


@pytest.mark.parametrize("size", [1e-38, 1e-30, 1e-9, 1.0, 1e30])
@each_norm
def test_steps_have_full_length_for_gradients_of_any_size_but_zero(norm, size):
    unit = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(1)).double()
    unit /= unit.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    unit[3] = 0
    threat = norm(epsilon=1)
    step = threat.steepest((unit * size).float())
    lengths = torch.tensor([1.0, 1, 1, 0, 1, 1])
    torch.testing.assert_close(threat.length(step), lengths, rtol=1e-6, atol=0)
    expected = unit if norm is L2 else unit.sign()
    torch.testing.assert_close(step.double(), expected, rtol=0, atol=1e-6)


@each_norm
def test_one_epsilon_per_image(norm):
    images, epsilon = random_images(3, 3, 4, 4), torch.tensor([0.0, 0.1, 0.4])
    threat, candidates, ids = norm(epsilon=epsilon), images.flip(0), torch.arange(3)
    projected, sampled = threat.project(candidates, images), threat.sample(images, seed=1, ids=ids)
    for i in range(3):
        one, part = norm(epsilon=epsilon[i].item()), slice(i, i + 1)
        assert torch.equal(projected[part], one.project(candidates[part], images[part]))
        torch.testing.assert_close(sampled[part], one.sample(images[part], seed=1, ids=ids[part]))
    positions = torch.tensor([2, 0])
    assert threat.at(positions).epsilon.tolist() == pytest.approx([0.4, 0.0])
    assert one.at(positions) is one
    with pytest.raises(SettingsError, match="3 values for 2 images"):
        threat.project(candidates[:2], images[:2])


@each_norm
@pytest.mark.parametrize("epsilon", WRONG)
def test_impossible_epsilon_is_refused(norm, epsilon):
    with pytest.raises(SettingsError, match="finite number ≥ 0 in pixel units"):
        norm(epsilon=epsilon)


def by_hand(seed: int, number: int, low: float, high: float) -> float:
    """The first single-precision number of the image's own stream."""
    return low + (high - low) * float(stream(seed, number, Stream.EPSILON).random(dtype=np.float32))


def test_drawn_radii_are_uniform_and_their_own():
    low, high = 4 / 255, 16 / 255
    drawn = Uniform(low=low, high=high).draw(7, torch.arange(4000))
    assert ((drawn >= low) & (drawn <= high)).all()
    share = ((drawn - low) / (high - low)).numpy()
    assert kolmogorov_smirnov(share) < 1.95
    assert abs(np.corrcoef(share[1:], share[:-1])[0, 1]) < 3.5 / 4000**0.5
    assert share.std() == pytest.approx(12**-0.5, rel=0.05)
    expected = [by_hand(7, i, low, high) for i in range(50)]
    assert drawn[:50].tolist() == pytest.approx(expected, rel=1e-12)
    other = Uniform(low=low, high=high).draw(8, torch.arange(4000))
    assert abs(np.corrcoef(drawn, other)[0, 1]) < 3.5 / 4000**0.5


@each_norm
def test_a_radius_is_drawn_for_each_image_whatever_its_batch(norm):
    threat, ids = norm(epsilon=Uniform(low=0.1, high=0.4)), torch.tensor([9, 2, 700, 31])
    drawn = threat.drawn(3, ids)
    assert type(drawn) is norm
    assert drawn.epsilon.tolist() == pytest.approx([by_hand(3, i, 0.1, 0.4) for i in ids.tolist()])
    order = torch.tensor([2, 0])
    assert torch.equal(threat.drawn(3, ids[order]).epsilon, drawn.epsilon[order])
    assert threat.at(order) is threat
    assert drawn.drawn(99, ids) is drawn  # drawn once
    assert drawn.radius(torch.rand(4, 3, 2, 2)).shape == (4, 1, 1, 1)
    with pytest.raises(SettingsError, match="epsilon has yet to be drawn"):
        threat.project(torch.rand(4, 3, 2, 2), torch.rand(4, 3, 2, 2))
    assert norm(epsilon=Uniform(low=0.25, high=0.25)).drawn(3, ids).epsilon.tolist() == [0.25] * 4


@pytest.mark.parametrize(("low", "high"), RANGES)
def test_impossible_ranges_are_refused(low, high):
    with pytest.raises(SettingsError, match=f"0 ≤ low ≤ high in pixel units, not {low} and {high}"):
        Uniform(low=low, high=high)


def test_lengths_and_a_radius_to_be_drawn_that_is_recorded_whole():
    difference = torch.zeros(2, 3, 2, 2)
    difference[0, 0, 0, 0], difference[0, 1, 1, 1] = 3.0, -4.0
    assert Linf(epsilon=1).length(difference).tolist() == [4, 0]
    assert L2(epsilon=1).length(difference).tolist() == [5, 0]
    threat = Linf(epsilon=Uniform(low=0.1, high=0.25))
    assert repr(threat) == "Linf(epsilon=Uniform(low=0.1, high=0.25))"
    assert threat == Linf(epsilon=Uniform(low=0.1, high=0.25))
    assert hash(threat) == hash(Linf(epsilon=Uniform(low=0.1, high=0.25)))
