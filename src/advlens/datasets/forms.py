"""Checks of the arrays and names that a user passes; each error says how to convert them."""

import contextlib
from collections import Counter
from collections.abc import Generator, Iterable, Sequence

import torch
from jaxtyping import UInt8
from torch import Tensor

from advlens.arrays import Labels, conversion
from advlens.errors import DataError

Pixels = UInt8[Tensor, "n 3 h w"]
Shape = tuple[int, int, int]


def check_names(
    name: str, classes: Sequence[str], synsets: Sequence[str] | None
) -> tuple[tuple[str, ...], tuple[str, ...] | None]:
    """Class names, and their WordNet ids if known; the ids, else the names, must be distinct.

    Raises:
        DataError: none are given, two are alike, some are not texts, or the numbers of ids and
            names differ.
    """
    if not isinstance(name, str) or not name:
        raise DataError(f"the name of a data set must be a text, not {name!r}")
    for what, given in (("classes", classes), ("synsets", synsets)):
        if given is None and what == "synsets":
            continue
        if isinstance(given, str) or not isinstance(given, Sequence):
            raise DataError(f"{name}: {what} must be a list of names, not {_short(given)}")
        if not given or not all(isinstance(each, str) for each in given):
            raise DataError(f"{name}: {what} must be a list of one or more names (texts)")
    if synsets is not None and len(synsets) != len(classes):
        raise DataError(
            f"{name} has {len(classes)} classes but {len(synsets)} synsets; give one for each class"
        )
    (most, count), *_ = Counter(classes if synsets is None else synsets).most_common(1)
    if count > 1:
        raise DataError(
            f"{name} has {count} classes {most!r}, which cannot be told apart; give each its own "
            f"{'name' if synsets is None else 'synset'}"
        )
    return tuple(classes), None if synsets is None else tuple(synsets)


def check_labels(name: str, labels: Labels, classes: int) -> Labels:
    """The labels, if each is a valid class number.

    Raises:
        DataError: they are not one-dimensional int64 on the CPU, from 0 to classes − 1, or there
            are none.
    """
    if not isinstance(labels, Tensor):
        mend = "pass torch.as_tensor(labels)"
    elif conversion(labels, "labels"):
        mend = conversion(labels, "labels")
    elif labels.ndim == 2 and labels.shape[1] == classes > 1:
        mend = "for one-hot labels or scores, take labels.argmax(dim=1)"
    elif labels.ndim != 1:
        mend = "give one number for each image, in one dimension"
    elif labels.dtype != torch.int64:
        mend = "convert them with labels.long()"
    elif labels.device.type != "cpu":
        mend = "move them with labels.cpu()"
    else:
        mend = ""
    if mend:
        raise DataError(
            f"{name}: labels must be one class number for each image, an int64 tensor on the CPU,"
            f" not {_short(labels)}; {mend}"
        )
    if len(labels) == 0:
        raise DataError(f"{name} holds no images; give at least one image and its label")
    wrong = ((labels < 0) | (labels >= classes)).nonzero()[:, 0]
    if len(wrong):
        first = int(wrong[0])
        raise DataError(
            f"{name}: labels must be 0 to {classes - 1} for {classes} classes, but {len(wrong)} of"
            f" {len(labels)} are not: image {first} has {int(labels[first])}; leave out images"
            " without a class and count classes from 0"
        )
    return labels


def check_shape(name: str, shape: Shape) -> Shape:
    """Channels, height and width of each image, if they fit RGB images.

    Raises:
        DataError: they do not.
    """
    whole = isinstance(shape, Sequence) and all(isinstance(side, int) for side in shape)
    if not (whole and len(shape) == 3 and shape[0] == 3 and min(shape) > 0):
        raise DataError(
            f"{name}: image_shape must be (3, height, width) of its RGB images, not {shape}"
        )
    return shape


def check_pixels(name: str, pixels: Pixels) -> Pixels:
    """The pixels, if they are uint8 N×3×H×W on the CPU.

    Raises:
        DataError: they are not.
    """
    if mend := _wrong(pixels):
        raise DataError(
            f"{name}: images must be a uint8 tensor N×3×H×W on the CPU, from 0 to 255, not"
            f" {_short(pixels)}; {mend}"
        )
    return pixels


def check_stream(
    name: str, stream: Iterable[Pixels] | None, batches: Sequence[Sequence[int]], shape: Shape
) -> Generator[Pixels, None, None]:
    """The batches of a data set's `stream`, each checked; closing this generator closes the stream.

    Args:
        name: the data set's name.
        stream: the stream of its batches.
        batches: the ids that were requested for each.
        shape: the shape of each image.

    Raises:
        DataError: a batch is not a uint8 tensor of this shape for each id, or batches are missing.
    """
    with contextlib.ExitStack() as stack:
        if isinstance(stream, Generator):
            stack.callback(stream.close)
        iterator = iter(() if stream is None else stream)  # None: a forgotten return
        for ids in batches:
            images = next(iterator, None)
            wanted = (len(ids), *shape)
            if not (
                isinstance(images, Tensor)
                and (images.dtype, images.device.type) == (torch.uint8, "cpu")
                and tuple(images.shape) == wanted
            ):
                raise DataError(
                    f"{name} must yield a uint8 tensor {wanted} on the CPU, from 0 to 255, for ids "
                    f"{ids[0]} to {ids[-1]}, not {_short(images)}; fix its stream()"
                )
            yield images


def _wrong(pixels: object) -> str:
    """How to fix what is not a uint8 tensor N×3×H×W on the CPU; empty if it is right."""
    if not isinstance(pixels, Tensor):
        return "convert an array with torch.from_numpy(images)"
    if mend := conversion(pixels, "images"):
        return mend
    if pixels.numel() == 0:
        return "give at least one image of one or more pixels"
    if pixels.is_floating_point():
        low, high = torch.stack(torch.aminmax(pixels)).tolist()
        if not (low >= 0 and high <= 255):  # also true of NaN
            return (
                f"they hold {low:.4g} to {high:.4g}: undo the normalization, then multiply by 255"
                " and convert with .round().to(torch.uint8)"
            )
        scale = "multiply by 255 and " if high <= 1 else ""
        return f"they hold {low:.4g} to {high:.4g}: {scale}convert with .round().to(torch.uint8)"
    if pixels.dtype != torch.uint8:
        return "give whole numbers from 0 to 255 and convert with images.to(torch.uint8)"
    if pixels.device.type != "cpu":
        return "move them with images.cpu()"
    if pixels.ndim == 4 and pixels.shape[1] == 3:
        return ""
    if pixels.ndim == 4 and pixels.shape[3] in (1, 3, 4):
        return "bring channels to the second place with images.permute(0, 3, 1, 2)"
    if pixels.ndim == 4 and pixels.shape[1] == 1:
        return "make gray images RGB with images.repeat(1, 3, 1, 1)"
    if pixels.ndim == 4 and pixels.shape[1] == 4:
        return "leave out transparency with images[:, :3]"
    if pixels.ndim == 3 and pixels.shape[0] == 3:
        return "make one image a batch with images[None]"
    return "each image has three channels, red, green and blue"


def _short(value: object) -> str:
    """An array's type and shape, or the beginning of anything else."""
    if isinstance(value, Tensor):
        shape = "nested" if value.is_nested else tuple(value.shape)
        return f"{value.dtype} {shape} on {value.device.type}"
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return f"{type(value).__module__}.{type(value).__name__} {value.dtype} {value.shape}"
    return f"{type(value).__name__} {str(value)[:40]!r}"
