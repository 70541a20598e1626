"""Training objectives against naive float64 versions."""

import dataclasses
import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from advlens.attacks import Bim, Divergence, FeatureAttack, Fgsm, Pgd
from advlens.attacks.threat import L2, Linf, Uniform
from advlens.errors import SettingsError
from advlens.prepared import Prepared
from advlens.seeding import Stream
from advlens.training.objectives import (
    PAPERS,
    Adversarial,
    FeatureConsistency,
    Objective,
    Standard,
    Trades,
    TrainingBatch,
    Unrelaxed,
)
from objectives_by_hand import (
    IDS,
    LABELS,
    SEED,
    batch_of,
    cross_entropy,
    distance,
    fgsm,
    forward,
    kl,
    step,
)


@pytest.fixture
def batch() -> TrainingBatch:
    return batch_of()


VARIANTS = [
    FeatureConsistency(
        alpha=0.3,
        beta=7.0,
        distance=distance,
        layer=layer,
        gradient=gradient,
        clean_pass=clean,
        attack=Fgsm(threat=Linf(epsilon=Uniform(low=0.01, high=0.2))),
    )
    for distance, layer, gradient, clean in itertools.chain(
        itertools.product(
            ["squared", "absolute", "cosine"], [None], ["both", "attacked"], ["separate", "shared"]
        ),
        itertools.product(
            ["squared"], ["first", "representation"], ["attacked"], ["separate", "shared"]
        ),
    )
]
each_variant = pytest.mark.parametrize(
    "objective",
    [FeatureConsistency(), *VARIANTS],
    ids=lambda o: f"{o.distance}-{o.layer}-{o.gradient}-{o.clean_pass}-{o.beta}",
)


def consistency(
    objective: FeatureConsistency, batch: TrainingBatch, attacked: Tensor, fixed: Tensor | None
) -> Tensor:
    """D19 eq. 6; `fixed`: the clean features, where no gradient flows through them."""
    logits, features = forward(batch.network, batch.images, training=True)
    attacked_logits, attacked_features = forward(batch.network, attacked, training=True)
    clean = features[objective.layer] if fixed is None else fixed
    return (
        objective.alpha * cross_entropy(logits)
        + (1 - objective.alpha) * cross_entropy(attacked_logits)
        + objective.beta * distance(clean, attacked_features[objective.layer], objective.distance)
    )


@each_variant
def test_feature_consistency_equals_the_formula(
    objective: FeatureConsistency, batch: TrainingBatch
) -> None:
    """The loss, and its gradient by automatic and by central differences of the formula."""
    network, epsilon = batch.network, objective.attack.threat.epsilon
    shared = objective.clean_pass == "shared"
    attacked = fgsm(batch, epsilon.low, epsilon.high, training=shared)
    fixed = None
    if objective.gradient == "attacked":
        fixed = forward(network, batch.images, training=True)[1][objective.layer].detach()
    expected = consistency(objective, batch, attacked, fixed)
    names, values = zip(*network.named_parameters(), strict=True)
    gradients = dict(zip(names, torch.autograd.grad(expected, values), strict=True))
    loss, found = step(objective, batch)
    # the norm ahead of the batch's statistics makes some true gradients 0
    close = {"rtol": 1e-5, "atol": 1e-8}
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-7, atol=0)
    torch.testing.assert_close(found, gradients, **close)
    random = np.random.default_rng(0)
    for name, parameter in network.named_parameters():
        place = tuple(random.integers(size) for size in parameter.shape)
        sides = []
        for change in (1e-5, -2e-5):
            with torch.no_grad():
                parameter[place] += change
            sides.append(consistency(objective, batch, attacked, fixed).item())
        numeric = (sides[0] - sides[1]) / 2e-5
        assert found[name][place].item() == pytest.approx(numeric, rel=1e-4, abs=1e-7)
        with torch.no_grad():
            parameter[place] += 1e-5


@pytest.mark.parametrize(
    "objective",
    [
        Standard(),
        Adversarial(),
        Trades(attack=Divergence(threat=Linf(epsilon=0.1), steps=2, select="last")),
        Unrelaxed(alpha=0.2, beta=3.0),
        *[o for o in VARIANTS if o.gradient == "both"],
    ],
    ids=lambda o: f"{type(o).__name__}-{getattr(o, 'distance', '')}-{getattr(o, 'clean_pass', '')}",
)
def test_gradients_are_those_of_the_loss(objective: Objective, batch: TrainingBatch) -> None:
    """Through both sides of a distance, the attacked images held fixed (gradcheck)."""

    class Loss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = batch.network

        def forward(self) -> Tensor:
            return objective(batch)

    names = ["network.first.weight", "network.second.weight", "network.norm.bias"]
    loss = Loss()
    parameters = dict(loss.named_parameters())

    def of(*values: Tensor) -> Tensor:
        replaced: Tensor = torch.func.functional_call(
            loss, dict(zip(names, values, strict=True)), ()
        )
        return replaced

    inputs = tuple(parameters[name].detach().clone().requires_grad_() for name in names)
    assert torch.autograd.gradcheck(of, inputs, eps=1e-6, atol=1e-7, fast_mode=True)


