"""The packaged sample: 2000 test images of CIFAR-10, the first 200 of each class.

Built by `tools/build_sample.py`. Alex Krizhevsky, Learning Multiple Layers of Features from Tiny
Images, 2009.
"""

import csv
import hashlib
import io
from importlib import resources

import numpy as np
import torch
from PIL import Image

from advlens.datasets.memory import ArrayData
from advlens.errors import DataError
from advlens.wordnet import CIFAR10_SYNSETS

FILES = {  # SHA-256
    "cifar10-sample.webp": "212d5ea8009fbca7f3ee4dfd606ac3c4bc5d4d6f25a29f103edf64616265a6c2",
    "cifar10-sample.csv": "2011e51922a351140cbb9ea1ca682d9ee92126a9df9293bbe4df1a0c1601f275",
}


def load_sample() -> ArrayData:
    """The sample, in the order of the test set; `cifar10-sample.csv` holds the positions there.

    Raises:
        DataError: the packaged files are missing or damaged.
    """
    content = {}
    for name, digest in FILES.items():
        path = resources.files("advlens") / "tables" / name
        content[name] = path.read_bytes() if path.is_file() else b""
        if hashlib.sha256(content[name]).hexdigest() != digest:
            raise DataError(f"the packaged {path} is missing or damaged; install advlens again")
    with Image.open(io.BytesIO(content["cifar10-sample.webp"]), formats=("WEBP",)) as grid:
        rows, columns = grid.height // 32, grid.width // 32
        tiles = np.asarray(grid).reshape(rows, 32, columns, 32, 3)
    table = csv.DictReader(io.StringIO(content["cifar10-sample.csv"].decode()))
    pixels = tiles.transpose(0, 2, 4, 1, 3).reshape(-1, 3, 32, 32)
    return ArrayData(
        torch.from_numpy(pixels),
        name="CIFAR-10 sample",
        classes=tuple(CIFAR10_SYNSETS),
        synsets=tuple(CIFAR10_SYNSETS.values()),
        labels=torch.tensor([int(row["label"]) for row in table]),
    )
