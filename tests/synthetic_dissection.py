"""Dissection tables made up for tests of the report, beside those of `synthetic_run`."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from advlens.intervals import wilson
from synthetic_run import Table, write_table

CATEGORIES = ("color", "texture", "material", "scene", "part", "object")
MINIMA = (0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08, 0.09, 0.1)
REAL, ADVERSARIAL, AGAIN = "real", "adversarial", "adversarial-reestimated"


def write_dissection(
    run: Path,
    *,
    models: Sequence[str] = ("standard", "robust"),
    layers: Sequence[str] = ("layer1.0.conv2", "layer2.0.conv2"),
    units: Sequence[int] = (40, 48),
    concepts: Sequence[str] = tuple(f"concept {n}" for n in range(1, 31)),
    success: Sequence[float] = (0.98, 0.95),
    attack: str = "AdamAttack",
    shown: int = 2,
    top: int = 4,
    maps: bool = True,
    picture: Callable[[int], np.ndarray] | None = None,
    texts: Callable[[str], str] = lambda text: text,
) -> Path:
    """Write the five tables of dissection and pictures; the first model breaks under attack.

    Args:
        run: the folder.
        models: their names.
        layers: dissected in each model.
        units: of each layer.
        concepts: their names; their categories go round.
        success: of the attack, for each model; fewer than models: the last one goes on.
        attack: its name; nothing: only real images.
        shown: units whose pictures are shown, of each layer.
        top: pictures of each kind.
        maps: with discrepancy maps.
        picture: pixels of image `id` (default: noise of 8×8).
        texts: applied to every free text.
    """
    random = np.random.default_rng(5)
    pixels = picture or (
        lambda number: np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    )
    tables: dict[str, Table] = {name: [] for name in ("", "_images", "_pictures")}
    for index, model in enumerate(models):
        strength = index / max(len(models) - 1, 1)
        for depth, (layer, size) in enumerate(zip(layers, units, strict=True)):
            for unit in range(size):
                rows = _unit(random, strength, depth, unit, concepts, bool(attack))
                name = {"model": model, "layer": layer, "unit": unit}
                tables[""] += [name | row for row in rows]
                if unit in range(3, 3 + shown):
                    tables["_pictures"] += [
                        name | row
                        for row in _pictures(run, random, top, pixels, attack, maps, texts)
                    ]
        share = success[min(index, len(success) - 1)]
        low, high = wilson(round(share * 1200), 1200)
        attacked = {
            "success": share,
            "success_low": low,
            "success_high": high,
            "steps": 20,
            "weight": 0.5,
            "distance": 0.71,
        }
        tables["_images"].append(
            {
                "model": model,
                "data": texts("mini-broden"),
                "n": 1200,
                "labels": 68,
                "attack": attack,
                "norm": "",
                "epsilon": None,
                **(attacked if attack else dict.fromkeys(attacked)),
                "upsampling": "centered",
                "counting": "all",
                "quantile": 0.005,
                "minimum": 0.04,
                "passes": 1,
            }
        )
    for name, rows in tables.items():
        if rows:
            write_table(run, f"dissection{name}", rows)
    write_table(run, "dissection_shares", list(_shares(tables[""])))
    if attack:
        write_table(run, "dissection_transitions", list(_transitions(tables[""])))
    return run


def _unit(
    random: Any, strength: float, depth: int, unit: int, concepts: Sequence[str], attacked: bool
) -> Table:
    dead, rare = unit == 0, unit == 1

    def row(images: str, label: int, iou: float) -> dict[str, Any]:
        label = 0 if dead else label
        return {
            "images": images,
            "label": label,
            "concept": concepts[label - 1] if label else "",
            "category": CATEGORIES[label % 6] if label else "",
            "iou": iou if label else 0.0,
            "threshold": 0.0 if dead or rare else 1.5 + unit / 7,
            "permuted_iou": 0.0 if dead else float(random.gamma(4, 0.0055)),
            "dead": dead,
        }

    label = 1 + int(len(concepts) * random.beta(1, 2.5))
    iou = float(random.gamma(2 + depth, 0.02))
    found = [row(REAL, label, iou)]
    if attacked:
        holds = random.random() < 0.25 + 0.6 * strength
        after = label if holds else 1 + int(random.integers(len(concepts)))
        left = iou * (0.35 + 0.6 * strength) + float(random.normal(0, 0.004))
        found += [
            row(ADVERSARIAL, after, max(left, 0.001)),
            row(AGAIN, after, max(left, 0.001) * 1.1),
        ]
    return found


def _pictures(
    run: Path, random: Any, top: int, pixels: Any, attack: str, maps: bool, texts: Any
) -> Table:
    rows: Table = []
    folder = run / "figures" / "dissection"
    folder.mkdir(parents=True, exist_ok=True)
    for kind in (REAL, ADVERSARIAL) if attack else (REAL,):
        for rank in range(top):
            number = int(random.integers(1200))
            place = len(list(folder.iterdir()))
            names = [f"figures/dissection/{place + n}.png" for n in range(2 if maps else 1)]
            for shift, name in enumerate(names):
                Image.fromarray(pixels(number + 5000 * shift)).save(run / name)
            label = texts(("cat", "dog", "ship")[number % 3])
            fooled = kind == ADVERSARIAL and rank % 2 == 1
            rows.append(
                {
                    "images": kind,
                    "rank": rank,
                    "id": number,
                    "response": 9.0 - rank,
                    "label": label,
                    "predicted": texts("truck") if fooled else label,
                    "framed": fooled and rank % 4 == 1,
                    "file": names[0],
                    "map": names[1] if maps else "",
                }
            )
    return rows


def _places(rows: Table) -> list[tuple[str, str, Table]]:
    """Table of each layer, and of all layers of a model with several."""
    found = []
    for model in dict.fromkeys(row["model"] for row in rows):
        mine = [row for row in rows if row["model"] == model]
        layers = list(dict.fromkeys(row["layer"] for row in mine))
        found += [(model, layer, [r for r in mine if r["layer"] == layer]) for layer in layers]
        if len(layers) > 1:
            found.append((model, "all layers", mine))
    return found


def _shares(rows: Table) -> Any:
    for model, layer, mine in _places(rows):
        for images in dict.fromkeys(row["images"] for row in mine):
            shown = [row for row in mine if row["images"] == images]
            for minimum in MINIMA:
                for category in (*CATEGORIES, "all"):
                    own = [row for row in shown if category in (row["category"], "all")]
                    detectors = sum(row["iou"] > minimum for row in own)
                    chance = sum(row["permuted_iou"] > minimum for row in own)
                    low, high = wilson(detectors, len(shown))
                    yield {
                        "model": model,
                        "layer": layer,
                        "images": images,
                        "minimum": minimum,
                        "category": category,
                        "units": len(shown),
                        "detectors": detectors,
                        "share": detectors / len(shown),
                        "low": low,
                        "high": high,
                        "permuted_detectors": chance,
                        "permuted_share": chance / len(shown),
                    }


def _transitions(rows: Table) -> Any:
    for model, layer, mine in _places(rows):
        for images in (ADVERSARIAL, AGAIN):
            before = [row for row in mine if row["images"] == REAL]
            after = [row for row in mine if row["images"] == images]
            counted: dict[tuple[str, str], list[int]] = {}
            for one, other in zip(before, after, strict=True):
                names = tuple(
                    row["category"] if row["iou"] > 0.04 else "none" for row in (one, other)
                )
                cell = counted.setdefault(names, [0, 0])
                cell[0] += 1
                cell[1] += "none" not in names and one["label"] == other["label"]
            for (first, second), (units, same) in counted.items():
                yield {
                    "model": model,
                    "layer": layer,
                    "images": images,
                    "before": first,
                    "after": second,
                    "units": units,
                    "same_concept": same,
                }
