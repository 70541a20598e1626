"""Datasets of other libraries by name: torchvision's, and Hugging Face's."""

import contextlib
import inspect
from pathlib import Path
from typing import Any, Literal

from torchvision import datasets
from torchvision.datasets.vision import VisionDataset

from advlens.datasets.folder import PARTS
from advlens.datasets.transform import Transform
from advlens.datasets.wrapped import DatasetData
from advlens.errors import DataError, SettingsError
from advlens.words import perhaps


def load_torchvision(
    place: Path, split: Literal["test", "train"], transform: Transform
) -> DatasetData:
    """A classification dataset of torchvision as it lies in a folder, `NAME@DIR`.

    To test, the first part that it has of those that `PARTS` names; a dataset without parts is
    tested on as a whole. Nothing is downloaded.

    Raises:
        SettingsError: there is no such dataset, or no such part.
        DataError: it is not in the folder, or its items are no images with a class.
    """
    name, _, folder = str(place).partition("@")
    kind = getattr(datasets, name, None)
    if not (isinstance(kind, type) and issubclass(kind, VisionDataset) and folder):
        known = [each for each in datasets.__all__ if each != "VisionDataset"]
        raise SettingsError(
            f"torchvision:{place} names no dataset of torchvision{perhaps(name, known)}; give its "
            "class and its folder, as in torchvision:CIFAR100@DIR"
        )
    parameters = inspect.signature(kind).parameters
    choices: list[dict[str, Any]] = [{"split": part} for part in PARTS[split]]
    if "train" in parameters:
        choices = [{"train": split == "train"}]
    elif "split" not in parameters:
        choices = [{}]
    if split == "train" and choices == [{}]:
        raise SettingsError(f"torchvision's {name} has no parts to train and to test on")
    for given in choices:
        try:
            dataset = kind(Path(folder).expanduser(), **given)
        except ValueError as error:  # it has no part of this name
            reason: Exception = error
        except Exception as error:
            reason = error
            break
        else:
            data = DatasetData(dataset, name=f"{name} {split}", transform=transform)
            data.turn = contextlib.nullcontext()  # these open a file for each item
            return data
    raise DataError(
        f"cannot open torchvision's {name} in {folder}: {type(reason).__name__}: {reason}; to "
        f"fetch it, call torchvision.datasets.{name}(…, download=True)"
    ) from reason
