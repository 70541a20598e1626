"""Audits of small networks on noise: what they are given, and what they leave."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from advlens import Classifier, auditing
from advlens.datasets import ArrayData
from synthetic_run import rows_of

CLASSES = ("cat", "dog", "ship")
SYNSETS = ("n02121620", "n02084071", "n04194289")
rows = rows_of


def noise(count, classes=CLASSES, *, size=12, seed=0, labels=None, synsets=None, telling=False):
    """Random pixels, labels in turn unless they are given; telling ones are darker in a channel."""
    random = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, 3, size, size), generator=random, dtype=torch.uint8)
    labels = torch.arange(count) % len(classes) if labels is None else labels
    if telling:
        pixels[torch.arange(count), labels] //= 3
    return ArrayData(pixels, name="noise", classes=classes, synsets=synsets, labels=labels)


def with_training(data: ArrayData, count: int) -> ArrayData:
    """The same images, beside which so many training images lie."""

    def training() -> ArrayData:
        given = {"size": data.image_shape[1], "synsets": data.synsets}
        other = noise(count, data.classes, seed=1, **given)
        other.name = f"{data.name} to train on"
        return other

    data.open_training = training
    return data


def convolution(width, pool, classes, rectifier=nn.ReLU):
    """One convolution of so many units, its maps pooled to pool², and a linear layer."""
    layers = [nn.Conv2d(3, width, 3), rectifier(), nn.AdaptiveAvgPool2d(pool), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(width * pool**2, classes))


class Rounded(nn.Sequential):
    """Behind rounded pixels every gradient is 0."""

    def forward(self, pixels: Tensor) -> Tensor:
        return super().forward((pixels * 16).round() / 16)


def small(make, name="tiny", *, seed=0, classes=CLASSES, size=12, synsets=None):
    """A classifier of images of size², its weights drawn from a seed."""
    torch.manual_seed(seed)
    sizes = {"image_size": size, "resize": size}
    return Classifier(make(), name=name, classes=classes, synsets=synsets, **sizes).eval()


@contextmanager
def unreported() -> Iterator[None]:
    """Within the block audits write no report, which takes most of a small one's time."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(auditing, "write_report", lambda out: out / "report.html")
        yield


def audited(models: Any, data: Any, out: Path, **more: Any) -> Path:
    """The folder of an audit without its report."""
    with unreported():
        auditing.audit(models, data, out, **more)
    return out


def results(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((run / "results").iterdir())}


def write_pictures(folder: Path, count: int, classes: Sequence[str] = CLASSES) -> None:
    """Noise of 8×8, so much of each class, for training and validation; each class has its tint."""
    random = torch.Generator().manual_seed(0)
    for split in ("train", "val"):
        for label, name in enumerate(classes):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = torch.randint(0, 256, (8, 8, 3), generator=random).byte()
                pixels[:, :, label] //= 3
                Image.fromarray(pixels.numpy()).save(folder / split / name / f"{number}.png")
