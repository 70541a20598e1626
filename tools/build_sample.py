"""Build the packaged sample of CIFAR-10 from the official binary version.

    python tools/build_sample.py CIFAR_DIR

writes src/advlens/tables/cifar10-sample.webp, a lossless grid of 50 images a row, and .csv with
each image's position in the test set and label. It prints the SHA-256 that
src/advlens/datasets/sample.py pins.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from advlens.datasets import load_data
from advlens.files import atomic, sha256

TABLES = Path(__file__).resolve().parents[1] / "src" / "advlens" / "tables"
PER_CLASS, COLUMNS = 200, 50


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    data = load_data(f"cifar10:{sys.argv[1]}")
    labels = data.labels.numpy()
    first = [np.flatnonzero(labels == label)[:PER_CLASS] for label in range(len(data.classes))]
    positions = np.sort(np.concatenate(first)).tolist()
    tiles = data.images(positions).numpy().reshape(-1, COLUMNS, 3, 32, 32)
    grid = tiles.transpose(0, 3, 1, 4, 2).reshape(-1, COLUMNS * 32, 3)
    with atomic(TABLES / "cifar10-sample.webp") as file:
        Image.fromarray(grid).save(file, "WEBP", lossless=True, quality=100, method=6)
    with atomic(TABLES / "cifar10-sample.csv", "w") as file:
        file.write("position,label\n")
        file.writelines(f"{position},{labels[position]}\n" for position in positions)
    for name in ("cifar10-sample.webp", "cifar10-sample.csv"):
        print(f'    "{name}": "{sha256(TABLES / name)}",')


if __name__ == "__main__":
    main()
