"""Starting images: noise, and samples from the Gaussian of a class's images."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from advlens.arrays import Ids, Images, Labels
from advlens.errors import DataError
from advlens.models import check_images
from advlens.seeding import Stream, normal

Shape = tuple[int, int, int]

NOISE = 1 / 20
"""Standard deviation of noise around medium gray (Engstrom et al. 2019, their published code)."""
BLOCK, JITTER = 4, 1e-4
LEVELS = 2.0**16
"""Levels of a block's value, few enough for exact sums over two million images in any order."""


def noise_images(ids: Ids, image_shape: Shape, *, seed: int = 0) -> Images:
    """Gaussian noise around medium gray, .5 ± .05 per pixel value, clamped to [0, 1].

    Args:
        ids: a stable number for each image that seeds its noise.
        image_shape: channels (3), height and width.
        seed: the seed of all noise.
    """
    return (0.5 + NOISE * normal(seed, ids, image_shape, Stream.START)).clamp_(0, 1)


class ClassGaussian:
    """A Gaussian for each class's images, averaged over 4×4 blocks (B23, section 2.3.2).

    It is fitted by streaming: `update(images, labels, ids)`, `merge(other)`. The covariance has the
    divisor n − 1, and 1e-4 is added to its diagonal. Fit it on training images, because images
    generated from it are scored against test images.

    A class with more images than the d = 3·⌈H/4⌉·⌈W/4⌉ block values of one keeps its moments (8 d²
    bytes). Other classes keep the blocks themselves (4 n d) and need no covariance matrix.

    Args:
        classes: number of classes.
        image_shape: channels (3), height and width of the images.
    """

    def __init__(self, classes: int, image_shape: Shape):
        self.image_shape = image_shape
        _, height, width = image_shape
        self.small: Shape = (3, math.ceil(height / BLOCK), math.ceil(width / BLOCK))
        dimension = math.prod(self.small)
        self.count: Int64[Tensor, " classes"] = torch.zeros(classes, dtype=torch.int64)
        self.total = torch.zeros(classes, dimension, dtype=torch.float64)
        self._blocks: dict[int, Float32[Tensor, "n d"]] = {}
        self._ids: dict[int, Ids] = {}
        self._products: dict[int, Float[Tensor, "d d"]] = {}

    def update(self, images: Images, labels: Labels, ids: Ids) -> None:
        """Process a batch of pixels in [0, 1], and the class of each image.

        Args:
            images: a batch.
            labels: the class of each image.
            ids: a stable number for each image: the same images give the same bits, in any order
                and shards.

        Raises:
            DataError: images of another shape, or outside [0, 1]; a label that is not a class.
        """
        images, labels, ids = check_images(images).cpu(), labels.cpu(), ids.cpu()
        if len(images) == 0:
            return
        if tuple(images.shape[1:]) != self.image_shape:
            raise DataError(
                f"the Gaussians are fitted to images of {self.image_shape}, not of "
                f"{tuple(images.shape[1:])}"
            )
        if not 0 <= int(labels.min()) <= int(labels.max()) < len(self.count):
            raise DataError(
                f"labels must be 0 to {len(self.count) - 1}, found {int(labels.min())} to "
                f"{int(labels.max())}"
            )
        blocks = F.avg_pool2d(images.double(), BLOCK, ceil_mode=True).flatten(1)
        blocks = (blocks * LEVELS).round().div(LEVELS).float()
        for label in sorted(set(labels.tolist())):
            own = labels == label
            self._add(label, blocks[own], ids[own])

    def merge(self, other: "ClassGaussian") -> None:
        """Merge what another accumulator of the same classes saw."""
        for label in range(len(self.count)):
            if label in other._products:
                self._multiply(label)
                self._products[label] += other._products[label]
                self.count[label] += other.count[label]
                self.total[label] += other.total[label]
            elif label in other._blocks:
                self._add(label, other._blocks[label], other._ids[label])

    def _add(self, label: int, blocks: Float32[Tensor, "n d"], ids: Ids) -> None:
        self.count[label] += len(blocks)
        self.total[label] += blocks.double().sum(dim=0)
        if label in self._products:
            self._products[label] += blocks.double().T @ blocks.double()
        else:
            if label in self._blocks:
                blocks = torch.cat([self._blocks[label], blocks])
                ids = torch.cat([self._ids[label], ids])
            self._blocks[label], self._ids[label] = blocks, ids
            if self.count[label] > self.total.shape[1]:
                self._multiply(label)

    def _multiply(self, label: int) -> None:
        """Keep the moments of a class instead of its blocks from now on."""
        if label not in self._products:
            none = torch.empty(0, self.total.shape[1])
            blocks = self._blocks.pop(label, none).double()
            self._products[label] = blocks.T @ blocks
            self._ids.pop(label, None)

    def sample(self, labels: Labels, ids: Ids | None = None, *, seed: int = 0) -> Images:
        """One image for each label, clamped to [0, 1]; each block has one color.

        Args:
            labels: the class of each image.
            ids: a stable number for each image that seeds its draw (default 0…N−1).
            seed: the seed of all draws.

        Returns:
            Pixels in [0, 1], N×3×H×W, on the CPU.

        Raises:
            DataError: a class of fewer than two images, or a label that is not a class.
        """
        labels = labels.cpu()
        ids = torch.arange(len(labels)) if ids is None else ids.cpu()
        small = torch.empty(len(labels), self.total.shape[1])
        for label in sorted(set(labels.tolist())):
            chosen = labels == label
            small[chosen] = self._draw(label, ids[chosen], seed).float()
        blocks = small.clamp_(0, 1).view(-1, *self.small)
        _, height, width = self.image_shape
        large = blocks.repeat_interleave(BLOCK, dim=2).repeat_interleave(BLOCK, dim=3)
        return large[..., :height, :width].contiguous()

    def _draw(self, label: int, ids: Ids, seed: int) -> Float[Tensor, "n d"]:
        seen = int(self.count[label]) if 0 <= label < len(self.count) else 0
        if seen < 2:
            raise DataError(
                f"no Gaussian of class {label} can be fitted to {seen} images; use more images"
            )
        mean, dimension = self.total[label] / seen, self.total.shape[1]
        if label in self._products:
            scatter = self._products[label] - seen * torch.outer(mean, mean)
            covariance = scatter / (seen - 1) + JITTER * torch.eye(dimension, dtype=torch.float64)
            noise = normal(seed, ids, (dimension,), Stream.START).double()
            root: Tensor = torch.linalg.cholesky(covariance)
            return mean + noise @ root.T
        # Σ zᵢ (xᵢ − μ) / √(n − 1) of independent zᵢ has the images' covariance
        blocks = self._blocks[label][self._ids[label].argsort()].double()
        deviations = (blocks - mean) / math.sqrt(seen - 1)
        noise = normal(seed, ids, (seen + dimension,), Stream.START).double()
        return mean + noise[:, :seen] @ deviations + math.sqrt(JITTER) * noise[:, seen:]

    def state(self) -> dict[str, Tensor]:
        """The fit, as tensors to store in a file."""
        blocks = {f"blocks.{label}": value for label, value in self._blocks.items()}
        blocks |= {f"ids.{label}": value for label, value in self._ids.items()}
        products = {f"products.{label}": value for label, value in self._products.items()}
        return {"count": self.count, "total": self.total, **blocks, **products}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Resume from `state`, for the same number of classes and image shape.

        Raises:
            DataError: another number of classes, or another image shape.
        """
        if state["total"].shape != self.total.shape:
            raise DataError(
                f"the file holds Gaussians of {tuple(state['total'].shape)} values, not of "
                f"{tuple(self.total.shape)} (classes, values of one image); fit them again"
            )
        self.count, self.total = state["count"].clone(), state["total"].clone()
        kept: dict[str, dict[int, Tensor]] = {"blocks": {}, "ids": {}, "products": {}}
        dimension = self.total.shape[1]
        for name, value in state.items():
            kind, _, label = name.partition(".")
            if label:
                seen = int(self.count[int(label)])
                forms = {"blocks": (seen, dimension), "ids": (seen,)}
                if value.shape != forms.get(kind, (dimension, dimension)):
                    raise DataError(f"{name} has the shape {tuple(value.shape)}; fit it again")
                kept[kind][int(label)] = value.clone()
        self._blocks, self._ids, self._products = kept.values()
