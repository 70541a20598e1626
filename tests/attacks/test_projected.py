"""attacks.projected: each update derived a second time, naively, in float64."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from advlens.attacks import Bim, Fgsm, GaussianNoise, LeastLikely, Pgd
from advlens.attacks.threat import L2, Linf, Uniform
from advlens.prepared import prepare

EPS = torch.finfo(torch.float32).eps
in_both = pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64], ids=["float32", "float64"]
)


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    """A length is a sum of 192 squares, and each of up to six steps rounds its pixels."""
    atol = {torch.float32: 1e-5, torch.float64: 1e-13}[found.dtype]
    torch.testing.assert_close(found.double(), expected.double(), rtol=0, atol=atol)


def naive_gradient(network, images: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """∇ₓ of plain cross entropy, one image at a time."""
    found = []
    for image, label in zip(images, classes, strict=True):
        x = torch.from_numpy(image).unsqueeze(0).requires_grad_()
        F.cross_entropy(network(x), torch.tensor([int(label)])).backward()
        found.append(x.grad.numpy()[0])
    return np.stack(found)


def naive_step(norm, gradient: np.ndarray) -> np.ndarray:
    if norm is Linf:
        # float32 knows a gradient to 3 ε of its image's largest value: no sign is one of rounding
        sizes = np.abs(gradient).reshape(len(gradient), -1)
        assert (sizes.min(axis=1) > 16 * EPS * sizes.max(axis=1)).all()
        return np.sign(gradient)
    return np.stack([g / np.sqrt((g**2).sum()) for g in gradient])


def naive_projection(norm, candidates: np.ndarray, images: np.ndarray, epsilon: float):
    found = []
    for candidate, image in zip(candidates, images, strict=True):
        change = candidate - image
        if norm is Linf:
            change = np.minimum(np.maximum(change, -epsilon), epsilon)
        else:
            length = np.sqrt((change**2).sum())
            change = change * (epsilon / length if length > epsilon else 1)
        found.append(np.minimum(np.maximum(image + change, 0), 1))
    return np.stack(found)


def naive_iterates(network, norm, epsilon, steps, size, images, classes, start, sign=1):
    """x₀ … x_K."""
    network = copy.deepcopy(network).double()
    clean, iterates = images.double().numpy(), [start.double().numpy()]
    for _ in range(steps):
        gradient = sign * naive_gradient(network, iterates[-1], classes.numpy())
        moved = iterates[-1] + size * naive_step(norm, gradient)
        iterates.append(naive_projection(norm, moved, clean, epsilon))
    return [torch.from_numpy(x) for x in iterates]


@in_both
@pytest.mark.parametrize("norm", [Linf, L2])
def test_fgsm(norm, dtype, smooth, pixels, labels):
    smooth, pixels = smooth.to(dtype), pixels.to(dtype)
    epsilon = 0.03 if norm is Linf else 0.5
    expected = naive_iterates(smooth, norm, epsilon, 1, epsilon, pixels, labels, pixels)[-1]
    threat = norm(epsilon=epsilon)
    found = Fgsm(threat=threat)(smooth, pixels, labels)
    assert_close(found, expected)
    # one step of BIM, and of PGD at a start without randomness, is FGSM
    one = Bim(threat=threat, steps=1, step_size=epsilon, select="last")(smooth, pixels, labels)
    assert_close(one, found)


@pytest.mark.parametrize("norm", [Linf, L2])
def test_a_step_along_a_given_gradient(norm, pixels):
    """FGSM's own step, radii drawn as in a call."""
    ids = torch.arange(24) + 3
    attack = Fgsm(threat=norm(epsilon=Uniform(low=0.1, high=0.9)), seed=4)
    gradient = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(0))
    radii = Uniform(low=0.1, high=0.9).draw(4, ids).view(-1, 1, 1, 1).numpy()
    step = naive_step(norm, gradient.double().numpy())
    expected = np.clip(pixels.double().numpy() + radii * step, 0, 1)
    found = attack.along(gradient, pixels, ids)
    assert_close(found, torch.from_numpy(expected))


