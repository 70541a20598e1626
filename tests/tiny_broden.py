"""A tiny synthetic data set in the Broden layout, with every form that a cell may take."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

CATEGORIES = ("color", "object", "part", "material", "scene", "texture")
NAMES = {
    **{1: "black-c", 2: "red-c", 3: "person", 4: "dog", 5: "hair", 6: "leg", 7: "wood"},
    **{8: "street-s", 9: "striped", 10: "dotted", 300: "lamp"},
}
"""Label numbers have a gap, and one needs the green channel; hair is a part and a material."""
RGB = np.array([[0, 0, 0], [30, 30, 30], [220, 40, 40]])


def tiny_row(i: int, random: np.random.Generator, label_size: int) -> dict[str, list]:
    """What image i carries in each category: label numbers and label maps."""

    def blobs(*labels: int) -> np.ndarray:
        grid = random.choice(labels, size=(4, 4))
        place = np.arange(label_size) * 4 // label_size
        return grid[place][:, place]

    row: dict[str, list] = {category: [] for category in CATEGORIES}
    row["color"] = [blobs(1, 2)]
    if i % 4 != 3:
        row["object"] = [blobs(0, 3, 4, 300)]
    if i % 3 == 0:
        row["object"].append(blobs(0, 3, 300))  # may repeat the first map's label at a pixel
    if i % 5 == 0:
        row["object"].append(4)  # the whole image, beside a map that holds it as well
    if i % 2 == 0:
        row["part"] = [blobs(0, 5, 6)]
    if i % 3 != 2:
        row["material"] = [blobs(0, 5, 7)]
    if i % 3 == 1:
        row["scene"] = [8]
    elif i % 6 == 2:
        row["scene"] = [0]  # real Broden has such cells: a label too rare for a number
    if i % 2 == 1:
        row["texture"] = [9] if i % 4 == 1 else [10, 9]
    return row


def write_tiny_broden(
    folder: Path,
    *,
    images: int = 12,
    size: int = 32,
    label_size: int = 16,
    categories: Sequence[str] = CATEGORIES,
    seed: int = 0,
) -> Path:
    """Write the data set; its images show the color that their color map names."""
    (folder / "images" / "a").mkdir(parents=True)
    rows, present = [], {(c, n): [] for c in categories for n in NAMES}
    for i in range(images):
        random = np.random.default_rng([seed, i])
        row = tiny_row(i, random, label_size)
        place = np.arange(size) * label_size // size
        pixels = RGB[row["color"][0]][place][:, place] + random.integers(-25, 26, (size, size, 3))
        pixels = pixels.clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "images" / "a" / f"{i}.jpg", quality=95)
        cells = []
        for category in categories:
            items = []
            for depth, item in enumerate(row[category]):
                if isinstance(item, int):
                    items.append(str(item))
                    continue
                items.append(f"a/{i}_{category}_{depth + 1}.png")
                save_label_map(folder / "images" / items[-1], item)
            cells.append(";".join(items))
            layers = [np.broadcast_to(item, (label_size, label_size)) for item in row[category]]
            for number in NAMES:
                if any((layer == number).any() for layer in layers):
                    share = np.any([layer == number for layer in layers], axis=0).mean()
                    present[category, number].append(share)
        rows.append([f"a/{i}.jpg", "train", size, size, label_size, label_size, *cells])
    columns = ["image", "split", "ih", "iw", "sh", "sw", *categories]
    write_csv(folder / "index.csv", [columns, *rows])
    write_label_tables(folder, {key: shares for key, shares in present.items() if shares})
    return folder


def save_label_map(path: Path, labels: np.ndarray) -> None:
    """An RGB PNG: label = R + 256·G."""
    channels = [labels % 256, labels // 256, np.zeros_like(labels)]
    Image.fromarray(np.stack(channels, axis=2).astype(np.uint8)).save(path)


def write_label_tables(folder: Path, present: dict[tuple[str, int], list[float]]) -> None:
    """label.csv, category.csv and c_<category>.csv from each label's shares of the images."""
    of_label = {n: [c for c, m in present if m == n] for n in sorted({n for _, n in present})}
    labels, category_rows = [], []
    for n, categories in of_label.items():
        counts = ";".join(f"{c}({len(present[c, n])})" for c in categories)
        total = [share for c in categories for share in present[c, n]]
        labels.append([n, NAMES[n], counts, len(total), f"{sum(total):.6f}", ""])
    for category in dict.fromkeys(c for c, _ in present):
        own = [n for c, n in present if c == category]
        frequency = sum(len(present[category, n]) for n in own)
        category_rows.append([category, min(own), max(own), len(own), frequency])
        lines = [
            [
                code,
                n,
                NAMES[n],
                len(present[category, n]),
                f"{sum(present[category, n]):.6f}",
            ]
            for code, n in enumerate(own, 1)
        ]
        columns = ["code", "number", "name", "frequency", "coverage"]
        write_csv(folder / f"c_{category}.csv", [columns, *lines])
    columns = ["number", "name", "category", "frequency", "coverage", "syns"]
    write_csv(folder / "label.csv", [columns, *labels])
    columns = ["name", "first", "last", "count", "frequency"]
    write_csv(folder / "category.csv", [columns, *category_rows])


def write_csv(path: Path, rows: Sequence[Sequence[object]]) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
