"""losses: float32 against float64, where plain float32 cross entropy fails."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from advlens.errors import ModelError
from advlens.losses import cross_entropy, divergence, feature_distance, log_odds, rounding


def randn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def confident(margin: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of ten classes whose label leads all the others by the margin or more."""
    logits = torch.linspace(0, -6, 10, dtype=torch.float64)
    logits[4] = margin
    return logits.unsqueeze(0), torch.tensor([4])


def naive_gradient(logits: torch.Tensor, label: int) -> np.ndarray:
    """softmax − one-hot, the label's component as the negative sum of the others: no 1 − p."""
    values = np.exp(logits[0].numpy() - logits[0].max().item())
    p = values / values.sum()
    p[label] = -(p.sum() - p[label]) if p[label] < 0.5 else -np.delete(p, label).sum()
    return p


def gradient(loss, logits: torch.Tensor, labels: torch.Tensor) -> np.ndarray:
    leaf = logits.float().requires_grad_()
    (found,) = torch.autograd.grad(loss(leaf, labels).sum(), leaf)
    return found.double().numpy()[0]


@pytest.mark.parametrize("margin", [-90, -40, -5, 0, 5, 10, 17, 25, 40, 60, 80, 87])
def test_values_and_gradients_equal_naive_float64(margin):
    logits, labels = confident(margin)
    others = [float(value) for i, value in enumerate(logits[0]) if i != 4]
    odds = sum(math.exp(value - margin) for value in others)  # (1 − p) / p
    found = log_odds(logits.float(), labels), cross_entropy(logits.float(), labels)
    assert found[0].item() == pytest.approx(math.log(odds), abs=1e-5)
    assert found[1].item() == pytest.approx(math.log1p(odds), rel=2e-5, abs=0)
    expected = naive_gradient(logits, 4)
    np.testing.assert_allclose(gradient(cross_entropy, logits, labels), expected, rtol=3e-5)
    # the log odds have the same direction, and a length that does not vanish
    scaled = expected / -expected[4]
    np.testing.assert_allclose(gradient(log_odds, logits, labels), scaled, rtol=3e-5)


def test_losses_are_per_image_and_log_odds_positive_exactly_where_another_class_leads():
    logits, labels = randn(1, 400, 2), torch.zeros(400, dtype=torch.int64)
    assert torch.equal(log_odds(logits, labels) > 0, logits.argmax(dim=1) != 0)
    logits, labels = randn(2, 7, 5).requires_grad_(), torch.arange(7) % 5
    expected = F.cross_entropy(logits, labels, reduction="none")
    torch.testing.assert_close(cross_entropy(logits, labels), expected)
    assert torch.autograd.gradcheck(lambda z: cross_entropy(z, labels), logits)


def naive_divergence(*logits: np.ndarray) -> float:
    """Σ p log(p/q), one exponential at a time."""
    exps = [[math.exp(v) for v in z] for z in logits]
    found = [[v / math.fsum(part) for v in part] for part in exps]
    return math.fsum(p * math.log(p / q) for p, q in zip(*found, strict=True))


def test_one_class_is_no_loss():
    with pytest.raises(ModelError, match=r"one logit for each image.* at least two classes"):
        cross_entropy(torch.zeros(2, 1), torch.zeros(2, dtype=torch.int64))


def test_divergence_equals_naive_float64():
    logits, others = 3 * randn(5, 2, 8, 6)
    expected = [naive_divergence(*row) for row in zip(logits.numpy(), others.numpy(), strict=True)]
    np.testing.assert_allclose(divergence(logits, others).numpy(), expected, rtol=1e-10)
    np.testing.assert_allclose(divergence(logits.float(), others.float()), expected, rtol=1e-5)
    assert min(expected) > 0
    assert divergence(logits, logits).abs().max() < 1e-14
    peer = F.kl_div(others.log_softmax(1), logits.softmax(1), reduction="batchmean")
    torch.testing.assert_close(divergence(logits, others).mean(), peer)
    assert torch.autograd.gradcheck(divergence, [z.requires_grad_() for z in (logits, others)])