@in_both
@pytest.mark.parametrize("norm", [Linf, L2])
@pytest.mark.parametrize("kind", [Bim, Pgd])
def test_bim_and_pgd(kind, norm, dtype, smooth, pixels, labels):
    smooth, pixels = smooth.to(dtype), pixels.to(dtype)
    epsilon, size = (0.03, 0.008) if norm is Linf else (0.5, 0.2)
    threat, ids = norm(epsilon=epsilon), torch.arange(24) + 5
    start = pixels if kind is Bim else threat.sample(pixels, seed=3, ids=ids)
    expected = naive_iterates(smooth, norm, epsilon, 6, size, pixels, labels, start)[-1]
    attack = kind(threat=threat, steps=6, step_size=size, select="last", seed=3)
    found = attack(smooth, pixels, labels, ids=ids)
    assert_close(found, expected)


@in_both
@pytest.mark.parametrize("norm", [Linf, L2])
def test_least_likely(norm, dtype, smooth, pixels):
    smooth, pixels = smooth.to(dtype), pixels.to(dtype)
    epsilon, size = (0.03, 0.008) if norm is Linf else (0.5, 0.2)
    with torch.no_grad():
        target = smooth(pixels).argmin(dim=1)
    expected = naive_iterates(smooth, norm, epsilon, 6, size, pixels, target, pixels, sign=-1)[-1]
    attack = LeastLikely(threat=norm(epsilon=epsilon), steps=6, step_size=size, select="last")
    assert_close(attack(smooth, pixels), expected)
    start = attack.threat.sample(pixels, seed=0, ids=torch.arange(24))
    expected = naive_iterates(smooth, norm, epsilon, 6, size, pixels, target, start, sign=-1)[-1]
    random = LeastLikely(
        threat=norm(epsilon=epsilon), steps=6, step_size=size, select="last", random_start=True
    )
    assert_close(random(smooth, pixels), expected)


def test_default_step_size(smooth, pixels, labels):
    default = Pgd(threat=L2(epsilon=0.6), steps=5, select="last")
    given = Pgd(threat=L2(epsilon=0.6), steps=5, step_size=2.5 * 0.6 / 5, select="last")
    assert_close(default(smooth, pixels, labels), given(smooth, pixels, labels))


def test_predicted_label(smooth, pixels, labels):
    with torch.no_grad():
        predicted = smooth(pixels).argmax(dim=1)
    for make in (
        lambda label: Fgsm(threat=Linf(epsilon=0.02), label=label),
        lambda label: Bim(threat=L2(epsilon=0.5), steps=3, label=label),
        lambda label: Pgd(threat=L2(epsilon=0.5), steps=3, label=label),
    ):
        expected = make("true")(smooth, pixels, predicted)
        assert torch.equal(make("predicted")(smooth, pixels), expected)
        assert not torch.equal(make("true")(smooth, pixels, labels), expected)


def worst_by_hand(network, iterates: list, classes: torch.Tensor, targeted: bool) -> torch.Tensor:
    """For each image the iterate with the most extreme loss, among those that succeed if any."""
    network = copy.deepcopy(network).double()
    chosen = []
    for i, label in enumerate(classes.tolist()):
        ranks = []
        for number, x in enumerate(iterates):
            with torch.no_grad():
                logits = network(x[i : i + 1])
            loss = F.cross_entropy(logits, torch.tensor([label])).item()
            hit = (logits.argmax().item() == label) == targeted
            ranks.append((hit, -loss if targeted else loss, -number))
        chosen.append(iterates[-max(ranks)[2]][i])
    return torch.stack(chosen)


