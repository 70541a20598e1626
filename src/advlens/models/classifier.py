"""A classifier as advlens sees it: pixels in, logits out, normalization inside."""

import itertools
import math
from collections.abc import Iterator, Sequence
from numbers import Integral
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from advlens.arrays import Images, Logits, conversion
from advlens.colors import LUMINANCE
from advlens.errors import DataError, ModelError
from advlens.models.outputs import logits_of, two_logits
from advlens.wordnet import lemmas

TOLERANCE = 1e-6


def check_images(images: Images) -> Images:
    """Return images clamped to [0, 1]; refuse anything but an image batch in that range.

    Raises:
        DataError: not a float N×3×H×W tensor, not finite, or outside [0, 1] by more than 1e-6.
    """
    if not isinstance(images, Tensor):
        raise DataError(
            f"images must be a float tensor N×3×H×W, not {type(images).__name__}; convert an array "
            "with torch.from_numpy(images), a list with torch.stack(images)"
        )
    if mend := conversion(images, "images"):
        raise DataError(f"images must be a dense float tensor N×3×H×W; {mend}")
    if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
        raise DataError(
            f"images must be a float tensor N×3×H×W, not {images.dtype} {tuple(images.shape)}; "
            "convert with image.float() / 255 and stack along the first axis"
        )
    if images.numel() == 0:
        return images
    low, high = torch.stack(torch.aminmax(images)).tolist()
    if not (low >= -TOLERANCE and high <= 1 + TOLERANCE):  # also true of NaN
        raise DataError(
            f"images must lie in [0, 1], found {low:.4g} to {high:.4g}; "
            "pass pixels and leave the normalization to the model"
        )
    return images.clamp(0, 1)


def tensors_of(module: nn.Module) -> Iterator[Tensor]:
    """The module's parameters, then its buffers."""
    return itertools.chain(module.parameters(), module.buffers())


def precision_of(module: nn.Module) -> torch.dtype:
    """The type that a module computes in: that of its first floating-point tensor, or float32."""
    dtypes = (tensor.dtype for tensor in tensors_of(module) if tensor.is_floating_point())
    return next(dtypes, torch.float32)


def device_of(module: nn.Module) -> torch.device:
    """The device of a module's tensors; the CPU if it has none."""
    return next((tensor.device for tensor in tensors_of(module)), torch.device("cpu"))


def to_evaluation(module: nn.Module) -> None:
    """Put a module in evaluation mode; programs of torch.export stay in that of their export."""
    try:
        module.eval()
    except (NotImplementedError, AttributeError):  # of an exported or frozen program within
        for each in module.modules():
            if isinstance(getattr(each, "training", None), bool):
                each.training = False


