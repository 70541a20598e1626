"""Images per second: decoding by this package and by torchvision's loader, and a model's forward.

    python benchmarks/loading.py [FOLDER] [--workers 1 2 4 8] [--repeats 5]

FOLDER holds class folders of images; without it, 500 JPEG files of 500x375 pixels are made on the
spot. All contenders take turns, so that a loaded machine slows them alike; of each the median and
the range over the repeats are printed, the start of threads and processes included. The files are
in the page cache: disks are not measured. The loader is no bottleneck where it beats the forward;
an attack of K steps takes about 2K times as long as one forward.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.models import resnet18
from torchvision.transforms import CenterCrop, Compose, Resize, ToTensor

from advlens.datasets import load_data, reading
from advlens.prepared import prepare

BATCH = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 2, 4, 8])
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = options.folder or make(Path(made))
        contenders: dict[str, Callable[[], int]] = {}
        for workers in options.workers:
            contenders[f"advlens, {workers} threads"] = partial(ours, folder, workers)
        for workers in options.workers:
            name = f"ImageFolder + DataLoader, {workers} processes"
            contenders[name] = partial(torchvision, folder, workers)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        contenders[f"ResNet-18 forward, {device}"] = forward(device)
        compare(contenders, options.repeats)


def make(folder: Path) -> Path:
    """500 pictures with as much detail as photographs: some 60 kB each."""
    (folder / "class").mkdir()
    random = np.random.default_rng(0)
    for i in range(500):
        coarse = Image.fromarray(random.integers(256, size=(24, 32, 3), dtype=np.uint8))
        noise = random.normal(0, 6, (375, 500, 3))
        pixels = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC)) + noise
        image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
        image.save(folder / "class" / f"{i}.jpg", quality=90)
    return folder


def ours(folder: Path, workers: int) -> int:
    reading.WORKERS = workers
    data = load_data(f"folder:{folder}")
    return sum(len(batch.images) for batch in data.batches(BATCH))


def torchvision(folder: Path, workers: int) -> int:
    steps = Compose([Resize(256), CenterCrop(224), ToTensor()])
    loader = DataLoader(ImageFolder(str(folder), steps), BATCH, num_workers=workers)
    return sum(len(images) for images, _ in loader)


def forward(device: torch.device) -> Callable[[], int]:
    network = prepare(resnet18().eval().to(device))
    images = torch.rand(BATCH, 3, 224, 224, device=device)

    @torch.no_grad()
    def call() -> int:
        batches = 50 if device.type == "cuda" else 2
        for _ in range(batches):
            network(images)
        if device.type == "cuda":
            torch.cuda.synchronize()
        return batches * BATCH

    return call


def compare(contenders: dict[str, Callable[[], int]], repeats: int) -> None:
    """Print images per second of each, all taking turns after one round to warm up."""
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for repeat in range(repeats + 1):
        for name, call in contenders.items():
            began = time.perf_counter()
            images = call()
            if repeat:
                rates[name].append(images / (time.perf_counter() - began))
    print(f"{'images per second':42} median (lowest to highest of {repeats})")
    for name, found in rates.items():
        print(f"{name:42} {statistics.median(found):7.0f} ({min(found):.0f} to {max(found):.0f})")


if __name__ == "__main__":
    main()
