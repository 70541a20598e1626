"""Training objectives against naive float64 versions."""

import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import objectives_by_hand as hand
from advlens.attacks import Bim, Divergence, FeatureAttack, Fgsm, Pgd
from advlens.attacks.threat import L2, Linf, Uniform
from advlens.errors import SettingsError
from advlens.seeding import Stream
from advlens.training import objectives
from advlens.training.objectives import PAPERS, FeatureConsistency, TrainingBatch, Unrelaxed
from objectives_by_hand import IDS, LABELS, SEED, batch_of, by_hand, cross_entropy, forward, step


@pytest.fixture
def batch() -> TrainingBatch:
    return batch_of()


SIDES = list(itertools.product(["both", "attacked"], ["separate", "shared"]))
CASES = [
    (distance, None, *side)
    for distance in ("squared", "summed", "absolute", "cosine")
    for side in SIDES
]
CASES += [("squared", layer, *side) for layer in ("first", "representation") for side in SIDES[2:]]
WEAK = Fgsm(threat=Linf(epsilon=Uniform(low=0.01, high=0.2)))
NAMES = ("distance", "layer", "gradient", "clean_pass")
VARIANTS = {
    "-".join(map(str, case)): FeatureConsistency(
        alpha=0.3, beta=7.0, attack=WEAK, **dict(zip(NAMES, case, strict=True))
    )
    for case in CASES
}
FORMULAS = {
    "default": FeatureConsistency(),
    "mixed": FeatureConsistency(alpha=0.25, beta=0.0),
    "mixed shared": FeatureConsistency(beta=0.0, clean_pass="shared"),
    **VARIANTS,
}


def consistency(
    objective: FeatureConsistency, batch: TrainingBatch, attacked: Tensor, fixed: Tensor | None
) -> Tensor:
    """D19 eq. 6; `fixed`: the clean features, where no gradient flows through them."""
    alpha, layer = objective.alpha, objective.layer
    logits, features = forward(batch.network, batch.images, training=True)
    attacked_logits, attacked_features = forward(batch.network, attacked, training=True)
    clean = features[layer] if fixed is None else fixed
    apart = hand.distance(clean, attacked_features[layer], objective.distance)
    loss = alpha * cross_entropy(logits) + (1 - alpha) * cross_entropy(attacked_logits)
    return loss + objective.beta * apart


@pytest.mark.parametrize("objective", FORMULAS.values(), ids=FORMULAS)
def test_feature_consistency_equals_the_formula(
    objective: FeatureConsistency, batch: TrainingBatch
) -> None:
    """The loss, and its gradient by automatic and by central differences of the formula."""
    network, epsilon = batch.network, objective.attack.threat.epsilon
    shared = objective.clean_pass == "shared"
    attacked = hand.fgsm(batch, epsilon.low, epsilon.high, training=shared)
    _, features = forward(network, batch.images, training=True)
    fixed = features[objective.layer].detach() if objective.gradient == "attacked" else None
    expected, gradients = by_hand(network, consistency(objective, batch, attacked, fixed))
    loss, found = step(objective, batch)
    torch.testing.assert_close(loss, expected, rtol=1e-7, atol=0)
    # the norm ahead of the batch's statistics makes some true gradients 0
    torch.testing.assert_close(found, gradients, rtol=1e-5, atol=1e-8)
    terms, alpha, beta = batch.terms, objective.alpha, objective.beta
    assert ("distance" in terms) == (beta > 0)
    parts = alpha * terms["natural_loss"] + (1 - alpha) * terms["adversarial_loss"]
    parts = parts + beta * terms.get("distance", 0)
    assert loss.item() == pytest.approx(parts.item(), rel=1e-12)
    random = np.random.default_rng(0)
    for name, parameter in network.named_parameters():
        place = tuple(random.integers(size) for size in parameter.shape)
        sides = []
        for change in (1e-5, -2e-5):
            parameter.data[place] += change
            sides.append(consistency(objective, batch, attacked, fixed).item())
        parameter.data[place] += 1e-5
        numeric = (sides[0] - sides[1]) / 2e-5
        assert found[name][place].item() == pytest.approx(numeric, rel=1e-4, abs=1e-7)


def test_adversarial_is_the_loss_on_images_that_the_attack_changed(batch: TrainingBatch) -> None:
    attack = Pgd(threat=L2(epsilon=0.5), steps=2, step_size=0.3, select="last", seed=SEED)
    attacked = attack(batch.prepared(), batch.images, LABELS, ids=IDS)
    losses = []
    for kind, images, objective in (
        ("natural", batch.images, objectives.Standard()),
        ("adversarial", attacked, objectives.Adversarial()),
    ):
        logits, _ = forward(batch.network, images, training=True)
        expected, gradients = by_hand(batch.network, cross_entropy(logits))
        batch.network.zero_grad()
        loss, found = step(objective, batch)
        torch.testing.assert_close(loss, expected, rtol=1e-10, atol=0)
        torch.testing.assert_close(found, gradients, rtol=1e-9, atol=1e-11)
        right = (logits.argmax(dim=1) == LABELS).float().mean().item()
        terms = {name: value.item() for name, value in batch.terms.items()}
        assert terms == {f"{kind}_loss": loss.item(), f"{kind}_accuracy": right}
        batch.terms.clear()
        losses.append(loss)
    assert losses[1] > losses[0]


