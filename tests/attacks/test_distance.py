"""attacks.distance and attacks.adam: naive float64, torch's Adam, and the calibration."""

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from advlens import L2, Divergence, FeatureAttack, Linf
from advlens.attacks import AdamAttack, smallest
from advlens.prepared import prepare
from advlens.seeding import Stream
from steps_by_hand import adam, moved, stream


def test_feature_attack_raises_the_distance(smooth, pixels):
    model, threat = prepare(smooth), L2(epsilon=0.5)

    def distance(images, layer):
        parts = []
        for x in (images, pixels):
            hidden = torch.tanh(smooth.conv1(2 * x - 1))
            maps = hidden if layer == "conv1" else torch.tanh(smooth.conv2(hidden))
            parts.append(torch.relu(maps))
        return (parts[0] - parts[1]).square().flatten(1).mean(dim=1)

    start = threat.sample(pixels, seed=0, ids=torch.arange(24))
    for layer in ("conv1", "conv2"):
        found = FeatureAttack(threat=threat, steps=8, layer=layer)(model, pixels)
        assert (distance(found, layer) > 1.5 * distance(start, layer)).all()
    assert torch.equal(FeatureAttack(threat=threat, steps=8)(model, pixels), found)  # the last


def start_by_hand(images: Tensor, ids, seed: int) -> Tensor:
    """Gaussian noise of standard deviation 0.001 from each image's own stream."""
    draws = [stream(seed, number, Stream.START) for number in ids.tolist()]
    noise = [draw.standard_normal(images.shape[1:], dtype=np.float32) for draw in draws]
    return (images.double() + 0.001 * torch.from_numpy(np.stack(noise)).double()).clamp(0, 1)


def divergence_loop(network, norm, epsilon, steps, size, images, ids, seed):
    """Each image by itself, with log p and log q written out (Zhang et al. 2019, algorithm 1)."""
    network, iterates = copy.deepcopy(network).double(), []
    for image, start in zip(images.double(), start_by_hand(images, ids, seed), strict=True):
        z = network(image[None])[0].detach()
        log_p, current, kept = z - z.exp().sum().log(), start, []
        for _ in range(steps + 1):
            x = current[None].requires_grad_()
            w = network(x)[0]
            loss = (log_p.exp() * (log_p - (w - w.exp().sum().log()))).sum()
            kept.append((loss.item(), current))
            (gradient,) = torch.autograd.grad(loss, x)
            current = moved(norm, current, gradient[0], size, image, epsilon)
        iterates.append(kept)
    return iterates


@pytest.mark.parametrize(("norm", "epsilon", "size"), [(Linf, 0.031, 0.007), (L2, 0.5, 0.15)])
def test_divergence_equals_the_loop_of_trades(norm, epsilon, size, smooth, pixels):
    smooth, pixels, ids = smooth.double(), pixels.double(), torch.arange(24) + 40
    iterates = divergence_loop(smooth, norm, epsilon, 6, size, pixels, ids, 3)
    settings = {"threat": norm(epsilon=epsilon), "steps": 6, "step_size": size, "seed": 3}
    last = Divergence(**settings, select="last")(smooth, pixels, ids=ids)
    worst = Divergence(**settings)(smooth, pixels, ids=ids)
    for i, kept in enumerate(iterates):
        highest = max(kept, key=lambda pair: pair[0])[1]
        torch.testing.assert_close(last[i], kept[-1][1], rtol=0, atol=1e-8)
        torch.testing.assert_close(worst[i], highest, rtol=0, atol=1e-8)
        assert kept[-1][0] > 10 * kept[0][0] > 0


def test_divergence_rises_with_the_radius(smooth, pixels):
    """Also where the softmax of the clean image rounds to one class."""
    with torch.no_grad():
        smooth.linear.weight *= 20
    model = prepare(smooth)
    with torch.no_grad():
        clean = model(pixels).double()
    assert (clean.softmax(1).amax(1) > 1 - 1e-8).float().mean() > 0.2
    reached = []
    for radius in (0.1, 0.2, 0.4):
        attacked = Divergence(threat=L2(epsilon=radius), steps=10)(model, pixels)
        with torch.no_grad():
            p, q = clean.log_softmax(1), model(attacked).double().log_softmax(1)
        reached.append((p.exp() * (p - q)).sum(1))
    assert (reached[0] > 0).all()
    assert (reached[1] > reached[0]).all()
    assert (reached[2] > reached[1]).all()


