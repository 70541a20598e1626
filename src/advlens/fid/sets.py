"""The features of a set of images, streamed, and the distances of two sets."""

from typing import Self

import torch
from jaxtyping import Float32
from torch import Tensor

from advlens.arrays import Ids, Labels
from advlens.errors import DataError
from advlens.fid.distances import Distance, FeatureStatistics, fid, kid
from advlens.fid.representations import Features, Source

FEWEST = 3
"""Images of a set, or of each of its classes, that a KID needs."""


class SeenSet:
    """The moments of all images' features, and the features of some images, which a KID needs.

    It is streamed: `update(features, ids)`, `merge(other)`. Memory is d × (d + number of images
    kept), whatever the number of images.

    Args:
        source: the source of the features.
        kept: ids of the images whose features are kept, in ascending order.
        classes: the class of each of these, if the set has a fixed number of images of each class.
    """

    def __init__(self, source: Source, kept: Ids, classes: Labels | None = None):
        self.moments, self.kept = FeatureStatistics(source), kept
        self.classes = classes
        if classes is not None and int(classes.bincount()[classes].min()) < FEWEST:
            self.classes = None  # too few for an error within classes
        self.features: Float32[Tensor, "n d"] = torch.zeros(len(kept), source.dimension)

    def update(self, features: Features, ids: Ids) -> None:
        """Process a batch.

        Raises:
            NumericError: a feature is not finite.
        """
        features = features.cpu()
        self.moments.update(features)
        wanted = torch.isin(ids, self.kept)
        self.features[torch.searchsorted(self.kept, ids[wanted])] = features[wanted]

    def merge(self, other: Self) -> None:
        """Merge what another accumulator saw of the same set."""
        self.moments.merge(other.moments)
        self.features += other.features  # 0 for images that the other one saw

    def state(self) -> dict[str, Tensor]:
        """What it saw, as tensors to store in a file."""
        n = torch.tensor(self.moments.n)
        moments = {"n": n, "mean": self.moments.mean, "scatter": self.moments.scatter}
        return moments | {"features": self.features}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Resume from `state`.

        Raises:
            DataError: it is the state of another set.
        """
        for name, own in self.state().items():
            held = state.get(name)
            if held is None or (held.shape, held.dtype) != (own.shape, own.dtype):
                raise DataError(f"the file holds other features than those of {len(self.kept)} ids")
        self.moments.n, self.moments.mean = int(state["n"]), state["mean"]
        self.moments.scatter, self.features = state["scatter"], state["features"]

    def distances(self, other: "SeenSet") -> list[Distance]:
        """FID and KID from another set; each only where the sets have enough images for it.

        Raises:
            DataError: the features have two sources.
            NumericError: a moment is not finite.
        """
        found = list[Distance]()
        if min(self.moments.n, other.moments.n) >= 2:
            found.append(fid(self.moments.compute(), other.moments.compute()))
        if min(len(self.kept), len(other.kept)) >= FEWEST:
            source = self.moments.source
            found.append(kid(self.features, other.features, source, classes=self.classes))
        return found
