"""Training objectives: frozen settings that are called for the loss of one batch.

`objective(batch) -> scalar loss`. Attacks inside run on the prepared copy (evaluation mode, batch
normalization folded), the loss on the live network in training mode. The cost of a step is counted
in units: a forward pass is 1, a backward pass to the images 1, to the weights 2.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, cast

import torch
from torch import Tensor, nn

from advlens.arrays import Ids, Images, Labels, Logits
from advlens.attacks import Attack, Divergence, FeatureAttack, Fgsm, Pgd
from advlens.attacks.threat import L2, Linf, Uniform
from advlens.checks import check_numbers, check_positive, check_types
from advlens.errors import SettingsError
from advlens.losses import FeatureDistance, cross_entropy, divergence, feature_distance
from advlens.prepared import Prepared

Featured = Callable[[Images], tuple[Logits, Tensor]]
"""A network that returns features beside its logits."""

PAPERS = Linf(epsilon=Uniform(low=4 / 255, high=16 / 255))
"""The ball that D19 and D22 train in."""


@dataclass(frozen=True)
class TrainingBatch:
    """What an objective sees of one step.

    Attributes:
        network: the live network, in training mode.
        prepared: returns its prepared copy with the current weights.
        features: returns the live network as a module images → (logits, features), for a layer
            that `advlens.prepared.live_features` takes.
        images, labels, ids: this process's images of the step.
        seed: the seed of the step's randomness.
        share: the share of the step's images in this process; it weighs the gradient of the loss.
        terms: scalars that the objective notes for the log: `natural_loss`, `natural_accuracy`,
            `adversarial_loss`, `adversarial_accuracy`, `distance`, `divergence`.
    """

    network: nn.Module
    prepared: Callable[[], Prepared]
    features: Callable[[str | None], nn.Module]
    images: Images
    labels: Labels
    ids: Ids
    seed: int
    share: float = 1.0
    terms: dict[str, Tensor] = field(default_factory=dict)

    def attacked(self, attack: Attack) -> Images:
        """The images under an attack, whose randomness is drawn anew in each epoch."""
        attack = dataclasses.replace(attack, seed=self.seed)
        return attack(self.prepared(), self.images, self.labels, ids=self.ids).detach()

    def loss(self, kind: Literal["natural", "adversarial"], logits: Logits) -> Tensor:
        """The mean cross entropy. Notes it and the accuracy."""
        logits = _precise(logits)
        hits = logits.detach().argmax(dim=1) == self.labels
        self.note(f"{kind}_accuracy", hits.float().mean())
        return self.note(f"{kind}_loss", cross_entropy(logits, self.labels).mean())

    def note(self, name: str, value: Tensor) -> Tensor:
        """Keep a value for the log, and return it."""
        self.terms[name] = value.detach()
        return value


@dataclass(frozen=True, kw_only=True)
class Standard:
    """Cross entropy on the images themselves (3 units)."""

    def __call__(self, batch: TrainingBatch) -> Tensor:
        return batch.loss("natural", batch.network(batch.images))


@dataclass(frozen=True, kw_only=True)
class Adversarial:
    """Cross entropy on attacked images (Madry et al. 2018; B23 Algorithm 1; PGD-K: 2K + 3 units).

    Attributes:
        attack: the inner maximization.
    """

    attack: Attack = field(
        default_factory=lambda: Pgd(threat=L2(epsilon=0.5), steps=2, step_size=0.3, select="last")
    )

    def __call__(self, batch: TrainingBatch) -> Tensor:
        return batch.loss("adversarial", batch.network(batch.attacked(self.attack)))


@dataclass(frozen=True, kw_only=True)
class FeatureConsistency:
    """α L(f(x), y) + (1 − α) L(f(x*), y) + β d(φ(x), φ(x*)) (D19 eq. 6; D22 eq. 5, 8, 9).

    In the papers x* is one step of FGSM, d is summed and β is 1 (distance="summed", beta=1); they
    leave open φ and where the gradient of d flows. The default β is the one that keeps the network
    from overfitting to FGSM. With beta=0 this is training on clean and attacked images.

    With a "separate" clean pass the attack sees the prepared copy: 8 units. With a "shared" one the
    attack follows the gradient of the live network's clean pass, `Fgsm`'s step along it: 7 units.
    That gradient is normalized by the statistics of the batch instead of the running ones. With
    gradient="attacked" as well it is 6 units. One backward pass then gives the direction, and the
    clean loss's part of the weights' gradient, which is in `.grad` when the call returns. The loss
    returned has the value of the whole, and the gradient of the rest.

    Attributes:
        alpha: weight of the clean loss, 0 to 1.
        beta: weight of the feature distance, ≥ 0.
        attack: the attack that makes x*.
        distance: d, averaged over elements: "squared" or "absolute" difference; "summed" squared
            difference; or "cosine".
        layer: φ: the maps of this convolution after its non-linearity (default: the last one), or
            the "representation" that the last linear layer reads.
        gradient: whether the distance's gradient flows through "both" sides, or the "attacked" one.
        clean_pass: "separate" from the attack's, or "shared" with it (then alpha > 0, and the
            attack is `Fgsm` on the true label).
    """

    alpha: float = 0.5
    beta: float = 25.0
    attack: Attack = field(default_factory=lambda: Fgsm(threat=PAPERS))
    distance: FeatureDistance = "squared"
    layer: str | None = None
    gradient: Literal["both", "attacked"] = "both"
    clean_pass: Literal["separate", "shared"] = "separate"

    def __post_init__(self) -> None:
        check_types(self)
        check_numbers(self, "alpha", least=0, most=1)
        check_numbers(self, "beta", least=0)
        fits = isinstance(self.attack, Fgsm) and self.attack.label == "true" and self.alpha > 0
        if self.clean_pass == "shared" and not fits:
            raise SettingsError(
                'FeatureConsistency: clean_pass="shared" needs alpha > 0 and an Fgsm attack on the '
                f"true label, not alpha={self.alpha} and {self.attack}; use the separate pass"
            )

    def __call__(self, batch: TrainingBatch) -> Tensor:
        network = self._network(batch)
        attacked_and_clean = self._shared if self.clean_pass == "shared" else self._separate
        attacked, loss, features = attacked_and_clean(batch, network)
        logits, attacked_features = network(attacked)
        loss = loss + (1 - self.alpha) * batch.loss("adversarial", logits)
        if self.beta:
            if self.gradient == "attacked":
                features = features.detach()
            distance = _distance(features, attacked_features, self.distance)
            loss = loss + self.beta * batch.note("distance", distance)
        return loss

    def _network(self, batch: TrainingBatch) -> Featured:
        """The live network with its features, which are empty if they do not count."""
        if self.beta:
            return batch.features(self.layer)
        return lambda images: (batch.network(images), images.new_empty(0))

    def _separate(self, batch: TrainingBatch, network: Featured) -> tuple[Images, Tensor, Tensor]:
        """The attacked images; the weighted clean loss; the clean features."""
        attacked = batch.attacked(self.attack)
        logits, features = network(batch.images)
        return attacked, self.alpha * batch.loss("natural", logits), features

    def _shared(self, batch: TrainingBatch, network: Featured) -> tuple[Images, Tensor, Tensor]:
        """The same, from one clean pass of the live network."""
        images = batch.images.detach().requires_grad_()
        logits, features = network(images)
        loss = self.alpha * batch.loss("natural", logits)
        if self.gradient == "attacked":
            weights = [p for p in batch.network.parameters() if p.requires_grad]
            torch.autograd.backward(loss * batch.share, inputs=[images, *weights])
            direction, loss = cast(Tensor, images.grad), loss.detach()
        else:
            (direction,) = torch.autograd.grad(loss * batch.share, images, retain_graph=True)
        attack = dataclasses.replace(cast(Fgsm, self.attack), seed=batch.seed)
        return attack.along(direction, batch.images, batch.ids), loss, features


@dataclass(frozen=True, kw_only=True)
class Trades:
    """L(f(x), y) + weight · KL(f(x) ‖ f(x*)), the gradient through both sides (Zhang et al. 2019).

    The defaults are those of their code for CIFAR-10. With K attack steps it costs 2K + 7 units;
    their code passes the clean images through the network again for each use, which makes 3K + 9.

    Attributes:
        weight: the divergence's weight (1/λ in the paper, β in their code).
        attack: the attack that makes x*; it maximizes the divergence.
    """

    weight: float = 6.0
    attack: Attack = field(
        default_factory=lambda: Divergence(
            threat=Linf(epsilon=0.031), steps=10, step_size=0.007, select="last"
        )
    )

    def __post_init__(self) -> None:
        check_types(self)
        check_positive(self, "weight")

    def __call__(self, batch: TrainingBatch) -> Tensor:
        attacked = batch.attacked(self.attack)
        logits, attacked_logits = batch.network(batch.images), batch.network(attacked)
        batch.loss("adversarial", attacked_logits.detach())  # for the log alone
        apart = divergence(_precise(logits), _precise(attacked_logits)).mean()
        return batch.loss("natural", logits) + self.weight * batch.note("divergence", apart)


@dataclass(frozen=True, kw_only=True)
class Unrelaxed:
    """α L(f(x), y) + (1 − α) max L(f(x*), y) + β max d(φ(x), φ(x′)), two maxima over one ball.

    D19 eq. 5 and D22 eq. 5 to 7 have α = 0, β = 1; both papers drop the second maximum by setting
    x′ = x*. D22 eq. 8 adds the clean loss. d is the mean squared difference; its gradient flows
    through both sides. With K and K′ steps (the last iterates) it costs 2K + 2K′ + 10 units.

    Attributes:
        alpha: weight of the clean loss, 0 to 1.
        beta: weight of the feature distance, > 0.
        attack: the attack that makes x*.
        feature_attack: the attack that makes x′; its layer is φ's layer.
    """

    alpha: float = 0.0
    beta: float = 1.0
    attack: Attack = field(default_factory=lambda: Pgd(threat=PAPERS, steps=2, select="last"))
    feature_attack: FeatureAttack = field(
        default_factory=lambda: FeatureAttack(threat=PAPERS, steps=2, select="last")
    )

    def __post_init__(self) -> None:
        check_types(self)
        check_numbers(self, "alpha", least=0, most=1)
        check_positive(self, "beta")

    def __call__(self, batch: TrainingBatch) -> Tensor:
        attacked, moved = batch.attacked(self.attack), batch.attacked(self.feature_attack)
        network = batch.features(self.feature_attack.layer)
        logits, features = network(batch.images)
        _, moved_features = network(moved)
        distance = batch.note("distance", _distance(features, moved_features))
        return (
            self.alpha * batch.loss("natural", logits)
            + (1 - self.alpha) * batch.loss("adversarial", batch.network(attacked))
            + self.beta * distance
        )


Objective = Standard | Adversarial | FeatureConsistency | Trades | Unrelaxed


def _distance(features: Tensor, others: Tensor, kind: FeatureDistance = "squared") -> Tensor:
    return feature_distance(_precise(features), _precise(others), kind).mean()


def _precise(values: Tensor) -> Tensor:
    """The values in float32 where mixed precision left less."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