@pytest.mark.parametrize("margin", [0, 5, 17, 25, 40, 80])
def test_gradient_of_the_divergence_equals_naive_float64(margin):
    """q − p towards the second argument; the label's component is minus the sum of the others."""
    logits, _ = confident(margin)
    others = logits + 0.3 * randn(6, 1, 10)
    logits, others = logits.float().double(), others.float().double()  # both see the same numbers
    expected = naive_gradient(others, 4) - naive_gradient(logits, 4)
    leaf = others.float().requires_grad_()
    (found,) = torch.autograd.grad(divergence(logits.float(), leaf).sum(), leaf)
    np.testing.assert_allclose(found.double().numpy()[0], expected, rtol=1e-6)  # 8 ε of the result


@pytest.mark.parametrize("kind", ["squared", "summed", "absolute", "cosine"])
def test_feature_distances_are_averaged_or_summed_over_elements_per_image(kind):
    a, b = randn(3, 2, 3, 4, 2, 2)
    for one, other, found in zip(a, b, feature_distance(a, b, kind), strict=True):
        pairs = list(zip(one.flatten().tolist(), other.flatten().tolist(), strict=True))
        if kind == "cosine":
            product = math.fsum(x * y for x, y in pairs)
            lengths = math.fsum(x * x for x, _ in pairs) * math.fsum(y * y for _, y in pairs)
            expected = 1 - product / math.sqrt(lengths)
        else:
            power, parts = {"squared": (2, 16), "summed": (2, 1), "absolute": (1, 16)}[kind]
            expected = math.fsum(abs(x - y) ** power for x, y in pairs) / parts
        assert found.item() == pytest.approx(expected, rel=1e-12)
    if kind == "squared":
        assert torch.equal(feature_distance(a, b), feature_distance(a, b, "squared"))
    inputs = a.requires_grad_(), b.requires_grad_()
    assert torch.autograd.gradcheck(lambda x, y: feature_distance(x, y, kind), inputs)


def test_silent_features_and_masked_classes_have_finite_gradients():
    silent = torch.full((1, 3, 2, 2), -1.0, requires_grad=True)
    feature_distance(torch.relu(silent), torch.ones(1, 3, 2, 2), "cosine").sum().backward()
    assert silent.grad is not None
    assert torch.equal(silent.grad, torch.zeros_like(silent))
    logits, others = randn(8, 2, 4, 5)
    masked = [F.pad(z, (0, 1), value=-torch.inf).requires_grad_() for z in (logits, others)]
    found = divergence(*masked)
    torch.testing.assert_close(found, divergence(logits, others))
    for gradient in torch.autograd.grad(found.sum(), masked):
        assert gradient.isfinite().all()
        assert not gradient[:, 5].any()


def test_a_divergence_next_to_none_keeps_its_digits():
    """KL(p ‖ q) ≈ ½ Σ p (d − Σ p d)² for logits that differ by a tiny d, where each term is 1."""
    logits, noise = randn(7, 2, 8, 6).float()
    logits *= 3
    others = logits + 1e-4 * noise
    p, d = logits.double().softmax(dim=1), others.double() - logits.double()
    away = d - (p * d).sum(dim=1, keepdim=True)
    found = divergence(logits, others.requires_grad_())
    expected = 0.5 * (p * away.square()).sum(dim=1)
    # what the series leaves out is of relative size d
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=0)
    (gradient,) = torch.autograd.grad(found.sum(), others)
    assert (torch.cosine_similarity(gradient.double(), p * away) > 1 - 1e-6).all()


def test_logits_of_another_batch_lie_within_their_rounding(smooth, pixels):
    with torch.no_grad():
        together, alone = smooth(pixels), torch.cat([smooth(one[None]) for one in pixels])
    known = rounding(together)
    assert ((together - alone).abs().amax(dim=1) <= known).all()
    assert (known < 1e-5 * together.abs().amax(dim=1)).all()
    assert torch.equal(rounding(F.pad(together, (0, 1), value=-torch.inf)), known)
