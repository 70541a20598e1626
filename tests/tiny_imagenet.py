"""ImageNet and its kin in small, in their exact layouts."""

import functools
import io
import os
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

from advlens.datasets.imagenet import imagenet_wnids

WNIDS = imagenet_wnids()


def jpeg(seed: int, width: int = 12, height: int = 10) -> bytes:
    """A small picture."""
    pixels = np.random.default_rng(seed).integers(256, size=(height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


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
    """A tar archive of plain files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def devkit(path: Path, count: int) -> Path:
    """ILSVRC2012_devkit_t12.tar.gz, with labels for so many images."""
    members = {
        "readme.txt": b"ILSVRC2012\n",
        "data/meta.mat": meta(),
        "data/ILSVRC2012_validation_ground_truth.txt": truth(count),
    }
    members = {f"ILSVRC2012_devkit_t12/{name}": content for name, content in members.items()}
    return archive(path / "ILSVRC2012_devkit_t12.tar.gz", members, "w:gz")


def validation_images(count: int) -> dict[str, bytes]:
    return {f"ILSVRC2012_val_{i:08}.JPEG": jpeg(i) for i in range(1, count + 1)}
