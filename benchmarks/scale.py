"""A rehearsal of an audit of ImageNet's size: rate of every stage, and memory that stays.

    python benchmarks/scale.py --images 50000 --fewer 5000

Makes so many small JPEGs of 1000 classes, audits a small network with random weights on all of them
and, in a process of its own, on fewer, through the path that any folder of images takes: decoding,
attacks, units, attributions, features, distances. Few attack steps: what is rehearsed is the
streaming, not the attack. Memory is the peak of the process after each stage.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from advlens.auditing import audit
from advlens.datasets import Transform, load_data
from advlens.models import Classifier, imagenet_classes, imagenet_synsets
from advlens.prepared import prepare
from advlens.settings import AuditSettings


def classifier(size: int) -> Classifier:
    """Four convolutions and 1000 classes, random weights."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 16), (16, 32), (32, 64), (64, 64)):
        layers += [nn.Conv2d(inputs, outputs, 3, 2, 1), nn.BatchNorm2d(outputs), nn.ReLU()]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 1000))
    return Classifier(
        network,
        name="rehearsal",
        classes=imagenet_classes(),
        synsets=imagenet_synsets(),
        image_size=size,
        resize=size,
    ).eval()


def make_images(folder: Path, count: int, size: int) -> None:
    """JPEGs of smooth color fields, in one folder for each of ImageNet's classes."""
    random = np.random.default_rng(0)
    synsets = imagenet_synsets()
    for number in range(count):
        field = random.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        path = folder / synsets[number % 1000] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(field).resize((size + 8, size), Image.Resampling.BICUBIC).save(path)


def rehearse(folder: Path, count: int, size: int, out: Path) -> None:
    """One audit; prints its stages as JSON."""
    model = classifier(size)
    settings = AuditSettings(
        images=count,
        steps=2,
        fgsm=(4 / 255,),
        sweep_images=500,
        sweep_steps=2,
        neuron_steps=2,
        explained=16,
        points=10,
        baselines=2,
        samples=20,
        visualization_steps=20,
        inverted=8,
        inversion_steps=20,
        generated=1,
        generation_steps=5,
    )
    transform = Transform(size=size, resize=size, interpolation=model.interpolation)
    data = load_data(f"folder:{folder}", transform=transform)
    prepared, began, seen = prepare(model), time.perf_counter(), 0
    for batch in data.batches(settings.batch_size, range(min(count, 5000))):
        seen += len(batch.ids)
    loading = seen / (time.perf_counter() - began)
    images, began = torch.rand(128, 3, size, size), time.perf_counter()
    with torch.no_grad():
        for _ in range(10):
            prepared(images)
    forward = 1280 / (time.perf_counter() - began)
    began = time.perf_counter()
    audit([model], f"folder:{folder}", out, settings=settings)
    record: dict[str, Any] = json.loads((out / "run.json").read_text(encoding="utf-8"))
    found = {
        "loading": loading,
        "forward": forward,
        "seconds": time.perf_counter() - began,
        "stages": record["stages"],
    }
    print(json.dumps(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--fewer", type=int, default=5_000)
    parser.add_argument("--size", type=int, default=64, help="pixels")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one is not None:
        rehearse(given.one / "images", given.images, given.size, given.one / f"run{given.images}")
        return
    with tempfile.TemporaryDirectory() as name:
        began = time.perf_counter()
        make_images(Path(name) / "images", given.images, given.size)
        print(f"{given.images:,} JPEGs made in {time.perf_counter() - began:.0f} s", flush=True)
        for count in (given.fewer, given.images):
            words = [sys.executable, __file__, "--one", name, "--size", str(given.size)]
            words += ["--images", str(count)]
            text = subprocess.run(words, stdout=subprocess.PIPE, check=True, text=True).stdout
            found = json.loads(text.splitlines()[-1])
            print(
                f"\n{count:,} images: {found['seconds']:.0f} s in all; decoding alone "
                f"{found['loading']:.0f} images/s, one forward pass {found['forward']:.0f} images/s"
            )
            print("| stage | images/s | seconds | peak memory, MB |\n| --- | --- | --- | --- |")
            for stage in found["stages"]:
                rate = stage["images_per_second"] or "–"
                cells = (stage["stage"], rate, stage["seconds"], stage["peak_memory_mb"])
                print(f"| {' | '.join(map(str, cells))} |", flush=True)


if __name__ == "__main__":
    main()
