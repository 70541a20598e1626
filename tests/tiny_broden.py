"""A tiny synthetic data set in the Broden layout, with every form that a cell may take."""

import csv
from collections.abc import Iterable, Sequence
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


def write_tiny_broden(folder, *, images=12, size=32, label_size=16, categories=CATEGORIES, seed=0):
    """Write the data set; its images show the color that their color map names."""
    (folder / "images" / "a").mkdir(parents=True)
    rows, present = [], {(c, n): [] for c in categories for n in NAMES}
    for i in range(images):
        random = np.random.default_rng([seed, i])
        row, place = tiny_row(i, random, label_size), np.arange(size) * label_size // size
        pixels = RGB[row["color"][0]][place][:, place] + random.integers(-25, 26, (size, size, 3))
        image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
        image.save(folder / "images" / "a" / f"{i}.jpg", quality=95)
        cells = []
        for category in categories:
            items = []
            for depth, item in enumerate(row[category], 1):
                items.append(
                    str(item) if isinstance(item, int) else f"a/{i}_{category}_{depth}.png"
                )
                if not isinstance(item, int):
                    save_label_map(folder / "images" / items[-1], item)
            cells.append(";".join(items))
            layers = [np.broadcast_to(item, (label_size, label_size)) for item in row[category]]
            for number in NAMES:
                if (shown := np.any([layer == number for layer in layers], axis=0)).any():
                    present[category, number].append(shown.mean())
        rows.append([f"a/{i}.jpg", "train", size, size, label_size, label_size, *cells])
    write_csv(folder / "index.csv", ",".join(["image,split,ih,iw,sh,sw", *categories]), rows)
    write_label_tables(folder, {key: shares for key, shares in present.items() if shares})
    return folder


def save_label_map(path: Path, labels: np.ndarray) -> None:
    """An RGB PNG: label = R + 256·G."""
    channels = [labels % 256, labels // 256, np.zeros_like(labels)]
    Image.fromarray(np.stack(channels, axis=2).astype(np.uint8)).save(path)


def write_label_tables(folder: Path, present: dict[tuple[str, int], list[float]]) -> None:
    """label.csv, category.csv and c_<category>.csv from each label's shares of the images."""
    labels, listed = [], []
    for n in sorted({n for _, n in present}):
        own = {c: shares for (c, m), shares in present.items() if m == n}
        counts = ";".join(f"{c}({len(shares)})" for c, shares in own.items())
        every = [share for shares in own.values() for share in shares]
        labels.append([n, NAMES[n], counts, len(every), f"{sum(every):.6f}", ""])
    for category in dict.fromkeys(c for c, _ in present):
        of_label = {n: shares for (c, n), shares in present.items() if c == category}
        frequency = sum(map(len, of_label.values()))
        listed.append([category, min(of_label), max(of_label), len(of_label), frequency])
        lines = [
            [code, n, NAMES[n], len(shares), f"{sum(shares):.6f}"]
            for code, (n, shares) in enumerate(of_label.items(), 1)
        ]
        write_csv(folder / f"c_{category}.csv", "code,number,name,frequency,coverage", lines)
    write_csv(folder / "label.csv", "number,name,category,frequency,coverage,syns", labels)
    write_csv(folder / "category.csv", "name,first,last,count,frequency", listed)


def write_csv(path: Path, columns: str, rows: Iterable[Sequence[object]]) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([columns.split(","), *rows])
