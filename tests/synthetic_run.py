"""Run folders made up for tests of the report: every table, no model needed."""

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from advlens.runs.folder import write_csv, write_tables

Row = dict[str, Any]
Table = list[Row]
Texts = Callable[[str], str]
BOTH = ("standard", "robust")
LAYERS = ("conv1", "layer1.0.conv2", "layer2.0.conv2")
LAST = LAYERS[-1]
CLASSES = ("airplane", "cat", "dog", "ship")
TABLES = "accuracy sweep checks units layers consistency floors table1_d19 curves pictures"
N, TOP = 1000, 10
"""Images in the data set, and of each unit."""
MEASURES = ("lc", "consis_adv", "cs1", "cs2")
MAIN = "least-likely"
LIKELY = {"attack": "LeastLikely", "norm": "L2", "steps": 10}
FGSM = {"attack": "Fgsm", "norm": "Linf", "epsilon": 1 / 255, "steps": 1}
CHECKS = """\
accuracy falls with epsilon (L2) | does not rise | natural: 91.0%, l2 1.0: 0.0%
accuracy falls with the number of steps | does not rise | steps 1: 9.1%, steps 10: 0.4%
with every pixel free, accuracy is at most chance | at most chance, 10.0% | 0.0%"""
SETTINGS = "SGD with Nesterov momentum 0.9, weight decay 0.0005"
OBJECTIVES = (
    "standard training",
    "adversarial training (PGD-2, L2 ε = 0.5)",
    "TRADES (PGD-10, L∞ ε = 8/255, weight 6)",
)


def row(**columns: Any) -> Row:
    """A row of a table, or a part of it."""
    return columns


def around(value: float, arm: float = 0.01, name: str = "") -> Row:
    """Columns of a value with an interval of ± arm."""
    names = (name, f"{name}_low", f"{name}_high") if name else ("mean", "low", "high")
    return dict(zip(names, (value, value - arm, value + arm), strict=True))


def write_picture(run: Path, file: str, *seed: int) -> str:
    """Noise of 8×8, the same for the same seed."""
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    (run / file).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(run / file)
    return file


def write_table(run: Path, name: str, rows: Table) -> None:
    """Write `results/<name>.csv` as a run does; nothing without rows."""
    write_tables(run, {name: rows})


def rows_of(run: Path, table: str, **wanted: str) -> list[dict[str, str]]:
    """The rows of a table whose columns hold these texts."""
    with open(run / "results" / f"{table}.csv", encoding="utf-8", newline="") as file:
        return [row for row in csv.DictReader(file) if wanted.items() <= row.items()]


def change(run: Path, table: str, alter: Callable[[Row], object]) -> None:
    """Write a table again, each row altered, whatever it then holds."""
    rows: Table = list(rows_of(run, table))
    for row in rows:
        alter(row)
    write_csv(run / "results" / f"{table}.csv", rows)


def put(run: Path, table: str, where: dict[str, str], **values: Any) -> None:
    """Write other values into the rows of a table whose columns hold these texts."""
    change(run, table, lambda row: where.items() <= row.items() and row.update(values))


@dataclass(frozen=True)
class _Made:
    run: Path
    layers: Sequence[str]
    units: Sequence[int]
    classes: Sequence[str]
    shown: int
    texts: Texts
    random: np.random.Generator
    tables: dict[str, Table]


def write_run(
    run, *, models=BOTH, layers=LAYERS, units=(6, 8, 12), classes=CLASSES, shown=2, texts=str
) -> Path:
    """Write `run.json`, `results/` and pictures; the first model breaks under attack.

    Units are those of each layer, and so many of each rule are shown: of 0 there are no pictures.
    Every free text is changed by `texts`.
    """
    tables: dict[str, Table] = {name: [] for name in TABLES.split()}
    made = _Made(run, layers, units, classes, shown, texts, np.random.default_rng(0), tables)
    for index, model in enumerate(models):
        strength = index / max(len(models) - 1, 1)
        _accuracy(made, model, strength)
        live = _units(made, model, strength)
        _consistency(made, model, strength)
        _curves(made, model, live)
        _pictures(made, model, strength, live)
        for floor, measure, kind, value in (
            ("LC, all classes alike", "lc", "uniform", 0.12),
            (f"LC of {TOP} random images", "lc", "random", 0.13),
            (f"CS1 of {TOP} random images", "cs1", "random", 0.91),
        ):
            found = row(model=model, floor=floor, measure=measure, kind=kind, value=value, n=N)
            tables["floors"].append(found)
    for name, rows in tables.items():
        write_table(run, name, rows)
    (run / "run.json").write_text(json.dumps(_record(made, models)), encoding="utf-8")
    return run


