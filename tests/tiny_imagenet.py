"""Small pictures, and ImageNet and its kin in small, in their exact layouts."""

import functools
import io
import os
import struct
import tarfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.io import savemat

from advlens.datasets.imagenet import imagenet_wnids

Edit = Callable[[Path], object]
WNIDS = imagenet_wnids()
KIT = "ILSVRC2012_devkit_t12"
META, TRUTH = "data/meta.mat", "data/ILSVRC2012_validation_ground_truth.txt"


@functools.cache
def jpeg(seed: int, width: int = 12, height: int = 10) -> bytes:
    pixels = np.random.default_rng(seed).integers(256, size=(height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


def png(width: int, height: int, bits: int = 1, color: int = 0, data: bytes = b"") -> bytes:
    """A PNG of any header, whose packed rows are `data`."""
    header = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n"
    for kind, body in ((b"IHDR", header), (b"IDAT", zlib.compress(data)), (b"IEND", b"")):
        check = zlib.crc32(kind + body)
        content += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", check)
    return content


def cases(lines: str) -> list[list[str]]:
    """A table of cases, one in each line, its columns between bars."""
    return [[part.strip() for part in line.split(" | ")] for line in lines.strip().splitlines()]


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def content(name: str, data: bytes | str = b"x") -> Edit:
    """Write a file below the folder that is changed."""
    return lambda root: write(root / name, data.encode() if isinstance(data, str) else data)


def gone(name: str) -> Edit:
    return lambda root: (root / name).rename(root / "gone")


def replaced(name: str, make: Callable[[Path], object]) -> Edit:
    return lambda root: [gone(name)(root) if (root / name).exists() else None, make(root / name)]


def linked(name: str, target: str) -> Edit:
    return replaced(name, lambda path: path.symlink_to(target))


def picture(name: str, mode: str = "RGB", side: int = 16, color: Any = 0, form: Any = None) -> Edit:
    """An image of 16 pixels' width."""
    return lambda root: Image.new(mode, (16, side), color).save(root / name, form)


def pets(folder: Path, damaged: Sequence[int] = ()) -> Path:
    """Twenty images of cats and dogs, some of them empty files."""
    for i in range(20):
        write(pet(folder / "pets", i), b"" if i in damaged else jpeg(i))
    return folder / "pets"


def pet(root: Path, i: int) -> Path:
    return root / ("cat" if i < 9 else "dog") / f"{i:02}.jpg"


def class_folders(root: Path, names: list[str], suffix: str = "JPEG") -> None:
    """One folder for each name, with one and the same image, linked."""
    first = write(root / names[0] / f"0.{suffix}", jpeg(0))
    for i, name in enumerate(names[1:], 1):
        (root / name).mkdir()
        os.link(first, root / name / f"{i}.{suffix}")


@functools.cache  # half a second to write
def meta(seed: int = 0, compress: bool = True) -> bytes:
    """meta.mat of the devkit: its numbers for the classes follow no order of the wnids."""
    order = np.random.default_rng(seed).permutation(1000)
    fields = ["ILSVRC2012_ID", "WNID", "words", "gloss", "num_children", "children"]
    rows = np.empty((1003, 1), dtype=[(field, object) for field in fields])
    for i in range(1003):
        leaf = i < 1000
        wnid = WNIDS[order[i]] if leaf else f"n0000174{i - 1000}"
        children = np.empty((1, 0)) if leaf else np.array([[1.0, 2.0]])
        rows[i, 0] = (float(i + 1), wnid, "tench, Tinca", "déjà vu", float(not leaf), children)
    file = io.BytesIO()
    savemat(file, {"other": np.arange(3), "synsets": rows}, do_compression=compress)
    return file.getvalue()


def truth(count: int, seed: int = 1) -> bytes:
    numbers = np.random.default_rng(seed).integers(1, 1001, count)
    return "".join(f"{number}\n" for number in numbers).encode()


def archive(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def devkit(folder: Path, members: dict[str, bytes]) -> Path:
    inner = {f"{KIT}/{name}": content for name, content in members.items()}
    return archive(folder / f"{KIT}.tar.gz", inner, "w:gz")


def validation_images(count: int) -> dict[str, bytes]:
    return {f"ILSVRC2012_val_{i:08}.JPEG": jpeg(i) for i in range(1, count + 1)}
