"""Training objectives: frozen settings that are called for the loss of one batch.

`objective(batch) -> scalar loss`. Attacks inside run on the prepared copy (evaluation mode, batch
normalization folded), the loss on the live network in training mode.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field

import torch.nn.functional as F
from torch import Tensor, nn

from advlens.arrays import Ids, Images, Labels
from advlens.attacks import Attack, Fgsm, Pgd
from advlens.losses import feature_distance
from advlens.prepared import Prepared
from advlens.seeding import Stream, uniform
from advlens.threat import L2, Linf


@dataclass(frozen=True)
class TrainingBatch:
    """What an objective sees of one step.

    Attributes:
        network: the live network, in training mode.
        prepared: gives its prepared copy with the current weights.
        features: gives the live network as a module that returns (logits, maps of the last layer).
        images, labels, ids: of the step.
        seed: of the step's randomness.
    """

    network: nn.Module
    prepared: Callable[[], Prepared]
    features: Callable[[], nn.Module]
    images: Images
    labels: Labels
    ids: Ids
    seed: int

    def attacked(self, attack: Attack) -> Images:
        """The images under an attack, its randomness drawn anew for this step."""
        attack = dataclasses.replace(attack, seed=self.seed)
        return attack(self.prepared(), self.images, self.labels, ids=self.ids).detach()


@dataclass(frozen=True, kw_only=True)
class Standard:
    """Cross entropy on the images themselves."""

    def __call__(self, batch: TrainingBatch) -> Tensor:
        return F.cross_entropy(batch.network(batch.images), batch.labels)


@dataclass(frozen=True, kw_only=True)
class Adversarial:
    """Cross entropy on attacked images (Madry et al. 2018; B23 Algorithm 1).

    Attributes:
        attack: the inner maximization.
    """

    attack: Attack = field(
        default_factory=lambda: Pgd(threat=L2(epsilon=0.5), steps=2, step_size=0.3, select="last")
    )

    def __call__(self, batch: TrainingBatch) -> Tensor:
        return F.cross_entropy(batch.network(batch.attacked(self.attack)), batch.labels)


@dataclass(frozen=True, kw_only=True)
class FeatureConsistency:
    """α L(f(x), y) + (1 − α) L(f(x*), y) + β d(φ(x), φ(x*)) (D19 eq. 6; D22 eq. 5, 8, 9).

    x* is one FGSM step in L∞ with a radius drawn uniformly per image; φ are the maps of the last
    convolution after its non-linearity, d the squared difference averaged over elements; the
    gradient flows through both sides.

    Attributes:
        alpha: weight of the clean loss, 0 to 1.
        beta: weight of the feature distance, ≥ 0.
        low: smallest radius in pixel units.
        high: largest radius.
    """

    alpha: float = 0.5
    beta: float = 1.0
    low: float = 4 / 255
    high: float = 16 / 255

    def __call__(self, batch: TrainingBatch) -> Tensor:
        share = uniform(batch.seed, batch.ids, (), Stream.EPSILON).to(batch.images)
        epsilon = self.low + (self.high - self.low) * share
        attacked = batch.attacked(Fgsm(threat=Linf(epsilon=epsilon)))
        network = batch.features()
        logits, features = network(batch.images)
        attacked_logits, attacked_features = network(attacked)
        return (
            self.alpha * F.cross_entropy(logits, batch.labels)
            + (1 - self.alpha) * F.cross_entropy(attacked_logits, batch.labels)
            + self.beta * feature_distance(features, attacked_features).mean()
        )


Objective = Standard | Adversarial | FeatureConsistency