def _share(value: float, n: int, name: str = "top1") -> Row:
    half = 1.96 * (max(value * (1 - value), 1e-4) / n) ** 0.5
    ends = {f"{name}_low": max(0.0, value - half), f"{name}_high": min(1.0, value + half)}
    return {name: value, **ends}


def _accuracy(made: _Made, model: str, strength: float) -> None:
    natural = 0.917 - 0.145 * strength

    def under(attack: str, norm: str, epsilon: float, steps: int, n: int) -> Row:
        hardness = epsilon * (12 if norm == "Linf" else 1.1) * (1 + 0.3 * (steps > 1))
        left = natural * float(np.exp(-((hardness / (0.07 + 0.75 * strength)) ** 1.3)))
        found = row(model=model, attack=attack, norm=norm, epsilon=epsilon, steps=steps)
        found |= _share(left, n) | row(top5=min(1.0, left + 0.25 * (1 - left)), n=n)
        return found | row(draws=None, top1_spread=None, settings="")

    few, fgsm = 50, [under("Fgsm", "Linf", levels / 255, 1, N) for levels in (1, 4)]
    made.tables["accuracy"] += [under("natural", "", 0.0, 0, N), *fgsm]
    made.tables["accuracy"] += [under("Pgd", "L2", 0.5, 20, N)]
    made.tables["sweep"] += [under("natural", "", 0.0, 0, few)]
    made.tables["sweep"] += [under("Pgd", "L2", e, 10, few) for e in (0.125, 0.25, 0.5, 1.0, 2.0)]
    made.tables["sweep"] += [under("Pgd", "Linf", e / 255, 10, few) for e in (1, 2, 4, 8, 16)]
    for line in CHECKS.splitlines():
        check, expected, found = map(made.texts, line.split(" | "))
        words = row(model=model, check=check, expected=expected, found=found, passed=True)
        made.tables["checks"].append(words)


def _units(made: _Made, model: str, strength: float) -> Table:
    """Rows of units and of layers; those of the live units."""
    random, live = made.random, []
    for place, (layer, size) in enumerate(zip(made.layers, made.units, strict=True)):
        depth = place / max(len(made.layers) - 1, 1)
        mine: Table = []
        for unit in range(size):
            lc = 0.14 + 0.4 * depth**2 + random.gamma(2, 0.05 + 0.05 * depth)
            lc = float(np.clip(lc, 0.1, 1))
            telling = (lc - 0.1) / 0.9
            cs1 = 0.9 - (0.75 - 0.68 * strength) * (0.25 + 0.75 * telling) + random.normal(0, 0.03)
            cs2 = 0.3 + (0.55 - 0.5 * strength) * telling + random.normal(0, 0.04)
            attacked = lc * (0.35 + 0.55 * strength) + random.normal(0.03, 0.02)
            consistent, fgsm = np.clip([attacked, attacked + 0.01], 0.1, 1).tolist()
            cs1, cs2 = np.clip([cs1, cs2], 0, 1).tolist()
            values = row(lc=lc, consis_adv=consistent, cs1=cs1, cs2=cs2)
            values |= row(lc_corrected=(TOP * lc - 1) / (TOP - 1), consis_adv_fgsm=fgsm)
            dead = unit == 1 and place == len(made.layers) - 1
            shown = (dict.fromkeys(values) if dead else values) | row(attacked=MAIN)
            mine.append(row(model=model, layer=layer, unit=unit, dead=dead) | shown)
        made.tables["units"] += mine
        known = [found for found in mine if not found["dead"]]
        live += known
        means = {name: float(np.mean([found[name] for found in known])) for name in values}
        found = row(model=model, layer=layer, units=size, dead=size - len(known), top=TOP)
        found |= row(n=N, attacked=MAIN)
        for name in MEASURES:
            found |= {f"{name}_mean": means[name]}
            found |= {f"{name}_low": means[name] - 0.015, f"{name}_high": means[name] + 0.015}
        made.tables["layers"].append(found | row(lc_corrected_mean=means["lc_corrected"]))
    return live


