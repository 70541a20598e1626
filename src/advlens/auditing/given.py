"""The images that a user passes from Python."""

from collections.abc import Callable
from functools import cache
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

from advlens.arrays import conversion
from advlens.datasets import DatasetData, ImageData, Transform, load_data
from advlens.errors import SettingsError

Data = str | ImageData | Dataset[Any] | DataLoader[Any] | tuple[Tensor, Tensor]
"""A specification, a data set, the Dataset of (image, label) in a DataLoader, in its order, or a
pair of images, uint8 or in [0, 1], and labels."""


def opener(data: Data) -> Callable[[Transform], ImageData]:
    """What opens the data for a model's transform; models of one transform share it.

    Raises:
        SettingsError: it is none of these.
    """
    if isinstance(data, ImageData):
        return lambda transform: data
    if isinstance(data, str):
        return cache(lambda transform: load_data(data, transform=transform))
    pairs = data.dataset if isinstance(data, DataLoader) else data
    if isinstance(pairs, tuple) and len(pairs) == 2:
        images, labels = pairs
        if not isinstance(images, Tensor) or not isinstance(labels, Tensor):
            raise SettingsError("a pair of images and labels must be two tensors")
        for name, tensor in (("images", images), ("labels", labels)):
            if mend := conversion(tensor, name) or ("give one for each" if not tensor.ndim else ""):
                raise SettingsError(f"the {name} of a pair must be a dense tensor; {mend}")
        if len(images) != len(labels):
            raise SettingsError(
                f"{len(images)} images have {len(labels)} labels; give one for each"
            )
        pairs = TensorDataset(images, labels)
    if not isinstance(pairs, Dataset):
        raise SettingsError(
            "data must be a specification such as sample or folder:DIR, a data set, a DataLoader, "
            "or a pair of tensors, images and labels (advlens.datasets.ArrayData makes a data set "
            f"from arrays), not {type(data).__name__}"
        )
    return cache(lambda transform: DatasetData(pairs, transform=transform))
