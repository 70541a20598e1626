"""A small set with labeled pixels, made from the packaged sample for the quick form."""

import csv
import tempfile
from pathlib import Path

from PIL import Image

from advlens.datasets import build_broden, load_data

IMAGES = 200
SIZE = 32
"""Side of the sample's images, and of the label maps, in pixels."""


def sample_concepts(folder: Path) -> Path:
    """Make a set in the Broden layout of some images of the sample; a finished one is kept.

    Its labels are the eleven colors, pixel by pixel, and the class of each image as an object that
    fills it: no textures, materials, scenes or parts.
    """
    sample = load_data("sample").subset(IMAGES, seed=0)
    with tempfile.TemporaryDirectory() as made:
        images = Path(made) / "images"
        images.mkdir()
        for number, pixels in enumerate(sample.images(range(len(sample)))):
            Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(images / f"{number}.png")
        whole = Path(made) / "whole.csv"
        with open(whole, "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["image", "category", "name"])
            writer.writerows(
                [f"{number}.png", "object", sample.classes[label]]
                for number, label in enumerate(sample.labels.tolist())
            )
        return build_broden(images, None, None, folder, whole=whole, size=SIZE, label_size=SIZE)
