"""Networks that turn images into feature vectors, and the names of their features."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from advlens.arrays import Images
from advlens.models import Classifier
from advlens.models.classifier import check_images
from advlens.prepared import prepare

Features = Float[Tensor, "n d"]


@dataclass(frozen=True, kw_only=True)
class Source:
    """The source of feature vectors. Distances from different sources cannot be compared.

    Attributes:
        network: the network's name.
        layer: the layer's name.
        dimension: length of a feature vector.
        resize: how images of another size than the network's are resized.
        weights: SHA-256 of the weights, if known.
    """

    network: str
    layer: str
    dimension: int
    resize: str
    weights: str | None

    def __str__(self) -> str:
        return f"{self.network}, layer {self.layer}, images {self.resize}"


class FeatureNetwork(Protocol):
    """Maps pixels in [0, 1], N×3×H×W, to the images' feature vectors for each layer, float32."""

    @property
    def sources(self) -> Mapping[str, Source]:
        """The source of each layer's features."""

    def __call__(self, images: Images) -> dict[str, Features]: ...


class Representation:
    """A classifier's penultimate representation as features, for use without an Inception-v3.

    Args:
        model: the classifier.
        batch_size: images per step.

    Raises:
        ModelError: the model has no linear layer.
    """

    def __init__(self, model: Classifier, *, batch_size: int = 128):
        self.batch_size = batch_size
        self._prepared, self._size = prepare(model), model.image_size
        self._device = model.mean.device
        self.sources = {
            "representation": Source(
                network=model.name,
                layer="representation",
                dimension=self._features(torch.zeros(1, 3, self._size, self._size)).shape[1],
                resize=f"resized bilinearly with antialiasing to {self._size}×{self._size}",
                weights=model.weights,
            )
        }

    def __call__(self, images: Images) -> dict[str, Features]:
        """The features on the model's device.

        Raises:
            DataError: images are not pixels in [0, 1].
        """
        parts = [
            self._features(check_images(part)) for part in torch.split(images, self.batch_size)
        ]
        return {"representation": torch.cat(parts)}

    @torch.no_grad()
    def _features(self, images: Images) -> Features:
        size = (self._size, self._size)
        if images.shape[2:] != size:
            images = F.interpolate(images, size, mode="bilinear", antialias=True).clamp(0, 1)
        return self._prepared.representation(images.to(self._device))