@pytest.mark.parametrize(("norm", "epsilon", "size"), [(L2, 0.5, 0.2), (Linf, 0.031, 0.007)])
def test_trades_equals_the_reference_loop(
    norm: type[Linf] | type[L2], epsilon: float, size: float, batch: TrainingBatch
) -> None:
    """Attack, loss and gradients of Zhang et al. 2019, in plain float64."""
    streams = (
        np.random.Philox(key=[SEED, n], counter=[0, 0, 0, Stream.START]) for n in IDS.tolist()
    )
    drawn = [np.random.Generator(bits).standard_normal((3, 7, 7), np.float32) for bits in streams]
    noise = torch.from_numpy(np.stack(drawn))
    network, images = batch.network, batch.images
    with torch.no_grad():
        network.head.weight *= 20  # so that KL(p ‖ q) and KL(q ‖ p) are far apart
    batch.prepared().update(network)
    current = (images + 0.001 * noise.double()).clamp(0, 1)
    for _ in range(4):
        current = current.detach().requires_grad_()
        clean, moved = (forward(network, x, training=False)[0] for x in (images, current))
        (gradient,) = torch.autograd.grad(hand.kl(clean.detach(), moved), current)
        if norm is Linf:
            moved = current + size * gradient.sign()
            current = torch.max(torch.min(moved, images + epsilon), images - epsilon)
        else:
            change = current + size * gradient / gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
            change = change - images
            length = change.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
            current = images + change * (epsilon / length).clamp(max=1)
        current = current.clamp(0, 1).detach()
    logits, attacked_logits = (forward(network, x, training=True)[0] for x in (images, current))
    there, back = hand.kl(logits, attacked_logits), hand.kl(attacked_logits, logits)
    expected, gradients = by_hand(network, cross_entropy(logits) + 6 * there)
    attack = Divergence(threat=norm(epsilon=epsilon), steps=4, step_size=size, select="last")
    loss, found = step(objectives.Trades(attack=attack), batch)
    # the first divergence, of nearly equal logits, has a gradient 1 000 times as small as they are
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=0)
    torch.testing.assert_close(found, gradients, rtol=1e-9, atol=1e-11)
    assert (there - back).abs() > 0.01 * there > 0


@pytest.mark.parametrize("layer", [None, "first"])
def test_unrelaxed_has_its_own_maximum_for_each_term(
    layer: str | None, batch: TrainingBatch
) -> None:
    attack = FeatureAttack(threat=PAPERS, steps=3, select="last", layer=layer)
    objective = Unrelaxed(alpha=0.2, beta=3.0, feature_attack=attack)
    attacked, moved = (
        dataclasses.replace(each, seed=SEED)(batch.prepared(), batch.images, LABELS, ids=IDS)
        for each in (objective.attack, attack)
    )
    logits, features = forward(batch.network, batch.images, training=True)
    attacked_logits, attacked_features = forward(batch.network, attacked, training=True)
    _, moved_features = forward(batch.network, moved, training=True)
    apart = hand.distance(features[layer], moved_features[layer], "squared")
    expected = 0.2 * cross_entropy(logits) + 0.8 * cross_entropy(attacked_logits) + 3 * apart
    expected, gradients = by_hand(batch.network, expected)
    loss, found = step(objective, batch)
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=0)
    torch.testing.assert_close(found, gradients, rtol=1e-7, atol=1e-9)
    assert apart > hand.distance(features[layer], attacked_features[layer], "squared")


def test_the_papers_objective_is_the_unrelaxed_default(batch: TrainingBatch) -> None:
    """D19 eq. 5 has neither a clean loss nor a weight; both maxima are over the same ball."""
    objective = Unrelaxed()
    loss, _ = step(objective, batch)
    terms = batch.terms
    assert loss.item() == pytest.approx((terms["adversarial_loss"] + terms["distance"]).item())
    assert objective.attack.threat == objective.feature_attack.threat == PAPERS
    assert PAPERS.epsilon == Uniform(low=4 / 255, high=16 / 255)
    assert FeatureConsistency().attack == Fgsm(threat=PAPERS)


SHARED = {"clean_pass": "shared"}
PREDICTED = Fgsm(threat=PAPERS, label="predicted")
WRONG: list[tuple[Callable[..., objectives.Objective], dict[str, Any], str]] = [
    (FeatureConsistency, {"alpha": 1.1}, "alpha must be a finite number ≥ 0 and ≤ 1, not 1.1"),
    (FeatureConsistency, {"alpha": math.nan}, "alpha must be a finite number ≥ 0 and ≤ 1, not nan"),
    (Unrelaxed, {"alpha": -0.1}, "Unrelaxed: alpha must be a finite number ≥ 0 and ≤ 1"),
    (FeatureConsistency, {"beta": -1}, "beta must be a finite number ≥ 0, not -1"),
    (FeatureConsistency, {"beta": math.inf}, "beta must be a finite number ≥ 0, not inf"),
    (Unrelaxed, {"beta": 0}, "Unrelaxed: beta must be a positive number, not 0"),
    (objectives.Trades, {"weight": 0}, "Trades: weight must be a positive number, not 0"),
    (FeatureConsistency, {"distance": "l2"}, "distance must be one of squared, summed, absolute"),
    (FeatureConsistency, {"gradient": "clean"}, "gradient must be one of both, attacked"),
    (FeatureConsistency, {"clean_pass": "x"}, "clean_pass must be one of separate, shared"),
    (FeatureConsistency, SHARED | {"attack": Bim(threat=PAPERS)}, 'clean_pass="shared" needs a'),
    (FeatureConsistency, SHARED | {"attack": PREDICTED}, "an Fgsm attack on the true label, not"),
    (FeatureConsistency, SHARED | {"alpha": 0}, "not alpha=0 and Fgsm"),
]


@pytest.mark.parametrize(("kind", "settings", "message"), WRONG)
def test_settings_that_cannot_be_meant_are_refused(
    kind: Callable[..., objectives.Objective], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        kind(**settings)