def test_without_normalization_the_clean_pass_may_be_shared_or_not(batch: TrainingBatch) -> None:
    """The live network is then its prepared copy, so both take the same step."""
    batch.network.norm = nn.Identity()
    prepared = Prepared(batch.network, torch.float64)
    batch = dataclasses.replace(batch, prepared=lambda: prepared)
    results = []
    for gradient, clean in itertools.product(["both", "attacked"], ["separate", "shared"]):
        objective = FeatureConsistency(beta=5.0, gradient=gradient, clean_pass=clean)
        batch.network.zero_grad()
        loss, gradients = step(objective, batch)
        results.append((loss, {name: g.clone() for name, g in gradients.items()}))
    close = {"rtol": 1e-9, "atol": 1e-12}
    torch.testing.assert_close(results[0], results[1], **close)
    torch.testing.assert_close(results[2], results[3], **close)
    torch.testing.assert_close(results[0][0], results[2][0], **close)
    assert not torch.allclose(
        results[0][1]["first.weight"], results[2][1]["first.weight"], rtol=1e-3
    )


@pytest.mark.parametrize("clean", ["separate", "shared"])
def test_alpha_and_beta_weigh_the_three_terms(clean: str, batch: TrainingBatch) -> None:
    for alpha, beta in ((1.0, 0.0), (0.25, 0.0), (0.25, 4.0)):
        loss, _ = step(FeatureConsistency(alpha=alpha, beta=beta, clean_pass=clean), batch)
        terms = {name: value.item() for name, value in batch.terms.items()}
        batch.terms.clear()
        assert ("distance" in terms) == (beta > 0)
        expected = alpha * terms["natural_loss"] + (1 - alpha) * terms["adversarial_loss"]
        expected += beta * terms.get("distance", 0)
        assert loss.item() == pytest.approx(expected, rel=1e-12)
        natural, _ = forward(batch.network, batch.images, training=True)
        assert terms["natural_loss"] == pytest.approx(cross_entropy(natural).item(), rel=1e-10)
        share = (natural.argmax(dim=1) == LABELS).float().mean().item()
        assert terms["natural_accuracy"] == share


def test_adversarial_is_the_loss_on_images_that_the_attack_changed(batch: TrainingBatch) -> None:
    attack = Pgd(threat=L2(epsilon=0.5), steps=2, step_size=0.3, select="last", seed=SEED)
    attacked = attack(batch.prepared(), batch.images, LABELS, ids=IDS)
    logits, _ = forward(batch.network, attacked, training=True)
    expected = cross_entropy(logits).item()
    assert Adversarial()(batch).item() == pytest.approx(expected, rel=1e-10)
    assert list(batch.terms) == ["adversarial_accuracy", "adversarial_loss"]
    natural, _ = forward(batch.network, batch.images, training=True)
    assert Standard()(batch).item() == pytest.approx(cross_entropy(natural).item(), rel=1e-10)
    assert expected > cross_entropy(natural).item()


@pytest.mark.parametrize(("norm", "epsilon", "size"), [(L2, 0.5, 0.2), (Linf, 0.031, 0.007)])
def test_trades_equals_the_reference_loop(
    norm: type[Linf] | type[L2], epsilon: float, size: float, batch: TrainingBatch
) -> None:
    """Attack, loss and gradients of Zhang et al. 2019, in plain float64."""
    noise = torch.stack(
        [
            torch.from_numpy(
                np.random.Generator(
                    np.random.Philox(key=[SEED, number], counter=[0, 0, 0, Stream.START])
                ).standard_normal((3, 7, 7), dtype=np.float32)
            )
            for number in IDS.tolist()
        ]
    )
    network, images = batch.network, batch.images
    with torch.no_grad():
        network.head.weight *= 20  # so that KL(p ‖ q) and KL(q ‖ p) are far apart
    batch.prepared().update(network)
    current = (images + 0.001 * noise.double()).clamp(0, 1)
    for _ in range(4):
        current = current.detach().requires_grad_()
        loss = kl(forward(network, images, False)[0].detach(), forward(network, current, False)[0])
        (gradient,) = torch.autograd.grad(loss, current)
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
    expected = cross_entropy(logits) + 6 * kl(logits, attacked_logits)
    names, values = zip(*network.named_parameters(), strict=True)
    gradients = dict(zip(names, torch.autograd.grad(expected, values), strict=True))
    attack = Divergence(threat=norm(epsilon=epsilon), steps=4, step_size=size, select="last")
    loss, found = step(Trades(attack=attack), batch)
    # the first divergence, of nearly equal logits, has a gradient 1 000 times as small as they are
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-10, atol=0)
    torch.testing.assert_close(found, gradients, rtol=1e-9, atol=1e-11)
    there, back = kl(logits, attacked_logits).item(), kl(attacked_logits, logits).item()
    assert abs(there - back) > 0.01 * there > 0
    assert set(batch.terms) == {
        "natural_loss",
        "natural_accuracy",
        "adversarial_loss",
        "adversarial_accuracy",
        "divergence",
    }