class Rounds(nn.Module):
    """Rounds pixels to 64 levels and passes the gradient on, as defences that quantize do.

    Below them a constant makes logits of about `bias`, whose rounding the network's own drown in.
    """

    def __init__(self, network: nn.Module, levels: int, bias: float):
        super().__init__()
        self.network, self.levels, self.bias = network, levels, bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rounded = (x * self.levels).round() / self.levels
        return self.network(x + (rounded - x).detach()) + self.bias


@pytest.mark.parametrize(("levels", "bias"), [(64, 0.0), (4096, 1e4)], ids=["equal", "rounding"])
@pytest.mark.parametrize(("norm", "epsilon"), [(Linf, 0.03), (L2, 0.4)])
def test_where_nothing_has_moved_the_noise_is_followed(norm, epsilon, levels, bias, smooth, pixels):
    """And no gradient that is rounding: one image is the same in any batch and at any place."""
    model, ids = prepare(Rounds(smooth, levels, bias)), torch.arange(24)
    middle, threat = (pixels * 64).round().clamp(1, 63) / 64, norm(epsilon=epsilon)
    attack = Divergence(threat=threat, steps=1, step_size=epsilon / 4, select="last")
    found, start = attack(model, middle, ids=ids), start_by_hand(middle, ids, 0).float()
    noise = start - middle
    along = noise.sign() if norm is Linf else noise / noise.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    expected = (start + epsilon / 4 * along).clamp(0, 1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * epsilon)
    one = torch.cat([attack(model, middle[i : i + 1], ids=ids[i : i + 1]) for i in range(24)])
    torch.testing.assert_close(one, found, rtol=0, atol=2e-7)
    # and from there the attack finds its way
    further = Divergence(threat=threat, steps=10)(Rounds(smooth, 64, 0), middle, ids=ids)
    with torch.no_grad():
        p, q = (smooth(x).double().log_softmax(1) for x in (middle, further))
    assert ((p.exp() * (p - q)).sum(1) > 1e-3).all()


@pytest.mark.parametrize("targeted", [True, False])
@pytest.mark.parametrize("weight", [0.3, 20.0])
def test_update(targeted, weight, smooth, pixels, labels):
    attack = AdamAttack(weight=weight, steps=8, targeted=targeted)
    with torch.no_grad():
        classes = smooth(pixels).argmin(dim=1) if targeted else labels
    settings = attack.weight, attack.steps, 1 if targeted else -1, attack.step_size
    expected = adam(copy.deepcopy(smooth).double(), pixels.double(), classes, *settings)
    torch.testing.assert_close(attack(smooth, pixels, labels).double(), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("targeted", "success"), [(True, 0.8), (False, 0.95), (False, 1.0)])
def test_calibration_finds_the_smallest_weight(targeted, success, smooth, pixels, labels):
    model = prepare(smooth)
    attack = AdamAttack(targeted=targeted).calibrate(model, pixels, labels, success=success)
    goal = attack.goal(model(pixels), labels)

    def rate(weight: float) -> float:
        found = AdamAttack(targeted=targeted, weight=weight)(model, pixels, labels)
        return (goal.reached(model(found)) | goal.reached(model(pixels))).float().mean().item()

    assert rate(attack.weight) >= success
    assert rate(attack.weight / 1.1) < success


def test_the_smallest_weight_and_the_largest_where_none_succeeds(smooth, pixels):
    assert AdamAttack(steps=1, step_size=1e-6).calibrate(smooth, pixels).weight == 1e6
    for wanted in (3e-4, 0.7, 5e5):
        found = smallest(lambda value, wanted=wanted: value >= wanted, 1e-4, 1e6, ratio=1.1)
        assert wanted <= found <= 1.1 * wanted
    assert smallest(lambda value: True, 1e-4, 1e6, ratio=1.1) == 1e-4
    assert smallest(lambda value: False, 1e-4, 1e6, ratio=1.1) == 1e6