def _consistency(made: _Made, model: str, strength: float) -> None:
    means = {found["layer"]: found for found in made.tables["layers"] if found["model"] == model}
    faint = row(attack="GaussianNoise", norm="L2", epsilon=1.0, steps=1)
    fooled = 0.62 - 0.37 * strength
    for images, attack, success in (
        (MAIN, LIKELY | row(epsilon=1.0), 1 - 0.969 * strength),
        ("equal-success", LIKELY | row(epsilon=0.31 + 2.2 * strength), 0.95),
        ("fgsm", FGSM, fooled),
        ("noise", faint, 0.1),
    ):
        for layer, size in zip(made.layers, made.units, strict=True):
            for measure in MEASURES if attack["attack"] == "LeastLikely" else MEASURES[:3]:
                mean = means[layer][f"{measure}_mean"]
                if images == "equal-success" and measure == "cs1":
                    mean = 0.6 * mean + 0.1
                if images == "noise" and measure == "cs1":
                    mean = 0.985
                found = row(model=model, layer=layer, images=images, **attack, settings="")
                found |= row(targeted=attack["attack"] == "LeastLikely", distance=0.9)
                found |= _share(success, N, "success") | row(measure=measure)
                found |= around(mean, 0.015) | row(units=size, n=N)
                made.tables["consistency"].append(found)
    last, found = means[made.layers[-1]], row(model=model, layer=made.layers[-1])
    for name, measure in (("consis", "lc"), ("consis_adv", "consis_adv")):
        found |= around(last[f"{measure}_mean"], 0.015, name)
    found |= FGSM | _share(fooled, N, "success")
    found |= row(units=made.units[-1] - last["dead"], n=N)
    made.tables["table1_d19"].append(found)


def _curves(made: _Made, model: str, live: Table) -> None:
    for images, factor in ((MAIN, 1), ("equal-success", 0.9)):
        for index in range(10):
            inside = [unit for unit in live if index <= 10 * unit["lc"] < index + 1]
            if not inside:
                continue
            found = row(model=model, images=images, bin_low=index / 10, bin_high=(index + 1) / 10)
            found |= row(lc=float(np.mean([unit["lc"] for unit in inside])))
            for measure in ("cs1", "cs2"):
                values = [unit[measure] for unit in inside]
                arm = 1.96 * float(np.std(values)) / len(values) ** 0.5
                columns = around(float(np.mean(values)) * factor, arm, measure)
                if len(values) < 2:
                    columns |= {f"{measure}_low": None, f"{measure}_high": None}
                found |= columns
            made.tables["curves"].append(found | row(units=len(inside)))


