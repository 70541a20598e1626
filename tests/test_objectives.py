"""Objectives against naive float64, what a step of each costs, and what it leaves as it was."""

import dataclasses
import functools
import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import objectives_by_hand as hand
from advlens import L2, Classifier, Divergence, FeatureAttack, Fgsm, Linf, Pgd, Uniform
from advlens.attacks import Attack
from advlens.models.resnet import CifarResNet
from advlens.prepared import Prepared, live_features, prepare
from advlens.prepared.precision import mixed
from advlens.training import objectives
from advlens.training.objectives import FeatureConsistency, TrainingBatch, Unrelaxed
from flops import flops
from objectives_by_hand import IDS, LABELS, SEED, batch_of, cross_entropy, forward, step

IMAGES, CLASSES, K, M = 6, 10, 3, 2
FIRST = 2 * 9 * 3 * 4 * 16 * 16 * IMAGES
"""The first convolution's forward pass: 3×3×3 inputs, 4 outputs, 16×16 places."""
LINEAR = 2 * 8 * CLASSES * IMAGES
"""The linear layer's."""
BALL = L2(epsilon=0.1)
PGD = Pgd(threat=BALL, steps=K, select="last")
FEATURES = FeatureAttack(threat=BALL, steps=M, select="last")
KL = Divergence(threat=BALL, steps=K, select="last")
COSTS = {  # units; backward passes to the weights alone; passes without the linear layer
    "standard": (objectives.Standard(), 3, 1, 0),
    "pgd": (objectives.Adversarial(attack=PGD), 2 * K + 3, 1, 0),
    "pgd worst": (objectives.Adversarial(attack=Pgd(threat=BALL, steps=K)), 2 * K + 4, 1, 0),
    "mixed": (FeatureConsistency(beta=0), 8, 2, 0),
    "mixed shared": (FeatureConsistency(beta=0, clean_pass="shared"), 7, 2, 0),
    "separate": (FeatureConsistency(), 8, 2, 0),
    "separate attacked": (FeatureConsistency(gradient="attacked"), 8, 2, 0),
    "representation": (FeatureConsistency(layer="representation", distance="cosine"), 8, 2, 0),
    "shared": (FeatureConsistency(clean_pass="shared"), 7, 2, 0),
    "shared attacked": (FeatureConsistency(clean_pass="shared", gradient="attacked"), 6, 1, 0),
    "trades": (objectives.Trades(attack=KL), 2 * K + 7, 2, 0),
    "unrelaxed": (
        objectives.Unrelaxed(attack=PGD, feature_attack=FEATURES),
        *(2 * K + 2 * M + 10, 3, 1 + 2 * M + 2),
    ),
}
EVERY = hand.OBJECTIVES
each_objective = pytest.mark.parametrize("objective", EVERY.values(), ids=EVERY)


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
    expected, gradients = hand.by_hand(network, consistency(objective, batch, attacked, fixed))
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
        expected, gradients = hand.by_hand(batch.network, cross_entropy(logits))
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
    network.head.weight.data *= 20  # so that KL(p ‖ q) and KL(q ‖ p) are far apart
    batch.prepared().update(network)
    attack = Divergence(threat=L2(epsilon=0.5), steps=4, step_size=0.2, select="last", seed=SEED)
    moved = attack(batch.prepared(), images, ids=IDS)
    logits, attacked_logits = (forward(network, x, training=True)[0] for x in (images, moved))
    there, back = hand.kl(logits, attacked_logits), hand.kl(attacked_logits, logits)
    expected, gradients = hand.by_hand(network, cross_entropy(logits) + 6 * there)
    loss, found = step(objectives.Trades(attack=dataclasses.replace(attack, seed=0)), batch)
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=0)
    torch.testing.assert_close(found, gradients, rtol=1e-9, atol=1e-11)
    assert (there - back).abs() > 0.01 * there > 0


@pytest.mark.parametrize("layer", [None, "first"])
def test_unrelaxed_has_its_own_maximum_for_each_term(layer, batch):
    attack = FeatureAttack(threat=objectives.PAPERS, steps=3, select="last", layer=layer)
    objective, images = Unrelaxed(alpha=0.2, beta=3.0, feature_attack=attack), [batch.images]
    for each in (objective.attack, attack):
        seeded = dataclasses.replace(each, seed=SEED)
        images.append(seeded(batch.prepared(), batch.images, LABELS, ids=IDS))
    passes = [forward(batch.network, x, training=True) for x in images]
    (logits, clean), (attacked_logits, attacked), (_, moved) = passes
    apart = hand.distance(clean[layer], moved[layer], "squared")
    expected = 0.2 * cross_entropy(logits) + 0.8 * cross_entropy(attacked_logits) + 3 * apart
    expected, gradients = hand.by_hand(batch.network, expected)
    loss, found = step(objective, batch)
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=0)
    torch.testing.assert_close(found, gradients, rtol=1e-7, atol=1e-9)
    assert apart > hand.distance(clean[layer], attacked[layer], "squared")
    # the default is D19 eq. 5: no clean loss and no weight, both maxima over the same ball
    default, terms = Unrelaxed(), batch.terms
    loss, _ = step(default, batch)
    assert loss.item() == pytest.approx((terms["adversarial_loss"] + terms["distance"]).item())
    assert default.attack.threat == default.feature_attack.threat == objectives.PAPERS
    assert objectives.PAPERS.epsilon == Uniform(low=4 / 255, high=16 / 255)
    assert FeatureConsistency().attack == Fgsm(threat=objectives.PAPERS)


