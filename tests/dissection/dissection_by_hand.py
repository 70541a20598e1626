"""Network dissection once more, in float64 and by plain loops, from the files of the data set."""

import csv
import math
from pathlib import Path

import numpy as np
from PIL import Image


def rows_of(path: Path) -> list[dict]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def labels_of(folder: Path, row: dict, categories: list[str]) -> tuple[np.ndarray, list[bool]]:
    """Which labels each pixel carries, label_count×h×w, and which categories the image carries."""
    carried = np.zeros((1000, *(int(row["sh"]), int(row["sw"]))), dtype=bool)
    for category in categories:
        for item in filter(None, row[category].split(";")):
            if item.isdigit():
                carried[int(item)] = True
                continue
            pixels = np.asarray(Image.open(folder / "images" / item)).astype(int)
            numbers = pixels[..., 0] + 256 * pixels[..., 1]
            for number in np.unique(numbers):
                carried[number] |= numbers == number
    carried[0] = False
    return carried, [bool(set(row[category].split(";")) - {"", "0"}) for category in categories]


def categories_of(folder: Path, categories: list[str]) -> dict[int, set[str]]:
    found: dict[int, set[str]] = {}
    for category in categories:
        for line in rows_of(folder / f"c_{category}.csv"):
            found.setdefault(int(line["number"]), set()).add(category)
    return found


def thresholds(maps: np.ndarray, quantile: float) -> np.ndarray:
    return np.array([threshold(values, quantile) for values in maps.swapaxes(0, 1)])


def threshold(values: np.ndarray, quantile: float) -> float:
    """The (m+1)-th largest of all values, m = floor(quantile · n)."""
    return float(np.sort(values.ravel())[::-1][math.floor(round(quantile * values.size, 9))])


def upsampled(values, shape, centers, image):
    """Bilinear between the centers (in pixels of the image); beyond the outermost, their value."""
    ys, xs = ((np.arange(side) + 0.5) * image / side - 0.5 for side in shape)
    across = np.array([np.interp(xs, centers[1], line) for line in values])
    return np.array([np.interp(ys, centers[0], line) for line in across.T]).T


def dissect(folder, maps, thresholds, centers, image, categories, *, order=None, lite=False):
    """IoU of every unit with every label number.

    Args:
        folder: of the data set.
        maps: activations, images × units × h × w.
        thresholds: of the units.
        centers: of the receptive fields, rows and columns.
        image: side of the model's input.
        categories: in the order of category.csv.
        order: whose labels each image gets (default: its own).
        lite: count a mask only where it touches a label of the category.
    """
    rows, of_label = rows_of(folder / "index.csv"), categories_of(folder, categories)
    units = maps.shape[1]
    both, either = np.zeros((units, 1000)), np.zeros((units, 1000))
    for position in range(len(rows)):
        row = rows[position if order is None else order[position]]
        carried, carries = labels_of(folder, row, categories)
        for unit in range(units):
            mask = upsampled(maps[position, unit], carried.shape[1:], centers, image)
            mask = mask > thresholds[unit]
            touches = {n for n in of_label if (mask & carried[n]).any()}
            for number, listed in of_label.items():
                both[unit, number] += (mask & carried[number]).sum()
                if lite:
                    counted = any(of_label[n] & listed for n in touches)
                else:
                    counted = any(carries[categories.index(c)] for c in listed)
                union = mask | carried[number] if counted else carried[number]
                either[unit, number] += union.sum()
    return np.divide(both, either, out=np.zeros_like(both), where=either > 0)