def test_worst_iterate(smooth, pixels, labels):
    """With steps so long that the last iterate is often not the worst.

    In float64: the losses of two iterates of an image are as little as 2e-6 apart.
    """
    smooth, pixels = smooth.double(), pixels.double()
    epsilon, size, moved = 0.3, 0.6, 0
    for kind in (Bim, LeastLikely):
        targeted = kind is LeastLikely
        with torch.no_grad():
            classes = smooth(pixels).argmin(dim=1) if targeted else labels
        sign = -1 if targeted else 1
        iterates = naive_iterates(smooth, L2, epsilon, 5, size, pixels, classes, pixels, sign)
        expected = worst_by_hand(smooth, iterates, classes, targeted)
        found = kind(threat=L2(epsilon=epsilon), steps=5, step_size=size)(smooth, pixels, labels)
        assert_close(found, expected)
        moved += (expected != iterates[-1]).flatten(1).any(dim=1).sum().item()
    assert moved > 5


@in_both
def test_restarts_return_the_worst_of_their_runs(dtype, smooth, pixels, labels):
    smooth, pixels = smooth.to(dtype), pixels.to(dtype)
    for select in ("worst", "last"):
        attack = Pgd(threat=L2(epsilon=0.5), steps=2, restarts=3, select=select)
        starts = [attack._start(pixels, torch.arange(24), restart) for restart in range(3)]
        assert not torch.equal(starts[0], starts[1])
        size = 2.5 * 0.5 / 2
        runs = [naive_iterates(smooth, L2, 0.5, 2, size, pixels, labels, start) for start in starts]
        runs = [x for run in runs for x in (run if select == "worst" else run[-1:])]
        expected = worst_by_hand(smooth, runs, labels, False)
        assert_close(attack(smooth, pixels, labels), expected)


def robust(attack, smooth, pixels, labels) -> float:
    rows = attack.outcomes(smooth, pixels, labels)
    return (rows.argmax(dim=1) == labels).float().mean().item()


@pytest.fixture
def crowd(smooth):
    """400 images that the network has right."""
    pixels = torch.rand(400, 3, 8, 8, generator=torch.Generator().manual_seed(8))
    with torch.no_grad():
        return pixels, smooth(pixels).argmax(dim=1)


@pytest.mark.parametrize(("norm", "scale"), [(Linf, 0.015), (L2, 0.25)])
def test_a_stronger_attacker_never_helps_the_defender(norm, scale, smooth, crowd):
    model = prepare(smooth)
    by_epsilon = [
        robust(Pgd(threat=norm(epsilon=scale * e), steps=5), model, *crowd) for e in (0, 0.5, 1, 2)
    ]
    assert by_epsilon == sorted(by_epsilon, reverse=True)
    assert by_epsilon[0] == 1 > by_epsilon[1] > by_epsilon[2] > by_epsilon[3]
    threat = norm(epsilon=scale)
    # the same step size: more steps only add iterates
    by_steps = [
        robust(Bim(threat=threat, steps=k, step_size=scale / 5), model, *crowd)
        for k in (1, 3, 5, 10, 20)
    ]
    assert by_steps == sorted(by_steps, reverse=True)
    by_restarts = [
        robust(Pgd(threat=threat, steps=3, restarts=r), model, *crowd) for r in (1, 2, 4)
    ]
    assert by_restarts == sorted(by_restarts, reverse=True)
    assert robust(Fgsm(threat=threat), model, *crowd) >= by_steps[-1]
    free = Pgd(threat=Linf(epsilon=1.0), steps=10)
    assert robust(free, model, *crowd) <= 0.2  # chance


@pytest.mark.parametrize("norm", [Linf, L2])
def test_noise_has_exactly_the_length(norm):
    gray = torch.full((50, 3, 8, 8), 0.5)
    threat = norm(epsilon=0.2)
    noise = GaussianNoise(threat=threat)(nn.Identity(), gray) - gray
    torch.testing.assert_close(threat.length(noise), torch.full((50,), 0.2), rtol=1e-4, atol=0)
    assert noise.mean().abs() < 3.5 * noise.std() / noise.numel() ** 0.5
    unclamped = GaussianNoise(threat=norm(epsilon=9.0))(nn.Identity(), gray)
    assert unclamped.min() == 0
    assert unclamped.max() == 1
