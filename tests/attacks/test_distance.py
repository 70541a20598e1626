"""attacks.distance: the attacks on features and on probabilities, in naive float64."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from advlens.attacks import Divergence, FeatureAttack
from advlens.attacks.threat import L2, Linf
from advlens.prepared import prepare
from advlens.seeding import Stream


def test_feature_attack_raises_the_distance(smooth, pixels):
    model, threat = prepare(smooth), L2(epsilon=0.5)

    def distances(images, layer):
        network = copy.deepcopy(smooth).double()
        hidden = torch.tanh(network.conv1(2 * images.double() - 1))
        maps = hidden if layer == "conv1" else torch.tanh(network.conv2(hidden))
        return torch.relu(maps)

    for layer in ("conv1", "conv2"):
        attack = FeatureAttack(threat=threat, steps=8, layer=layer)
        start = threat.sample(pixels, seed=0, ids=torch.arange(24))
        found = attack(model, pixels)
        with torch.no_grad():
            clean = distances(pixels, layer)
            at_start, at_end = (
                (distances(x, layer) - clean).square().flatten(1).mean(dim=1)
                for x in (start, found)
            )
        assert (at_end > 1.5 * at_start).all()
    assert torch.equal(FeatureAttack(threat=threat, steps=8)(model, pixels), found)  # the last


def start_by_hand(images: np.ndarray, ids, seed: int) -> np.ndarray:
    """Gaussian noise of standard deviation 0.001 from each image's own stream."""
    found = []
    for image, number in zip(images, ids.tolist(), strict=True):
        bits = np.random.Philox(key=[seed, number], counter=[0, 0, 0, Stream.START])
        noise = np.random.Generator(bits).standard_normal(image.shape, dtype=np.float32)
        found.append(np.clip(image + 0.001 * noise, 0, 1))
    return np.stack(found)


def divergence_loop(network, norm, epsilon, steps, size, images, ids, seed):
    """Each image by itself, with log p and log q written out (Zhang et al. 2019, algorithm 1)."""
    network = copy.deepcopy(network).double()
    clean = images.double().numpy()
    start, iterates = start_by_hand(clean, ids, seed), []
    for image, current in zip(clean, start, strict=True):
        z = network(torch.from_numpy(image)[None])[0].detach()
        log_p = z - torch.log(torch.exp(z).sum())
        kept = []
        for step in range(steps + 1):
            x = torch.from_numpy(current)[None].requires_grad_()
            w = network(x)[0]
            log_q = w - torch.log(torch.exp(w).sum())
            loss = (log_p.exp() * (log_p - log_q)).sum()
            kept.append((loss.item(), current))
            if step == steps:
                break
            loss.backward()
            gradient = x.grad[0].numpy()
            if norm is Linf:
                moved = current + size * np.sign(gradient)
                change = np.clip(moved - image, -epsilon, epsilon)
            else:
                moved = current + size * gradient / np.sqrt((gradient**2).sum())
                change = moved - image
                change *= min(1, epsilon / np.sqrt((change**2).sum()))
            current = np.clip(image + change, 0, 1)
        iterates.append(kept)
    return iterates


@pytest.mark.parametrize(("norm", "epsilon", "size"), [(Linf, 0.031, 0.007), (L2, 0.5, 0.15)])
def test_divergence_equals_the_loop_of_trades(norm, epsilon, size, smooth, pixels):
    ids = torch.arange(24) + 40
    iterates = divergence_loop(smooth, norm, epsilon, 6, size, pixels, ids, 3)
    settings = {"threat": norm(epsilon=epsilon), "steps": 6, "step_size": size, "seed": 3}
    last = Divergence(**settings, select="last")(smooth, pixels, ids=ids)
    worst = Divergence(**settings)(smooth, pixels, ids=ids)
    # The first gradient is of logits that differ by 1e-3 and are known to 1e-6: rounding decides
    # the sign where a pixel's gradient is next to 0, of one pixel in a hundred at most.
    same = 0.0
    for i, kept in enumerate(iterates):
        highest = max(kept, key=lambda pair: pair[0])[1]
        for found, expected in ((last[i], kept[-1][1]), (worst[i], highest)):
            away = np.abs(found.double().numpy() - expected)
            assert away.max() < (2 * epsilon if norm is Linf else 5e-4)
            same += (away < 5e-4).mean() / 48
        assert kept[-1][0] > 10 * kept[0][0] > 0
    assert same > 0.99


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
    model, threat, ids = Rounds(smooth, levels, bias), norm(epsilon=epsilon), torch.arange(24)
    middle = (pixels * 64).round().clamp(1, 63) / 64
    attack = Divergence(threat=threat, steps=1, step_size=epsilon / 4, select="last")
    found = attack(model, middle, ids=ids)
    start = torch.from_numpy(start_by_hand(middle.numpy(), ids, 0)).float()
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
