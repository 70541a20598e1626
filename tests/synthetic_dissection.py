"""Dissection tables made up for tests of the report, beside those of `synthetic_run`."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from advlens.intervals import wilson
from advlens.words import Estimate
from synthetic_run import BOTH, LAYERS, Row, Table, Texts, row, rows_of, write_picture, write_table

CATEGORIES = ("color", "texture", "material", "scene", "part", "object")
NAMES = tuple(f"concept {n}" for n in range(1, 31))
Found = dict[tuple[str, str, int], tuple[str, str, float]]
REAL, ADVERSARIAL, AGAIN = "real", "adversarial", "adversarial-reestimated"


def write_dissection(
    run: Path,
    *,
    models: Sequence[str] = BOTH,
    layers: Sequence[str] = LAYERS[1:],
    units: Sequence[int] = (40, 48),
    concepts: Sequence[str] = NAMES,
    attack: str = "AdamAttack",
    shown: int = 2,
    texts: Texts = str,
) -> Path:
    """Write the five tables of dissection and pictures; the first model breaks under attack.

    Units are those of each layer; so many of them have pictures. Categories of concepts go round.
    Without an attack there are only real images. Every free text is changed by `texts`.
    """
    random = np.random.default_rng(5)
    tables: dict[str, Table] = {name: [] for name in ("", "_images", "_pictures")}
    for index, model in enumerate(models):
        strength = index / max(len(models) - 1, 1)
        for depth, (layer, size) in enumerate(zip(layers, units, strict=True)):
            for unit in range(size):
                rows = _unit(random, strength, depth, unit, concepts, bool(attack))
                name = row(model=model, layer=layer, unit=unit)
                tables[""] += [name | each for each in rows]
                if unit in range(3, 3 + shown):
                    rows = _pictures(run, random, attack, texts)
                    why = "largest drop of IoU" if attack and unit > 3 else "highest IoU"
                    tables["_pictures"] += [name | row(chosen=why) | each for each in rows]
        share = 0.95 if index else 0.98
        low, high = wilson(round(share * 1200), 1200)
        attacked = row(success=share, success_low=low, success_high=high)
        attacked |= row(steps=20, settings="", targeted=True, weight=0.5, distance=0.71)
        found = row(model=model, data=texts("mini-broden"), n=1200, labels=68, attack=attack)
        found |= row(norm="", epsilon=None) | (attacked if attack else dict.fromkeys(attacked))
        found |= row(upsampling="centered", counting="all", quantile=0.005, minimum=0.04, passes=1)
        tables["_images"].append(found)
    for name, rows in tables.items():
        write_table(run, f"dissection{name}", rows)
    write_table(run, "dissection_shares", list(_shares(tables[""])))
    if attack:
        write_table(run, "dissection_transitions", list(_transitions(tables[""])))
    return run


def _unit(random, strength, depth, unit, concepts, attacked):
    dead, rare = unit == 0, unit == 1

    def found(images: str, label: int, iou: float) -> Row:
        label = 0 if dead else label
        category = CATEGORIES[label % 6] if label else ""
        known = row(images=images, label=label, concept=concepts[label - 1] if label else "")
        known |= row(category=category, iou=iou if label else 0.0)
        known |= row(threshold=0.0 if dead or rare else 1.5 + unit / 7)
        return known | row(permuted_iou=0.0 if dead else float(random.gamma(4, 0.0055)), dead=dead)

    label = 1 + int(len(concepts) * random.beta(1, 2.5))
    iou = float(random.gamma(2 + depth, 0.02))
    rows = [found(REAL, label, iou)]
    if attacked:
        holds = random.random() < 0.25 + 0.6 * strength
        after = label if holds else 1 + int(random.integers(len(concepts)))
        left = max(iou * (0.35 + 0.6 * strength) + float(random.normal(0, 0.004)), 0.001)
        rows += [found(ADVERSARIAL, after, left), found(AGAIN, after, left * 1.1)]
    return rows


def _pictures(run: Path, random: Any, attack: str, texts: Texts) -> Table:
    rows: Table = []
    folder = run / "figures" / "dissection"
    for kind in (REAL, ADVERSARIAL) if attack else (REAL,):
        for rank in range(4):
            number = int(random.integers(1200))
            place = len(list(folder.glob("*")))
            file, drawn = (
                write_picture(run, f"figures/dissection/{place + n}.png", number, n + 1)
                for n in (0, 1)
            )
            label = texts(("cat", "dog", "ship")[number % 3])
            fooled = kind == ADVERSARIAL and rank % 2 == 1
            found = row(images=kind, rank=rank, id=number, response=9.0 - rank, label=label)
            found |= row(predicted=texts("truck") if fooled else label)
            found |= row(framed=fooled and rank % 4 == 1, file=file, map=drawn)
            rows.append(found)
    return rows


def _places(rows: Table) -> Iterator[tuple[Row, dict[str, Table]]]:
    """Of each layer, and of all layers of a model with several: its name, and rows by images."""
    for model in dict.fromkeys(each["model"] for each in rows):
        mine = [each for each in rows if each["model"] == model]
        layers = list(dict.fromkeys(each["layer"] for each in mine))
        for layer in [*layers, "all layers"] if len(layers) > 1 else layers:
            found: dict[str, Table] = {}
            for each in mine:
                if layer in (each["layer"], "all layers"):
                    found.setdefault(each["images"], []).append(each)
            yield row(model=model, layer=layer), found


def _shares(rows: Table) -> Iterator[Row]:
    for place, found in _places(rows):
        for images, shown in found.items():
            n = len(shown)
            for minimum in (0.02, 0.04, 0.1):
                for category in (*CATEGORIES, "all"):
                    own = [each for each in shown if category in (each["category"], "all")]
                    detectors = sum(each["iou"] > minimum for each in own)
                    chance = sum(each["permuted_iou"] > minimum for each in own)
                    low, high = wilson(detectors, n)
                    share = place | row(images=images, minimum=minimum, category=category, units=n)
                    share |= row(detectors=detectors, share=detectors / n, low=low, high=high)
                    yield share | row(permuted_detectors=chance, permuted_share=chance / n)


def _transitions(rows: Table) -> Iterator[Row]:
    for place, found in _places(rows):
        for images in (ADVERSARIAL, AGAIN):
            units, same = Counter[Any](), Counter[Any]()
            for one, other in zip(found[REAL], found[images], strict=True):
                before, after = (
                    each["category"] if each["iou"] > 0.04 else "none" for each in (one, other)
                )
                units[before, after] += 1
                kept = "none" not in (before, after) and one["label"] == other["label"]
                same[before, after] += kept
            for (before, after), n in units.items():
                told = row(images=images, before=before, after=after, units=n)
                yield place | told | row(same_concept=same[before, after])


def units(run: Path, images: str, model: str = "", layer: str | None = LAYERS[-1]) -> Found:
    """Label, category and IoU of each unit on these images; no label below the threshold."""
    return {
        (row["model"], row["layer"], int(row["unit"])): (
            (row["label"], row["category"], float(row["iou"]))
            if float(row["iou"]) > 0.04
            else ("0", "none", float(row["iou"]))
        )
        for row in rows_of(run, "dissection", images=images)
        if model in ("", row["model"]) and layer in (row["layer"], None)
    }


def counted(hits: int, n: int) -> Estimate:
    """A share with its interval."""
    low, high = wilson(hits, n)
    return Estimate(value=hits / n, low=low, high=high, n=n)


def share(found: Found, category: str = "") -> Estimate:
    """The share of detectors."""
    hits = sum(value[0] != "0" and category in ("", value[1]) for value in found.values())
    return counted(hits, len(found))


def fate(run: Path, model: str, layer: str | None = LAYERS[-1]) -> Counter[str]:
    """What becomes of the units of a model under attack."""
    real, adversarial = (units(run, kind, model, layer) for kind in ("real", "adversarial"))
    found: Counter[str] = Counter()
    for unit, (label, _, _) in real.items():
        after = adversarial[unit][0]
        if label == "0":
            found["none" if after == "0" else "gained"] += 1
        else:
            found["kept" if after == label else "lost" if after == "0" else "changed"] += 1
    return found
