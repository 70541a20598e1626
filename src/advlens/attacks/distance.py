"""Attacks that move what a model makes of an image away from what it made of the clean one."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from advlens.arrays import Ids, Images, Labels, Logits, Mask, PerImage
from advlens.attacks.base import Ascent, Attack, averaged
from advlens.attacks.gradient import GradientAttack
from advlens.attacks.projected import Iterative
from advlens.losses import divergence, feature_distance, rounding
from advlens.prepared import Prepared
from advlens.seeding import Stream, normal


@dataclass(frozen=True, kw_only=True)
class FeatureAttack(Iterative, GradientAttack):
    """Moves the features of one layer as far as the ball allows: max d(φ(x), φ(x′)).

    The second inner maximum of D19 eq. 5 and D22 eq. 7, which both papers relax away. φ are the
    maps of a convolution after its non-linearity, d the mean squared difference. The gradient
    vanishes at the image itself, so the start is a uniform point of the ball. Needs no labels.

    Attributes:
        layer: name of the convolution (default: the last).
    """

    layer: str | None = None

    def _start(self, images: Images, ids: Ids, restart: int) -> Images:
        return self.threat.sample(images, seed=self.seed, ids=ids)

    def _ascent(self, model: Prepared, images: Images, labels: Labels | None) -> Ascent:
        def features(x: Images) -> Tensor:
            return model.features(x, self.layer)

        clean = averaged(features, images, self.draws)
        return self._climber(features, lambda _: _Away(clean, feature_distance))

    _outcomes = Attack._outcomes  # what is climbed is not the goal


@dataclass(frozen=True, kw_only=True)
class Divergence(Iterative, GradientAttack):
    """Moves the predicted probabilities as far as the ball allows: max KL(f(x) ‖ f(x′)).

    The inner maximum of TRADES (Zhang et al. 2019, algorithm 1). The gradient vanishes at the image
    itself, so the start is the image with Gaussian noise of standard deviation 0.001, within the
    ball. Where that moves no logit beyond its rounding, the gradient is rounding too and not
    followed: the step goes on along the noise. Needs no labels; costs one forward pass more, on the
    images themselves.
    """

    def _start(self, images: Images, ids: Ids, restart: int) -> Images:
        noise = normal(self.seed, ids, images.shape[1:], Stream.START).to(images)
        return self.threat.project(images + 0.001 * noise, images)

    def _ascent(self, model: Prepared, images: Images, labels: Labels | None) -> Ascent:
        clean = averaged(model, images, self.draws)
        return self._climber(model, lambda _: _Away(clean, _divergence))

    _outcomes = Attack._outcomes  # what is climbed is not the goal

    def _step(self, current: Images, gradient: Images, images: Images) -> Images:
        none = (gradient == 0).all(dim=(1, 2, 3), keepdim=True)
        return super()._step(current, torch.where(none, current - images, gradient), images)


def _divergence(clean: Logits, logits: Logits) -> PerImage:
    """KL(f(x) ‖ f(x′)), without a gradient where all logits are the clean ones to rounding."""
    same = ((logits - clean).abs() <= rounding(clean)[:, None]) | (logits == clean)
    return torch.where(same.all(dim=1), 0.0, divergence(clean, logits))


@dataclass(frozen=True)
class _Away:
    """The criterion of outputs that are far from the clean ones; never done."""

    clean: Tensor
    distance: Callable[[Tensor, Tensor], PerImage]

    def score(self, output: Tensor) -> PerImage:
        return self.distance(self.clean, output)

    def reached(self, output: Tensor) -> Mask:
        return torch.zeros(len(output), dtype=torch.bool, device=output.device)

    def at(self, positions: Tensor) -> "_Away":
        return replace(self, clean=self.clean[positions])
