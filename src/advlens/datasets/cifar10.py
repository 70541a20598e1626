"""CIFAR-10 in the layout of its official binary version.

Alex Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.
"""

import hashlib
import tarfile
import zlib
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import UInt8

from advlens.datasets.archives import Bounded
from advlens.datasets.memory import ArrayData
from advlens.errors import DataError
from advlens.files import atomic, fetch, locked, sha256
from advlens.wordnet import CIFAR10_SYNSETS

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
URL_BYTES = 170_052_171
URL_SHA256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
FOLDER = "cifar-10-batches-bin"
RECORDS, RECORD_BYTES = 10_000, 1 + 3 * 32 * 32  # per file; a label, then R, G and B planes
BATCHES = {
    "train": [f"data_batch_{i}.bin" for i in range(1, 6)],
    "test": ["test_batch.bin"],
}
FILES = {  # SHA-256
    "data_batch_1.bin": "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
    "data_batch_2.bin": "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
    "data_batch_3.bin": "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
    "data_batch_4.bin": "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
    "data_batch_5.bin": "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
    "test_batch.bin": "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
    "batches.meta.txt": "558e74b5e208382e186da55784b4bac2cd52e558448e1b5800990fdb28ed8033",
}
MAX_UNPACKED = 200_000_000
"""Maximum number of bytes to read from the archive; the official one has 184 407 141."""
MAX_MEMBERS = 100
"""Maximum number of archive entries to check; the official one has 9."""
MEND = "fetch it again with: advlens data cifar10 --to DIR"


def load_cifar10(folder: Path, split: Literal["test", "train"]) -> ArrayData:
    """The 10 000 test or 50 000 training images, in the order of the files.

    Args:
        folder: `cifar-10-batches-bin` or the folder that holds it.
        split: "test" or "train".

    Raises:
        DataError: a file is missing, has another size, or a label above 9.
    """
    if (folder / FOLDER).is_dir():
        folder = folder / FOLDER
    records = np.concatenate([read_batch(folder / name) for name in BATCHES[split]])
    return ArrayData(
        torch.from_numpy(records[:, 1:].reshape(-1, 3, 32, 32)),
        name=f"CIFAR-10 {split}",
        classes=tuple(CIFAR10_SYNSETS),
        synsets=tuple(CIFAR10_SYNSETS.values()),
        labels=torch.from_numpy(records[:, 0].astype(np.int64)),
    )


def read_batch(path: Path) -> UInt8[np.ndarray, "n 3073"]:
    """The 10 000 records of a batch file: a label byte and 3072 pixel bytes each."""
    expected = RECORDS * RECORD_BYTES
    try:
        with open(path, "rb") as file:
            content = file.read(expected + 1)
            size = max(len(content), path.stat().st_size)
    except OSError as error:
        raise DataError(
            f"cannot read {path}: {error.strerror}; give the folder that holds {FOLDER}, or {MEND}"
        ) from error
    if size != expected:
        raise DataError(f"{path} has {size} bytes, expected {expected}; {MEND}")
    records = np.frombuffer(content, np.uint8).reshape(RECORDS, RECORD_BYTES)
    if (largest := records[:, 0].max()) >= len(CIFAR10_SYNSETS):
        raise DataError(f"{path} has a label {largest}, expected 0 to 9; {MEND}")
    return records


def fetch_cifar10(to: Path, archive: Path | None = None) -> Path:
    """Put CIFAR-10 into `to/cifar-10-batches-bin`; if it is already complete, do nothing.

    Every file is checked by SHA-256. The downloaded archive (170 MB) is removed afterwards.

    Args:
        to: the parent folder of the data set.
        archive: a local copy of `cifar-10-binary.tar.gz` instead of a download.

    Returns:
        The folder of the batch files.

    Raises:
        DataError: the archive cannot be fetched, or its contents are not CIFAR-10.
        RunError: the folder is in use by another process, or cannot be written.
    """
    folder = to / FOLDER
    if all((folder / name).is_file() and sha256(folder / name) == FILES[name] for name in FILES):
        return folder
    with locked(to):
        if archive is not None:
            unpack(archive, folder)
        else:
            download = to / "cifar-10-binary.tar.gz"
            fetch(URL, download, sha256=URL_SHA256, size=URL_BYTES)
            unpack(download, folder)
            download.unlink()
    return folder


def unpack(archive: Path, folder: Path) -> None:
    """Extract the files of CIFAR-10 from an archive, and nothing else, into `folder`.

    `extractall` would trust the archive's paths, links and devices.
    """
    missing = dict(FILES)
    try:
        with (
            Bounded(archive, MAX_UNPACKED, f"is not CIFAR-10; {MEND}") as content,
            tarfile.open(fileobj=content, mode="r|") as tar,
        ):
            for member in islice(tar, MAX_MEMBERS):
                parent, _, name = member.name.removeprefix("./").rpartition("/")
                if parent != FOLDER or name not in FILES:
                    continue
                if name not in missing or not member.isreg():
                    raise DataError(f"{archive} holds {name} twice or not as a file; {MEND}")
                data = tar.extractfile(member)
                pixels = b"" if data is None else data.read()
                if hashlib.sha256(pixels).hexdigest() != missing.pop(name):
                    raise DataError(
                        f"{name} in {archive} ({len(pixels)} bytes) is not the file of CIFAR-10"
                        f" (SHA-256 {FILES[name]}); {MEND}"
                    )
                with atomic(folder / name) as file:
                    file.write(pixels)
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise DataError(f"cannot read the archive {archive}: {error}; {MEND}") from error
    if missing:
        raise DataError(f"{archive} holds no {FOLDER}/{next(iter(missing))}; {MEND}")
