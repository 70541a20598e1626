"""Datasets of other libraries by name: torchvision's, and Hugging Face's."""

import contextlib
import importlib
import inspect
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from torch.utils.data import Dataset

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
    from torchvision import datasets  # takes a second, which other data need not wait for

    name, _, folder = str(place).partition("@")
    kind = getattr(datasets, name, None)
    if not (isinstance(kind, type) and issubclass(kind, datasets.VisionDataset) and folder):
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
        except Exception as error:
            reason = error
            if "Unknown value" not in str(error):  # else it has no part of this name
                break
        else:
            data = DatasetData(dataset, name=f"{name} {split}", transform=transform)
            data.turn = contextlib.nullcontext()  # these open a file for each item
            if given == {"train": False}:  # such a dataset lies there as a whole
                data.open_training = partial(load_torchvision, place, "train", transform)
            return data
    raise DataError(
        f"cannot open torchvision's {name} in {folder}: {type(reason).__name__}: {reason}; to "
        f"fetch it, call torchvision.datasets.{name}(…, download=True)"
    ) from reason


def load_hf(place: Path, split: Literal["test", "train"], transform: Transform) -> DatasetData:
    """A dataset of Hugging Face's `datasets`: in a folder, or by its name in the cache.

    The folder is one that `save_to_disk` wrote, or that `load_dataset` understands, such as one of
    Parquet files. Nothing is fetched. It has one column of images; labels are in the column that
    follows an `@`, as in `cifar100@fine_label`, else in `label` or in the only one of class labels.

    Raises:
        SettingsError: `datasets` is not installed, or the dataset has no parts and is to be trained
            on.
        DataError: there is no such dataset, part or column.
    """
    try:
        importlib.import_module("datasets.load")  # a folder that is called datasets lacks it
        library: Any = importlib.import_module("datasets")
    except ImportError as error:
        raise SettingsError(
            f"hf:{place} needs datasets, which is not installed; pip install 'advlens[huggingface]'"
        ) from error
    spec, column = place, ""
    if not place.exists():
        root, _, column = str(place).partition("@")
        place = Path(root)
    written = any((place / name).is_file() for name in ("state.json", "dataset_dict.json"))
    try:
        with _offline():
            found = (library.load_from_disk if written else library.load_dataset)(str(place))
    except Exception as error:  # damaged files make it raise almost anything
        raise DataError(
            f"cannot open hf:{place}: {type(error).__name__}: {error}; give a folder that "
            "save_to_disk wrote, or a dataset that load_dataset has fetched before"
        ) from error
    parts = found if isinstance(found, dict) else {}
    if parts:
        part = next((name for name in PARTS[split] if name in found), None)
        if part is None:
            raise DataError(
                f"hf:{place} has the parts {', '.join(parts)} and none of {', '.join(PARTS[split])}"
            )
        found = parts[part]
    elif split == "train":
        raise SettingsError(f"hf:{place} has no parts to train and to test on")
    name = f"{place.name} {split}"
    data = DatasetData(_Rows(found, library, name, column), name=name, transform=transform)
    if split == "test" and not parts.keys().isdisjoint(PARTS["train"]):
        data.open_training = partial(load_hf, spec, "train", transform)
    return data


class _Rows(Dataset[tuple[Any, Any]]):
    """The rows of a dataset of Hugging Face as pairs of image and label."""

    def __init__(self, rows: Any, library: Any, name: str, column: str) -> None:
        kinds = rows.features
        images = [each for each, kind in kinds.items() if isinstance(kind, library.Image)]
        labels = [each for each, kind in kinds.items() if isinstance(kind, library.ClassLabel)]
        labels = ["label"] if "label" in kinds else labels
        if column:
            labels = [each for each in kinds if each == column and each not in images]
        if len(images) != 1 or len(labels) != 1:
            raise DataError(
                f"{name} has the columns {', '.join(kinds)}; give a column of labels behind an @, "
                "as in hf:cifar100@fine_label, or, where several hold images, a function of your "
                "own, --data package.module:factory"
            )
        (self.image,), (self.label,) = images, labels
        self.rows = rows
        self.targets: Sequence[int] = rows[self.label][:]
        self.classes = getattr(kinds[self.label], "names", None)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> tuple[Any, Any]:
        row = self.rows[i]
        return row[self.image], row[self.label]


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    """Within the block, nothing is fetched, and nobody waits for a network that is not there."""
    places: list[Any] = [
        importlib.import_module(each) for each in ("datasets.config", "huggingface_hub.constants")
    ]
    before = [place.HF_HUB_OFFLINE for place in places]
    try:
        for place in places:
            place.HF_HUB_OFFLINE = True
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.HF_HUB_OFFLINE = value
