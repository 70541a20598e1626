"""NetDissect-Lite's own stages, run from a checkout of its source on maps that we hand it.

    git clone https://github.com/CSAILVision/NetDissect-Lite CHECKOUT
    python benchmarks/netdissect_lite.py CHECKOUT --broden ../shared/data/mini-broden \
        --weights ../shared/data/backbones/alexnet-features.safetensors \
        --out tests/golden/netdissect-lite-alexnet.csv

writes the golden values of the tests: for each unit of AlexNet's conv5 the concept that it finds,
with IoU and threshold. Its source has no licence, so none of it is here; `NetDissectLite` puts back
in memory what Python, NumPy and SciPy have removed since it was written, and nothing else:

- `scipy.misc.imread` (as integers: NumPy 2 does not widen uint8 in a product with 256) and
  `scipy.misc.imresize` of float maps, which was Pillow's bilinear resize in mode F;
- `scipy.ndimage.interpolation`, `numpy.NaN`, and a list of arrays as an index;
- a generator that ends by raising StopIteration, and variables made volatile.
"""

import argparse
import contextlib
import csv
import importlib
import io
import sys
import tempfile
import types
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.ndimage
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models import alexnet

from advlens.models import Classifier

CATEGORIES = ("color", "object", "part", "material", "scene", "texture")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class NetDissectLite:
    """Its three stages, on one layer; one instance per process, for its settings are global.

    Args:
        checkout: the folder of its source.
        broden: a data set in the Broden layout.
        folder: where it keeps its files.
        batch_size: images per batch of maps.
    """

    def __init__(self, checkout: Path, broden: Path, folder: Path, batch_size: int = 64):
        settings: Any = types.ModuleType("settings")
        settings.__dict__.update(
            GPU=False,
            QUANTILE=0.005,
            PARALLEL=1,
            TALLY_BATCH_SIZE=16,
            TALLY_AHEAD=4,
            BATCH_SIZE=batch_size,
            CATAGORIES=list(CATEGORIES),
            DATA_DIRECTORY=str(broden),
            IMG_SIZE=224,
            INDEX_FILE="index.csv",
            FEATURE_NAMES=["layer"],
            OUTPUT_FOLDER=str(folder),
        )
        misc: Any = types.ModuleType("scipy.misc")
        misc.imread, misc.imresize = _imread, _imresize
        zoom: Any = types.ModuleType("scipy.ndimage.interpolation")
        zoom.zoom = scipy.ndimage.zoom
        sys.modules |= {m.__name__: m for m in (settings, misc, zoom)}
        np.NaN = np.nan  # type: ignore[attr-defined]  # noqa: NPY201
        sys.path.insert(0, str(checkout))
        self.source: Any = importlib.import_module("feature_operation")
        self.source.SegmentationData.onehot = _one_hot
        self.source.SegmentationPrefetcher.batches = _batches
        self.source.V = lambda images, volatile: images
        with _silent():
            self.operator = self.source.FeatureOperator()
        self.operator.loader.pool.terminate()  # its own images are not read
        self.folder, self.batch_size = folder, batch_size

    def features(self, maps: Callable[[Tensor], Tensor], batches: Iterable[Tensor]) -> Any:
        """Stage 1 on the maps of given images, batch by batch: the float64 file of all maps."""
        for path in self.folder.glob("*.mmap"):  # else it reads them instead
            path.unlink()
        loader = _Loader(batches, range(self.operator.data.size()), self.batch_size)

        def forward(_: Tensor) -> Tensor:
            found = maps(loader.images)
            self.source.hook_feature(None, None, found)
            return found

        self.operator.loader = loader
        model = types.SimpleNamespace(forward=forward)
        with _silent(), torch.no_grad():
            return self.operator.feature_extraction(model=model)[0][0]

    def thresholds(self, features: Any) -> Any:
        """Stage 2: one threshold per unit."""
        with _silent():
            return self.operator.quantile_threshold(features)

    def tally(self, features: Any, thresholds: Any) -> list[dict[str, Any]]:
        """Stage 3: rows with unit (from 1), category, label (a name) and score (IoU)."""
        with _silent():
            rows: list[dict[str, Any]] = self.operator.tally(features, thresholds)
        return rows

    def number(self, name: str) -> int:
        """The label number of a name."""
        (found,) = (label["number"] for label in self.operator.data.label if label["name"] == name)
        return int(found)


class _Loader:
    """Hands stage 1 batches whose values it prepares in its way, and keeps what we want seen."""

    def __init__(self, batches: Iterable[Tensor], indexes: range, batch_size: int):
        self.batches, self.indexes, self.batch_size = batches, indexes, batch_size
        self.images = torch.empty(0)

    def tensor_batches(self, bgr_mean: object) -> Iterator[list[Any]]:
        for images in self.batches:
            self.images = images
            yield [images.numpy()]


def _imread(path: str) -> Any:
    with Image.open(path) as image:
        return np.asarray(image).astype(np.int64)


def _imresize(values: Any, size: tuple[int, int], mode: str) -> Any:
    image = Image.fromarray(values.astype(np.float32))
    assert image.mode == mode
    return np.asarray(image.resize(size[::-1], Image.Resampling.BILINEAR))


def _one_hot(_: object, numbers: Any) -> Any:
    return np.eye(numbers.max() + 1)[numbers]


def _batches(prefetcher: Any) -> Iterator[Any]:
    while (batch := prefetcher.fetch_batch()) is not None:
        yield batch
    prefetcher.pool.terminate()


def _silent() -> Any:
    return contextlib.redirect_stdout(io.StringIO())


def alexnet_conv5(weights: Path) -> nn.Module:
    """Pixels in [0, 1] → AlexNet's conv5 after its ReLU."""
    features = alexnet().features[:12]
    tensors = load_file(weights)
    names = features.state_dict()
    features.load_state_dict({name: tensors[f"features.{name}"].float() for name in names})
    return Classifier(features, name="alexnet", mean=MEAN, std=STD).eval()


def images_of(broden: Path, batch_size: int) -> Iterator[Tensor]:
    """The images in the order of the index, as pixels in [0, 1]."""
    with open(broden / "index.csv", newline="", encoding="utf-8") as file:
        names = [row["image"] for row in csv.DictReader(file)]
    for start in range(0, len(names), batch_size):
        batch = []
        for name in names[start : start + batch_size]:
            with Image.open(broden / "images" / name) as image:
                batch.append(torch.from_numpy(np.array(image.convert("RGB"))))
        yield torch.stack(batch).permute(0, 3, 1, 2).float() / 255


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--broden", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        theirs = NetDissectLite(options.checkout, options.broden, Path(folder))
        maps = theirs.features(
            alexnet_conv5(options.weights), images_of(options.broden, theirs.batch_size)
        )
        thresholds = theirs.thresholds(maps)
        rows = theirs.tally(maps, thresholds)
    with open(options.out, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("unit", "label", "iou", "threshold"))
        for row in sorted(rows, key=lambda row: row["unit"]):
            unit = row["unit"] - 1
            threshold = thresholds[unit]
            number = theirs.number(row["label"])
            writer.writerow((unit, number, f"{row['score']:.9f}", f"{threshold:.9f}"))


if __name__ == "__main__":
    main()