class Classifier(nn.Module):
    """A network with its normalization, class names and WordNet synsets.

    `classifier(images)` takes pixels in [0, 1], N×3×H×W, and returns logits N×C of
    `network((images − mean) / std)`, computed in the network's own precision. A network of one
    channel sees the images' luminance. One logit of an image is that of the second of two classes,
    and returned as the two logits 0 and z.

    Args:
        network: any module from normalized images to logits, or to a mapping, tuple or record with
            logits.
        name: the name in tables and reports.
        mean, std: mean and standard deviation per channel, on the [0, 1] scale: three values, or
            one for a network of one channel (default: 0 and 1, for one channel if the first
            convolution takes one).
        classes: class names in the order of the logits, if known (default: the synsets' words).
        synsets: their WordNet 3.0 wnids, if known.
        image_size: height and width that the network expects: one number, or a pair of them.
        resize: shorter side of an image file before the center crop of `image_size` (default: 8/7
            of it, as 256 for 224); of a crop that is not square, that of the area, of the crop's
            shape, which the file then covers.
        interpolation: the filter that resizes an image file.
        squeeze: whether the resize squeezes a whole image file to the shape of the crop.
        weights: SHA-256 of the weights file, if any.
        head: the part of the network's output that holds the logits, if there are several: a key,
            an attribute or a number (default: see `advlens.models.outputs`).

    Attributes:
        image_size, image_width: height and width of its images.
        file: the weights file that it was loaded from, if any.
        made_by: the call of `load_model` that made it, if one did.
        notes: what a reader of its results must know, a sentence each.

    Raises:
        ModelError: a mean or std is invalid, or the numbers of classes and synsets differ.
        DataError: a synset is not a WordNet 3.0 noun.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        *,
        name: str,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        classes: Sequence[str] | None = None,
        synsets: Sequence[str] | None = None,
        image_size: int | tuple[int, int] = 224,
        resize: int | None = None,
        interpolation: Literal["bilinear", "bicubic"] = "bilinear",
        squeeze: bool = False,
        weights: str | None = None,
        head: str | None = None,
    ):
        super().__init__()
        if not isinstance(name, str) or not name:
            raise ModelError(f"the name of a classifier must be a text, not {name!r}")
        if interpolation not in ("bilinear", "bicubic"):
            raise ModelError(
                f"{name}: interpolation must be bilinear or bicubic, not {interpolation!r}"
            )
        if not isinstance(network, nn.Module):
            raise ModelError(
                f"{name}: the network must be a torch.nn.Module, not {type(network).__name__}"
            )
        for what, names in (("classes", classes), ("synsets", synsets)):
            if names is not None and (isinstance(names, str) or not isinstance(names, Sequence)):
                raise ModelError(f"{name}: {what} must be a list of names, not {names!r}")
        sides = image_size if isinstance(image_size, tuple | list) else (image_size, image_size)
        named = [("image_size", side) for side in sides]
        for what, size in (*named, ("resize", 1 if resize is None else resize)):
            if len(sides) != 2 or not isinstance(size, Integral) or size < 1:
                raise ModelError(f"{name}: {what} must be a number of pixels, not {size!r}")
        if classes is not None and synsets is not None and len(classes) != len(synsets):
            raise ModelError(
                f"{name}: {len(classes)} class names but {len(synsets)} synsets; give one per class"
            )
        self.name = name
        self.network = network
        channels = _channels(network) if mean is None and std is None else 3
        for what, value in (("mean", 0.0), ("std", 1.0)):
            values = torch.full((channels, 1, 1), value, dtype=precision_of(network))
            self.register_buffer(what, values, persistent=False)
        if mean is not None or std is not None:
            given = mean if mean is not None else std
            count = len(given) if isinstance(given, Sequence) else 3
            self.set_normalization(
                (0.0,) * count if mean is None else mean, (1.0,) * count if std is None else std
            )
        self.synsets = None if synsets is None else tuple(synsets)
        if classes is None and synsets is not None:
            classes = [lemmas(wnid)[0] for wnid in synsets]
        self.classes = None if classes is None else tuple(classes)
        self.image_size, self.image_width = sides
        self.resize: int = round(256 / 224 * min(sides)) if resize is None else resize
        self.interpolation, self.squeeze = interpolation, squeeze
        self.weights = weights
        self.head = head
        self.file: Path | None = None
        self.made_by = ""
        self.notes: tuple[str, ...] = ()

    def set_normalization(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Set the mean and standard deviation per channel, on the [0, 1] scale.

        Raises:
            ModelError: they are not three finite values each, or one, or a standard deviation is
                not positive.
        """
        try:
            sound = len(mean) == len(std) in (1, 3) and min(std) > 0
            sound &= all(math.isfinite(value) for value in (*mean, *std))
        except (TypeError, ValueError):  # not sequences, or not of numbers
            sound = False
        if not sound:
            raise ModelError(
                f"{self.name}: mean and std need three finite values each, or one for a network "
                f"of one channel, and std > 0, not {mean} and {std}"
            )
        self.mean = self.mean.new_tensor(mean).view(-1, 1, 1)
        self.std = self.std.new_tensor(std).view(-1, 1, 1)

    def normalized(self, images: Images) -> Tensor:
        """What the network takes: of its number of channels, normalized, in its precision."""
        pixels = images.to(self.mean.dtype)  # the network's precision, not the images'
        if len(self.mean) == 1:
            red, green, blue = LUMINANCE
            pixels = red * pixels[:, :1] + green * pixels[:, 1:2] + blue * pixels[:, 2:]
        return (pixels - self.mean) / self.std

    def forward(self, images: Images) -> Logits:
        outputs = self.network(self.normalized(images))
        logits: Logits = two_logits(logits_of(outputs, self.head))
        return logits


def _channels(network: nn.Module) -> int:
    """The number of channels of the images that a network takes, by its first convolution."""
    first = next((layer for layer in network.modules() if isinstance(layer, nn.Conv2d)), None)
    return 1 if first is not None and first.in_channels == 1 else 3