@pytest.mark.parametrize("layer", [None, "first"])
def test_unrelaxed_has_its_own_maximum_for_each_term(
    layer: str | None, batch: TrainingBatch
) -> None:
    objective = Unrelaxed(
        alpha=0.2,
        beta=3.0,
        feature_attack=FeatureAttack(threat=PAPERS, steps=3, select="last", layer=layer),
    )
    seeded = (
        dataclasses.replace(a, seed=SEED) for a in (objective.attack, objective.feature_attack)
    )
    attacked, moved = (a(batch.prepared(), batch.images, LABELS, ids=IDS) for a in seeded)
    logits, features = forward(batch.network, batch.images, training=True)
    attacked_logits, attacked_features = forward(batch.network, attacked, training=True)
    _, moved_features = forward(batch.network, moved, training=True)
    apart = distance(features[layer], moved_features[layer], "squared")
    expected = 0.2 * cross_entropy(logits) + 0.8 * cross_entropy(attacked_logits) + 3 * apart
    names, values = zip(*batch.network.named_parameters(), strict=True)
    gradients = dict(zip(names, torch.autograd.grad(expected, values), strict=True))
    loss, found = step(objective, batch)
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-10, atol=0)
    torch.testing.assert_close(found, gradients, rtol=1e-7, atol=1e-9)
    assert apart > distance(features[layer], attacked_features[layer], "squared")


def test_the_papers_objective_is_the_unrelaxed_default(batch: TrainingBatch) -> None:
    """D19 eq. 5 has neither a clean loss nor a weight; both maxima are over the same ball."""
    objective = Unrelaxed()
    loss, _ = step(objective, batch)
    terms = batch.terms
    assert loss.item() == pytest.approx((terms["adversarial_loss"] + terms["distance"]).item())
    assert objective.attack.threat == objective.feature_attack.threat == PAPERS
    assert PAPERS.epsilon == Uniform(low=4 / 255, high=16 / 255)
    assert FeatureConsistency().attack == Fgsm(threat=PAPERS)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FeatureConsistency(alpha=1.1), "alpha must lie between 0 and 1, not 1.1"),
        (lambda: FeatureConsistency(alpha=math.nan), "alpha must lie between 0 and 1, not nan"),
        (lambda: Unrelaxed(alpha=-0.1), "Unrelaxed: alpha must lie between 0 and 1"),
        (lambda: FeatureConsistency(beta=-1), "beta must be a finite number ≥ 0, not -1"),
        (lambda: FeatureConsistency(beta=math.inf), "beta must be a finite number ≥ 0, not inf"),
        (lambda: Unrelaxed(beta=0), "Unrelaxed: beta must be a positive number, not 0"),
        (lambda: Trades(weight=0), "Trades: weight must be a positive number, not 0"),
        (lambda: FeatureConsistency(distance="l2"), "distance must be one of squared, absolute"),
        (lambda: FeatureConsistency(gradient="clean"), "gradient must be one of both, attacked"),
        (lambda: FeatureConsistency(clean_pass="x"), "clean_pass must be one of separate, shared"),
        (
            lambda: FeatureConsistency(clean_pass="shared", attack=Bim(threat=PAPERS)),
            'clean_pass="shared" needs alpha > 0 and an Fgsm attack on the true label, not',
        ),
        (
            lambda: FeatureConsistency(
                clean_pass="shared", attack=Fgsm(threat=PAPERS, label="predicted")
            ),
            "needs alpha > 0 and an Fgsm attack on the true label, not",
        ),
        (lambda: FeatureConsistency(clean_pass="shared", alpha=0), "not alpha=0 and Fgsm"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(
    make: Callable[[], Objective], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        make()