def _pictures(made: _Made, model: str, strength: float, live: Table) -> None:
    random, names, layer = made.random, made.classes, made.layers[-1]
    rows = made.tables["pictures"]
    mine = sorted((unit for unit in live if unit["layer"] == layer), key=lambda unit: -unit["lc"])
    picked = [("highest LC", unit) for unit in mine[: made.shown]]
    picked += [("median LC", unit) for unit in mine[len(mine) // 2 :][: made.shown]]
    for chosen, unit in picked:
        favorite = int(random.integers(len(names)))
        for kind in ("real", "adversarial"):
            for rank in range(8):
                number = int(random.integers(N // len(names))) * len(names) + favorite
                fooled = kind == "adversarial" and random.random() > strength
                if fooled:
                    number = int(random.integers(N))
                label = names[number % len(names)]
                predicted = names[favorite] if fooled else label
                file = f"figures/images/{len(rows)}.png"
                write_picture(made.run, file, number)
                found = row(model=model, layer=layer, unit=unit["unit"], lc=unit["lc"])
                found |= row(chosen=chosen, images=kind, rank=rank, id=number, label=label)
                found |= row(predicted=predicted, response=9.0 - rank, attacked=MAIN)
                rows.append(found | row(framed=kind == "adversarial", file=file, map=""))


def _record(made: _Made, models: Sequence[str]) -> Row:
    texts = made.texts
    layers = [row(name=n, units=u) for n, u in zip(made.layers, made.units, strict=True)]
    network = row(parameters=272474, layers=layers, image_size=32, mean=[0.4914, 0.4822, 0.4465])
    network |= row(std=[0.247, 0.243, 0.262], classes=len(made.classes), batch_norm_folded=True)
    cost = row(seconds=812.4, peak_memory_mb=1402.7, images_per_second=12.3)
    settings = {"epsilon": 0.5, "limit": None, texts("fgsm"): [1 / 255, 0.0157]}
    data = row(name=texts("CIFAR-10 test"), fingerprint="0f" * 32, images=N)
    return {
        "advlens": "0.1.0",
        "command": texts("advlens audit --model resnet20@a.safetensors --data cifar10:DIR"),
        "created": "2026-03-01T12:00:00+00:00",
        "seed": 0,
        "settings": settings | {"a": {"b": texts("c")}},
        "models": [
            row(name=model, spec=texts(f"cifar_resnet20@{index}.safetensors"))
            | row(weights=f"{index + 10:02x}" * 32, **network)
            for index, model in enumerate(models)
        ],
        "data": data | row(classes=list(made.classes), synsets=None),
        "versions": row(python="3.11.7", torch="2.10.0", numpy=texts("2.4.6")),
        "machine": row(device=texts("cpu"), threads=2, tf32=False),
        "stages": [
            row(stage=stage, model=model, **cost)
            for model in models
            for stage in ("accuracy", "neurons")
        ],
        "warnings": [texts("standard is right on 10.0% of 300 images.")],
        "notes": [texts("The sweep and the checks use a seeded subset of 500 images.")],
    }


def write_training(run, *, models=BOTH, epochs=60, left_out=(), described=True, texts=str):
    """Write `training.csv` and `training_settings.csv`: standard, adversarial, and TRADES models.

    The adversarial one overfits robustly from two thirds of its epochs on. Columns that are left
    out have no values, as older trainings leave them, which described no settings in words either.
    """
    rows: Table = []
    for index, model in enumerate(models):
        mine = [_epoch(model, index, epoch, epochs) for epoch in range(1, epochs + 1)]
        max(mine, key=lambda found: found["natural"] + found["adversarial"])["kept"] = True
        rows += [found | dict.fromkeys(left_out) for found in mine]
    write_table(run, "training", rows)
    words = [
        row(model=model, recipe=texts("" if index else "cifar10-standard"))
        | row(objective=texts(OBJECTIVES[min(index, 2)]), attack=texts("PGD-10, L2 ε = 0.5"))
        | row(settings=texts(SETTINGS))
        for index, model in enumerate(models)
    ]
    if described:
        write_table(run, "training_settings", words)
    return run


def _epoch(model: str, index: int, epoch: int, epochs: int) -> Row:
    random, t = np.random.default_rng([index, epoch]), epoch / epochs
    learned = 1 - 0.75 * float(np.exp(-3.2 * t))
    over = max(0.0, t - 0.66) * (0.35 if index == 1 else 0.0)
    natural = (0.95, 0.86, 0.81)[min(index, 2)] * learned
    adversarial = (0.02, 0.6, 0.57)[min(index, 2)] * learned - over
    adversarial += 0.2 * float(np.exp(-9 * t)) if index == 0 else 0
    more, more_attacked = natural + 0.07 * t**2, adversarial + 0.1 * t + 1.2 * over
    seen = np.array([natural, adversarial]) + random.normal(0, 0.008, 2)
    counted = np.round(np.clip(seen, 0, 1) * N) / N
    found = row(model=model, epoch=epoch, learning_rate=0.2 * (1 - t) if t < 1 else 0.0)
    found |= row(loss=2.1 - 1.5 * learned, train_natural_loss=2.2 * (1 - more) + 0.05)
    found |= row(train_natural_accuracy=more)
    found |= row(train_adversarial_loss=2.3 * (1 - more_attacked) + 0.1)
    found |= row(train_adversarial_accuracy=more_attacked)
    found |= row(train_distance=None, train_divergence=0.3 * learned if index == 2 else None)
    found |= row(natural=float(counted[0]), adversarial=float(counted[1]))
    found |= row(natural_loss=2.2 * (1 - natural) + 0.1)
    found |= row(adversarial_loss=6 + 14 * t if index == 0 else 2.4 * (1 - adversarial) + 0.2)
    found |= row(n=N, images_per_second=900.0 - 600 * min(index, 1), seconds=61.5 * epoch)
    if index == 0:
        found |= dict.fromkeys(("train_adversarial_loss", "train_adversarial_accuracy"))
    return found | row(kept=False)
