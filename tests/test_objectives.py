"""Training objectives against naive float64 versions."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch

import objectives_by_hand as hand
from advlens import L2, Divergence, FeatureAttack, Fgsm, Linf, Pgd, Uniform
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


def consistency(objective, batch, attacked, fixed):
    """D19 eq. 6; `fixed`: the clean features, where no gradient flows through them."""
    alpha, layer = objective.alpha, objective.layer
    logits, features = forward(batch.network, batch.images, training=True)
    attacked_logits, attacked_features = forward(batch.network, attacked, training=True)
    clean = features[layer] if fixed is None else fixed
    apart = hand.distance(clean, attacked_features[layer], objective.distance)
    loss = alpha * cross_entropy(logits) + (1 - alpha) * cross_entropy(attacked_logits)
    return loss + objective.beta * apart


@pytest.mark.parametrize("objective", FORMULAS.values(), ids=FORMULAS)
def test_feature_consistency_equals_the_formula(objective, batch):
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
        place, sides = tuple(random.integers(size) for size in parameter.shape), []
        for change in (1e-5, -2e-5):
            parameter.data[place] += change
            sides.append(consistency(objective, batch, attacked, fixed).item())
        parameter.data[place] += 1e-5
        numeric = (sides[0] - sides[1]) / 2e-5
        assert found[name][place].item() == pytest.approx(numeric, rel=1e-4, abs=1e-7)


def test_adversarial_is_the_loss_on_images_that_the_attack_changed(batch: TrainingBatch) -> None:
    attack = Pgd(threat=L2(epsilon=0.5), steps=2, step_size=0.3, select="last", seed=SEED)
    attacked, losses = attack(batch.prepared(), batch.images, LABELS, ids=IDS), []
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


def test_trades_is_cross_entropy_and_the_divergence_on_what_its_attack_made(batch):
    """Zhang et al. 2019; tests/attacks/test_distance.py has the loop of its attack."""
    network, images = batch.network, batch.images
    with torch.no_grad():
        network.head.weight *= 20  # so that KL(p ‖ q) and KL(q ‖ p) are far apart
    batch.prepared().update(network)
    attack = Divergence(threat=L2(epsilon=0.5), steps=4, step_size=0.2, select="last", seed=SEED)
    moved = attack(batch.prepared(), images, ids=IDS)
    logits, attacked_logits = (forward(network, x, training=True)[0] for x in (images, moved))
    there, back = hand.kl(logits, attacked_logits), hand.kl(attacked_logits, logits)
    expected, gradients = by_hand(network, cross_entropy(logits) + 6 * there)
    loss, found = step(objectives.Trades(attack=dataclasses.replace(attack, seed=0)), batch)
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=0)
    torch.testing.assert_close(found, gradients, rtol=1e-9, atol=1e-11)
    assert (there - back).abs() > 0.01 * there > 0


@pytest.mark.parametrize("layer", [None, "first"])
def test_unrelaxed_has_its_own_maximum_for_each_term(layer, batch):
    attack = FeatureAttack(threat=PAPERS, steps=3, select="last", layer=layer)
    objective, images = Unrelaxed(alpha=0.2, beta=3.0, feature_attack=attack), [batch.images]
    for each in (objective.attack, attack):
        seeded = dataclasses.replace(each, seed=SEED)
        images.append(seeded(batch.prepared(), batch.images, LABELS, ids=IDS))
    passes = [forward(batch.network, x, training=True) for x in images]
    (logits, clean), (attacked_logits, attacked), (_, moved) = passes
    apart = hand.distance(clean[layer], moved[layer], "squared")
    expected = 0.2 * cross_entropy(logits) + 0.8 * cross_entropy(attacked_logits) + 3 * apart
    expected, gradients = by_hand(batch.network, expected)
    loss, found = step(objective, batch)
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=0)
    torch.testing.assert_close(found, gradients, rtol=1e-7, atol=1e-9)
    assert apart > hand.distance(clean[layer], attacked[layer], "squared")
    # the default is D19 eq. 5: no clean loss and no weight, both maxima over the same ball
    default, terms = Unrelaxed(), batch.terms
    loss, _ = step(default, batch)
    assert loss.item() == pytest.approx((terms["adversarial_loss"] + terms["distance"]).item())
    assert default.attack.threat == default.feature_attack.threat == PAPERS
    assert PAPERS.epsilon == Uniform(low=4 / 255, high=16 / 255)
    assert FeatureConsistency().attack == Fgsm(threat=PAPERS)
