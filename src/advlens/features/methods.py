"""Images of what a model has learned: three objectives for projected steps (B23, section 2.3.2).

R(x) is the penultimate representation: the input of the last linear layer, after global pooling.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from advlens.arrays import Images, PerImage
from advlens.errors import NumericError, SettingsError
from advlens.features.steps import ImageScore, Synthesis
from advlens.models import check_images
from advlens.prepared import Prepared


@dataclass(frozen=True, kw_only=True)
class FeatureVisualization(Synthesis):
    """Raise the mean of chosen components of the representation (B23 eq. 13, 14).

    The targets are the components of each image: whole numbers N×k, or N for one each.
    """

    epsilon: float = 1000.0
    step_size: float = 1.0
    steps: int = 400

    def _checked(self, targets: Tensor) -> Tensor:
        return _numbers("FeatureVisualization", "components", targets)

    def _score_of(self, model: Prepared, targets: Tensor) -> ImageScore:
        largest = int(targets.max())

        def mean(images: Images) -> PerImage:
            return _mean("components", model.representation(images), targets, largest)

        return mean


@dataclass(frozen=True, kw_only=True)
class Inversion(Synthesis):
    """Lower the distance ‖R(x) − R(x_t)‖₂ / ‖R(x_t)‖₂ to an image's representation (B23 eq. 15).

    The targets are the images x_t, pixels in [0, 1], N×3×H×W. R(x_t) costs one forward pass beside
    those of the steps. An image that reaches R(x_t) exactly stays there.
    """

    epsilon: float = 1000.0
    step_size: float = 1.0
    steps: int = 10_000
    direction: ClassVar[int] = -1

    def _checked(self, targets: Tensor) -> Tensor:
        return check_images(targets)

    def _score_of(self, model: Prepared, targets: Tensor) -> ImageScore:
        wanted = model.representation(targets)
        lengths = _length(wanted)
        if not bool((lengths > 0).all()):
            raise NumericError(
                "Inversion: the representation of an image is 0 or NaN, so no distance is relative "
                "to it; leave the image out, or check the model's weights"
            )

        def distance(images: Images) -> PerImage:
            return _length(model.representation(images) - wanted) / lengths

        return distance


@dataclass(frozen=True, kw_only=True)
class ClassGeneration(Synthesis):
    """Raise the logit of a class, from an image drawn from its Gaussian (B23 eq. 16).

    The defaults are B23's for CIFAR-10; its Small ImageNet 150 has epsilon=40, step_size=1.

    The targets are the class of each image, N. The starts are `ClassGaussian.sample(targets)`.
    """

    epsilon: float = 30.0
    step_size: float = 0.5
    steps: int = 60

    def _checked(self, targets: Tensor) -> Tensor:
        return _numbers("ClassGeneration", "classes", targets)

    def _score_of(self, model: Prepared, targets: Tensor) -> ImageScore:
        largest = int(targets.max())

        def logit(images: Images) -> PerImage:
            logits = model(images)
            known = logits.masked_fill(logits == -torch.inf, 0)  # nothing raises a masked class
            return _mean("classes", known, targets, largest)

        return logit


def _numbers(method: str, what: str, targets: Tensor) -> Tensor:
    """Whole numbers ≥ 0, N×k."""
    rows = targets.unsqueeze(1) if targets.ndim == 1 else targets
    fits = rows.ndim == 2 and rows.shape[1] > 0 and rows.dtype in (torch.int32, torch.int64)
    if not fits or (rows.numel() and int(rows.min()) < 0):
        raise SettingsError(
            f"{method}: {what} must be whole numbers ≥ 0, at least one for each image, not "
            f"{targets.dtype} {tuple(targets.shape)} {targets.flatten()[:5].tolist()}"
        )
    return rows.long()


def _mean(what: str, values: Tensor, chosen: Tensor, largest: int) -> PerImage:
    if largest >= values.shape[1]:
        raise SettingsError(f"the model has {what} 0 to {values.shape[1] - 1}, but no {largest}")
    return values.gather(1, chosen).mean(dim=1)


def _length(values: Tensor) -> PerImage:
    length: Tensor = torch.linalg.vector_norm(values, dim=1)
    return length
