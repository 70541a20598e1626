"""Attributions a second time: plain loops in float64, one gradient after the other."""

import numpy as np
import torch
from torch import Tensor, nn

from advlens.seeding import Stream, derived
from steps_by_hand import stream


def score_and_gradient(model, point, label, target):
    """F and its gradient at a point 3×H×W, in float64."""
    point = point.double().clone().requires_grad_()
    logits = model(point[None])[0]
    value = logits.softmax(dim=0)[label] if target == "probability" else logits[label]
    value.backward()
    return value.item(), point.grad


def noise(shape: tuple[int, ...], seed: int, number: int, draw: int) -> Tensor:
    numbers = stream(derived(seed, draw), number, Stream.NOISE)
    return torch.from_numpy(numbers.random(shape, dtype=np.float32)).double()


def integrated(model, image, baseline, label, target, m, divisor):
    """(x − x′) · 1/(2 divisor) Σ (g_i + g_{i−1}), i = 1 … m, and F(x) − F(x′)."""
    change = image.double() - baseline.double()
    points = [baseline.double() + i / m * change for i in range(m + 1)]
    values, gradients = zip(
        *(score_and_gradient(model, point, label, target) for point in points), strict=True
    )
    total = sum(gradients[i] + gradients[i - 1] for i in range(1, m + 1))
    return change * total / (2 * divisor), values[m] - values[0]


def expected(model, image, background, label, target, draws):
    """The mean over draws (number of a background image, α), and each draw's sum."""
    parts = []
    for number, alpha in draws:
        change = image.double() - background[number].double()
        point = background[number].double() + alpha * change
        parts.append(change * score_and_gradient(model, point, label, target)[1])
    return sum(parts) / len(parts), [part.sum().item() for part in parts]


def samples(seed: int, number: int, count: int, background: int, stratified: bool) -> list:
    """The draws that an image gets."""
    generator = stream(seed, number, Stream.NOISE)
    alphas = generator.random(count)
    if not stratified:
        return list(zip(generator.integers(background, size=count), alphas, strict=True))
    cards: list[int] = []
    while len(cards) < count:
        cards += generator.permutation(background).tolist()
    return [(cards[i], (i // 2 + alphas[i]) / (count / 2)) for i in range(count)]


def linear() -> tuple[nn.Module, Tensor, Tensor]:
    """A linear model of three images 3×8×8, their labels, and the weights of these."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(192, 5))
    labels = torch.tensor([4, 0, 2])
    return model, labels, model[1].weight[labels].view(3, 3, 8, 8).detach()
