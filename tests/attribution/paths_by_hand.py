"""Attributions a second time: plain loops in float64, one gradient after the other."""

import numpy as np
import torch
from torch import Tensor, nn

from advlens.seeding import Stream, derived


def score_and_gradient(
    model: nn.Module, point: Tensor, label: int, target: str
) -> tuple[float, Tensor]:
    """F and its gradient at a point 3×H×W, in float64."""
    point = point.double().clone().requires_grad_()
    logits = model(point[None])[0]
    value = logits.softmax(dim=0)[label] if target == "probability" else logits[label]
    value.backward()
    return value.item(), point.grad


def noise(shape: tuple[int, ...], seed: int, number: int, draw: int) -> Tensor:
    bits = np.random.Philox(key=[derived(seed, draw), number], counter=[0, 0, 0, int(Stream.NOISE)])
    return torch.from_numpy(np.random.Generator(bits).random(shape, dtype=np.float32)).double()


def integrated(
    model: nn.Module,
    image: Tensor,
    baseline: Tensor,
    label: int,
    target: str,
    steps: int,
    divisor: int,
) -> tuple[Tensor, float]:
    """(x − x′) · 1/(2 divisor) Σ (g_i + g_{i−1}), and F(x) − F(x′)."""
    image, baseline = image.double(), baseline.double()
    total = torch.zeros_like(image)
    for i in range(1, steps + 1):
        _, now = score_and_gradient(model, baseline + i / steps * (image - baseline), label, target)
        _, before = score_and_gradient(
            model, baseline + (i - 1) / steps * (image - baseline), label, target
        )
        total += now + before
    high, _ = score_and_gradient(model, image, label, target)
    low, _ = score_and_gradient(model, baseline, label, target)
    return (image - baseline) * total / (2 * divisor), high - low


def expected(
    model: nn.Module, image: Tensor, background: Tensor, label: int, target: str, draws: list
) -> tuple[Tensor, list[float]]:
    """The mean over draws (number of a background image, α), and each draw's sum."""
    parts = []
    for number, alpha in draws:
        change = image.double() - background[number].double()
        point = background[number].double() + alpha * change
        parts.append(change * score_and_gradient(model, point, label, target)[1])
    return sum(parts) / len(parts), [part.sum().item() for part in parts]


def samples(seed: int, number: int, count: int, background: int, stratified: bool) -> list:
    """The draws that an image gets."""
    bits = np.random.Philox(key=[seed, number], counter=[0, 0, 0, int(Stream.NOISE)])
    generator = np.random.Generator(bits)
    alphas = generator.random(count)
    if not stratified:
        return list(zip(generator.integers(background, size=count), alphas, strict=True))
    cards: list[int] = []
    while len(cards) < count:
        cards += generator.permutation(background).tolist()
    return [(cards[i], (i // 2 + alphas[i]) / (count / 2)) for i in range(count)]