@each_objective
def test_networks_that_cannot_be_traced(objective):
    """Their features are read by hooks."""
    untraceable, batch = batch_of(hand.Untraceable), batch_of()
    loss, gradients = step(objective, untraceable)
    hooked = functools.partial(live_features, batch.network, traced=False)
    batch = dataclasses.replace(batch, prepared=untraceable.prepared, features=hooked)
    expected, traced = step(objective, batch)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradients, traced, rtol=1e-9, atol=1e-12)


@each_objective
def test_mixed_precision(objective):
    """Loss and terms in float32, near those of full precision, and a gradient that goes along."""
    full = step(objective, batch_of(dtype=torch.float32))
    batch = batch_of(dtype=torch.float32)
    prepared = Prepared(batch.network, torch.bfloat16)
    batch = dataclasses.replace(batch, prepared=lambda: prepared)
    batch.network.zero_grad()
    with mixed(torch.device("cpu"), "bf16"):
        assert not torch.is_autocast_cache_enabled()  # casts of the attack are not the step's
        loss = objective(batch)
    torch.autograd.backward(loss, inputs=list(batch.network.parameters()))
    assert loss.dtype == torch.float32
    assert {value.dtype for value in batch.terms.values()} == {torch.float32}
    assert loss.item() == pytest.approx(full[0].item(), rel=0.05)
    gradient = torch.cat([p.grad.flatten() for p in batch.network.parameters()])
    expected = torch.cat([part.flatten() for part in full[1].values()])
    assert F.cosine_similarity(gradient, expected, dim=0) > 0.95


def state_of(batch: TrainingBatch) -> list:
    tensors = {**dict(batch.network.named_parameters()), **dict(batch.network.named_buffers())}
    return [
        [(name, m.training, len(m._forward_hooks)) for name, m in batch.network.named_modules()],
        [(name, t.requires_grad, t.tolist(), t.grad is None) for name, t in tensors.items()],
        torch.get_rng_state().tolist(),
    ]


UNRELAXED = objectives.Unrelaxed()
ATTACKS: list[Attack] = [
    *(kind().attack for kind in (objectives.Adversarial, FeatureConsistency, objectives.Trades)),
    *(UNRELAXED.attack, UNRELAXED.feature_attack),
]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda a: type(a).__name__)
def test_the_attack_sees_evaluation_mode_and_leaves_no_trace(attack, batch):
    before, attacked = state_of(batch), batch.attacked(attack)
    assert state_of(batch) == before
    assert not attacked.requires_grad
    seeded, fresh = dataclasses.replace(attack, seed=SEED), Prepared(batch.network, torch.float64)
    assert torch.equal(attacked, seeded(fresh, batch.images, LABELS, ids=IDS))


@each_objective
def test_a_step_leaves_gradients_and_counted_batches_alone(objective, batch):
    """Each pass of the live network counts once in the running statistics, attacks never do."""
    before = [(p.requires_grad, p.clone()) for p in batch.network.parameters()]
    batch.network.second.bias.requires_grad_(False)
    objective(batch)
    passes = {"Standard": 1, "Adversarial": 1, "Unrelaxed": 3}.get(type(objective).__name__, 2)
    assert batch.network.norm.num_batches_tracked == passes
    assert all(module.training for module in batch.network.modules())
    assert not batch.images.requires_grad
    assert batch.images.grad is None
    for parameter, (_, value) in zip(batch.network.parameters(), before, strict=True):
        assert torch.equal(parameter, value)
        early = getattr(objective, "clean_pass", "") == "shared" and objective.gradient != "both"
        assert (parameter.grad is not None) == (early and parameter.requires_grad)
    assert not batch.network.second.bias.requires_grad


@each_objective
def test_the_share_of_a_process_weighs_what_is_in_the_gradient_early(objective, batch):
    """The loop multiplies the loss returned by the share; the other part has it already."""
    whole, part = step(objective, batch), dataclasses.replace(batch_of(), share=0.25)
    loss = objective(part)
    torch.autograd.backward(loss * part.share, inputs=list(part.network.parameters()))
    torch.testing.assert_close(loss, whole[0], check_dtype=False)
    for name, parameter in part.network.named_parameters():
        torch.testing.assert_close(parameter.grad, whole[1][name] / 4, rtol=1e-9, atol=1e-12)


@pytest.fixture
def counted() -> TrainingBatch:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = CifarResNet((1, 1), (4, 8), "projection", classes=CLASSES)
        images = torch.rand(IMAGES, 3, 16, 16)
    classifier = Classifier(network, name="tiny", image_size=16).train()
    copied = prepare(classifier, images)
    features = functools.cache(lambda layer: live_features(classifier, layer))
    labels = torch.arange(IMAGES)
    return TrainingBatch(classifier, lambda: copied, features, images, labels, labels, 0)


@pytest.mark.parametrize(("objective", "units", "to_weights", "without"), COSTS.values(), ids=COSTS)
def test_units_of_a_step(objective, units, to_weights, without, counted):
    with torch.no_grad():
        unit = flops(lambda: counted.prepared()(counted.images))
        assert flops(lambda: counted.network(counted.images)) == unit
    expected = units * unit - to_weights * FIRST - without * LINEAR
    parameters = list(counted.network.parameters())
    assert flops(lambda: torch.autograd.backward(objective(counted), inputs=parameters)) == expected
