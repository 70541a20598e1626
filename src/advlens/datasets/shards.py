"""WebDataset shards: tar archives, read where they lie without being unpacked.

In an archive, files whose names are alike up to the first dot are one sample (Aizman et al., High
Performance I/O For Large Scale Deep Learning, 2019). The library `webdataset` reads them from
beginning to end; an audit needs images by number, so that their places are looked up at first.
"""

import glob
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch

from advlens.datasets.archives import TarData, tar_members
from advlens.datasets.folder import SUFFIXES
from advlens.datasets.tables import classes_of
from advlens.datasets.transform import Transform
from advlens.errors import DataError

COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd")
"""How files of gzip, bzip2, xz and Zstandard begin."""
MOST = 2_000_000
"""Maximum number of files in a shard."""
LONGEST = 2**20
"""Maximum size of the file with a label, in bytes."""


class ShardData(TarData):
    """Images in several archives; the first part of an image's path names its archive."""

    def _archive(self, i: int) -> Path:
        return self.root / self.files[i].partition("/")[0]


def load_shards(place: Path, split: Literal["test", "train"], transform: Transform) -> ShardData:
    """The images of shards, in the order of the shards' names and of the samples in each.

    A sample has one image and its class, as `<sample>.cls` or as `label` in `<sample>.json`: a
    number of the model's outputs, from 0, or a name.

    Args:
        place: a folder of `*.tar`, or a pattern of their names such as `DIR/val-*.tar`.
        split: "test"; there is no other part.
        transform: how the images become inputs.

    Raises:
        DataError: there are no shards, one is damaged or compressed, or a sample has no image or no
            class.
    """
    pattern = str(place / "*.tar") if place.is_dir() else str(place)
    shards = sorted(path for name in glob.glob(pattern) if (path := Path(name)).is_file())
    if not shards:
        raise DataError(
            f"{place} names no shards; give a folder of .tar files, not compressed, or a pattern "
            "such as DIR/val-*.tar"
        )
    if {shard.parent for shard in shards} != {shards[0].parent}:
        raise DataError(f"the shards of {place} lie in several folders; put them into one")
    files, labels, members = list[str](), list[str](), dict[str, tuple[int, int]]()
    for shard in shards:
        with open(shard, "rb") as archive:
            if archive.read(6).startswith(COMPRESSED):
                raise DataError(
                    f"{shard} is compressed, so that its images cannot be read by their numbers; "
                    "decompress it"
                )
            found = tar_members(shard, MOST)
            for sample, parts in _samples(found).items():
                images = _images(parts)
                kind = next((each for each in ("cls", "json") if each in parts), None)
                if len(images) != 1 or kind is None:
                    raise DataError(
                        f"the sample {sample} in {shard} has the files {', '.join(parts)}; it "
                        f"needs one image ({', '.join(SUFFIXES)}) and its class, .cls or .json"
                    )
                begin, size = found[parts[kind]]
                archive.seek(begin)
                label = _label(archive.read(size) if size <= LONGEST else b"", kind)
                if label is None:
                    raise DataError(
                        f"{shard / parts[kind]} holds no class; give a number or a name in UTF-8, "
                        'in a .json file as {"label": …}'
                    )
                files.append(f"{shard.name}/{parts[images[0]]}")
                labels.append(label)
                members[files[-1]] = found[parts[images[0]]]
    if not files:
        raise DataError(f"{place} holds no samples; give shards with some")
    classes, numbered = classes_of(place, {*labels})
    number = {name: number for number, name in enumerate(classes)}
    data = ShardData(
        shards[0].parent,
        files,
        members=members,
        transform=transform,
        name=f"shards {place.name}",
        classes=classes,
        synsets=None,
        labels=torch.tensor([int(each) if numbered else number[each] for each in labels]),
    )
    data.numbered = numbered
    return data


def _images(parts: Mapping[str, object]) -> list[str]:
    """Which of a sample's files is its image: `.png`, or else one such as `.input.png`."""
    plain = [suffix for suffix in parts if f".{suffix}" in SUFFIXES]
    return plain or [suffix for suffix in parts if suffix.endswith(SUFFIXES)]


def _label(content: bytes, kind: str) -> str | None:
    """The class in a file `.cls` or `.json`, if there is one."""
    try:
        label = content.decode()
        if kind == "json":
            found = json.loads(label)["label"]
            label = (
                str(found) if isinstance(found, str | int) and not isinstance(found, bool) else ""
            )
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    return label.strip() or None


def _samples(members: Mapping[str, object]) -> dict[str, dict[str, str]]:
    """The files of each sample, by what follows the first dot of their names."""
    samples = dict[str, dict[str, str]]()
    for name in members:
        folder, slash, last = name.rpartition("/")
        stem, dot, suffix = last.partition(".")
        if stem and dot:  # hidden files belong to no sample
            samples.setdefault(f"{folder}{slash}{stem}", {})[suffix.lower()] = name
    return samples
