"""The labels of ImageNet's validation images, from its devkit or from Kaggle's table."""

import csv
import re
import tarfile
import zlib
from collections.abc import Collection
from itertools import islice
from pathlib import Path

from advlens.datasets.archives import Bounded
from advlens.datasets.matlab import read_structs
from advlens.errors import DataError

DEVKIT = "ILSVRC2012_devkit_t12"
SYNSETS, TRUTH = "data/meta.mat", "data/ILSVRC2012_validation_ground_truth.txt"
KAGGLE_TABLE = "LOC_val_solution.csv"
MAX_UNPACKED = 100_000_000
"""Maximum number of bytes to read from the devkit; it has about 4 million."""
MAX_MEMBERS = 10_000
MEND = f"fetch {DEVKIT}.tar.gz again"
IMAGE = re.compile(r"ILSVRC2012_val_(\d{8})")


def validation_wnids(folder: Path, known: Collection[str]) -> list[str]:
    """The wnid of each validation image, starting with number 1.

    The first source that exists is read: Kaggle's `LOC_val_solution.csv`, the unpacked devkit or
    its folder `data`, the devkit's archive.

    Args:
        folder: a folder with one of them.
        known: the wnids of ImageNet's classes.

    Raises:
        DataError: no source exists, or it is damaged or names another class.
    """
    table = folder / KAGGLE_TABLE
    if table.is_file():
        source, wnids = table, _of_kaggle(table)
    else:
        source, (synsets, truth) = _devkit(folder)
        wnids = _of_devkit(source, synsets, truth)
    if foreign := set(wnids) - {*known}:
        raise DataError(f"{source} names the class {min(foreign)!r}, which ImageNet lacks; {MEND}")
    return wnids


def _of_kaggle(table: Path) -> list[str]:
    """Read lines such as ILSVRC2012_val_00000001,n01751748 111 108 230 366: a wnid per box."""
    wnids: dict[int, str] = {}
    try:
        with open(table, encoding="ascii", newline="") as file:
            rows = csv.DictReader(file)
            if (columns := rows.fieldnames) != ["ImageId", "PredictionString"]:
                raise ValueError(f"its columns are {columns}")
            for row in rows:
                match = IMAGE.fullmatch(row["ImageId"])
                wnid, *_ = row["PredictionString"].split()
                if match is None or int(match[1]) in wnids:
                    raise ValueError(f"its image {row['ImageId']!r} is unknown or occurs twice")
                wnids[int(match[1])] = wnid
    except (OSError, ValueError, KeyError, AttributeError, csv.Error) as error:
        raise DataError(f"cannot read the labels in {table}: {error}; fetch it again") from error
    if sorted(wnids) != list(range(1, len(wnids) + 1)):
        raise DataError(f"{table} has {len(wnids)} labels, but not of images 1 to {len(wnids)}")
    return [wnids[number] for number in sorted(wnids)]


def _devkit(folder: Path) -> tuple[Path, list[bytes]]:
    """The location of the devkit, and its two files."""
    for place in (folder / DEVKIT, folder):
        if all((place / name).is_file() for name in (SYNSETS, TRUTH)):
            return place, [(place / name).read_bytes() for name in (SYNSETS, TRUTH)]
    archive = folder / f"{DEVKIT}.tar.gz"
    if not archive.is_file():
        raise DataError(
            f"the images in {folder} need labels; put {archive.name} or {KAGGLE_TABLE} there, or"
            " sort them into val/<wnid>/"
        )
    wanted: dict[str, bytes] = {}
    try:
        with (
            Bounded(archive, MAX_UNPACKED, f"is not ImageNet's devkit; {MEND}") as content,
            tarfile.open(fileobj=content, mode="r|") as tar,
        ):
            for member in islice(tar, MAX_MEMBERS):
                name = member.name.removeprefix("./").removeprefix(f"{DEVKIT}/")
                if name in (SYNSETS, TRUTH):
                    file = tar.extractfile(member) if member.isreg() else None
                    if file is None or name in wanted:
                        raise DataError(f"{archive} holds {name} twice or not as a file; {MEND}")
                    wanted[name] = file.read()
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise DataError(f"cannot read the archive {archive}: {error}; {MEND}") from error
    if len(wanted) < 2:
        raise DataError(f"{archive} does not hold {SYNSETS} and {TRUTH}; {MEND}")
    return archive, [wanted[SYNSETS], wanted[TRUTH]]


def _of_devkit(source: Path, synsets: bytes, truth: bytes) -> list[str]:
    """Read a line for each image: the number that the devkit gives its class."""
    try:
        rows = read_structs(synsets, "synsets", ("ILSVRC2012_ID", "WNID"))
        wnids = {int(number): str(wnid) for number, wnid in rows}
        return [wnids[int(line)] for line in truth.split()]
    except (DataError, ArithmeticError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"cannot read the labels of ImageNet's devkit in {source}: {error}; {MEND}"
        ) from error
