"""Images, labels and ids that a user passes to a method: checked, on the model's device."""

from typing import overload

import torch
from torch import Tensor, nn

from advlens.arrays import Ids, Images, Labels, conversion
from advlens.errors import SettingsError
from advlens.models.classifier import check_images, device_of
from advlens.prepared.frozen import Prepared

INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def place_images(model: nn.Module, images: Images) -> Images:
    """Images clamped to [0, 1], on the model's device; for a prepared copy in its precision.

    Raises:
        DataError: not a float N×3×H×W tensor, not finite, or outside [0, 1] by more than 1e-6.
    """
    if isinstance(model, Prepared):
        return model.take(images)
    return check_images(images).to(device_of(model))


@overload
def check_labels(labels: Labels, images: Images) -> Labels: ...
@overload
def check_labels(labels: Labels | None, images: Images) -> Labels | None: ...
def check_labels(labels: Labels | None, images: Images) -> Labels | None:
    """Labels as int64 on the images' device; None stays None.

    Args:
        labels: a class number for each image, in a tensor of any integer type.
        images: images on the model's device.

    Raises:
        SettingsError: the labels are something else, such as a list, one-hot rows or a column.
    """
    if labels is None:
        return None
    expected = (
        f"labels must be one class number (an integer tensor) for each of the {len(images)} images"
    )
    if not isinstance(labels, Tensor):
        raise SettingsError(
            f"{expected}, not a {type(labels).__name__}; pass torch.as_tensor(labels)"
        )
    if mend := conversion(labels, "labels"):
        raise SettingsError(f"{expected}, dense and with values; {mend}")
    if labels.shape != images.shape[:1] or labels.dtype not in INTEGERS:
        raise SettingsError(
            f"{expected}, not {labels.dtype} {tuple(labels.shape)}; for one-hot rows pass "
            "labels.argmax(dim=1)"
        )
    return labels.to(images.device, torch.int64)


def check_classes(labels: Labels, count: int) -> Labels:
    """The labels; SettingsError for one that is not a class of a model with `count` classes."""
    if bool(((labels < 0) | (labels >= count)).any()):
        raise SettingsError(
            f"labels must be classes of the model, 0 to {count - 1}, not "
            f"{int(labels.min())} to {int(labels.max())}; count the classes from 0, in the order "
            "of the model's outputs"
        )
    return labels


def number_images(images: Images, ids: Ids | None) -> Ids:
    """A stable number for each image, on the CPU: the given one, or its position.

    Raises:
        SettingsError: ids are not one whole number ≥ 0 for each image.
    """
    if ids is None:
        return torch.arange(len(images))
    dense = isinstance(ids, Tensor) and not conversion(ids, "ids")
    fits = dense and ids.shape == images.shape[:1] and ids.dtype in INTEGERS
    if not fits or bool((ids < 0).any()):
        raise SettingsError(
            f"ids must be one whole number ≥ 0 for each of the {len(images)} images, an integer "
            f"tensor of shape ({len(images)},)"
        )
    return ids.to("cpu", torch.int64)
