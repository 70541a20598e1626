"""Run folders made up for tests of the report: every table, no model needed."""

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from advlens.runs.tables import check_rows

Table = list[dict[str, Any]]
MEASURES = ("lc", "consis_adv", "cs1", "cs2")
LIKELY = {"attack": "LeastLikely", "norm": "L2", "steps": 10}
FGSM = {"attack": "Fgsm", "norm": "Linf", "epsilon": 1 / 255, "steps": 1}


def write_run(
    run: Path,
    *,
    models: Sequence[str] = ("standard", "robust"),
    layers: Sequence[str] = ("conv1", "layer1.0.conv2", "layer2.0.conv2"),
    units: Sequence[int] = (6, 8, 12),
    classes: Sequence[str] = ("airplane", "cat", "dog", "ship"),
    images: int = 1000,
    seed: int = 0,
    shown: int = 2,
    picture: Callable[[int], np.ndarray] | None = None,
    texts: Callable[[str], str] = lambda text: text,
) -> Path:
    """Write `run.json`, `results/` and pictures; the first model breaks under attack.

    Args:
        run: the folder.
        models: their names.
        layers: of each model.
        units: of each layer.
        classes: names.
        images: in the data set.
        seed: of all numbers.
        shown: units of each rule whose pictures are shown.
        picture: pixels of image `id` (default: noise of 8×8).
        texts: applied to every free text.
    """
    random = np.random.default_rng(seed)
    pixels = picture or (
        lambda number: np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    )
    robust = [index / max(len(models) - 1, 1) for index in range(len(models))]
    k = max(2, images // 100)
    tables: dict[str, Table] = {
        name: []
        for name in (
            "accuracy",
            "sweep",
            "checks",
            "units",
            "layers",
            "consistency",
            "floors",
            "table1_d19",
            "curves",
            "pictures",
        )
    }
    for model, strength in zip(models, robust, strict=True):
        _accuracy(tables, model, strength, images, random, texts)
        found = _units(tables, model, strength, layers, units, k, images, random)
        _consistency(tables, model, strength, layers, units, images, random)
        _curves(tables, model, found)
        _pictures(tables, model, strength, layers[-1], classes, found, shown, pixels, run, random)
        for floor, measure, kind, value in (
            ("LC, all classes alike", "lc", "uniform", 0.12),
            (f"LC of {k} random images", "lc", "random", 0.13),
            (f"CS1 of {k} random images", "cs1", "random", 0.91),
        ):
            tables["floors"].append(
                {
                    "model": model,
                    "floor": floor,
                    "measure": measure,
                    "kind": kind,
                    "value": value,
                    "n": images,
                }
            )
    for name, rows in tables.items():
        write_table(run, name, rows)
    record = _record(models, layers, units, classes, images, texts)
    run.mkdir(parents=True, exist_ok=True)
    (run / "run.json").write_text(json.dumps(record), encoding="utf-8")
    return run


def write_table(run: Path, name: str, rows: Table) -> None:
    """Write `results/<name>.csv` as a run does."""
    check_rows(name, rows)
    path = run / "results" / f"{name}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(rows[0])
        writer.writerows([_cell(row[column]) for column in rows[0]] for row in rows)


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.6g}"
    return "" if value is None else str(value)


def _share(value: float, n: int, name: str = "top1") -> dict[str, float]:
    half = 1.96 * (max(value * (1 - value), 1e-4) / n) ** 0.5
    return {
        name: value,
        f"{name}_low": max(0.0, value - half),
        f"{name}_high": min(1.0, value + half),
    }


def _accuracy(
    tables: dict[str, Table], model: str, strength: float, images: int, random: Any, texts: Any
) -> None:
    natural = 0.917 - 0.145 * strength

    def row(attack: str, norm: str, epsilon: float, steps: int, n: int) -> dict[str, Any]:
        hardness = epsilon * (12 if norm == "Linf" else 1.1) * (1 + 0.3 * (steps > 1))
        left = natural * float(np.exp(-((hardness / (0.07 + 0.75 * strength)) ** 1.3)))
        return {
            "model": model,
            "attack": attack,
            "norm": norm,
            "epsilon": epsilon,
            "steps": steps,
            **_share(left, n),
            "top5": min(1.0, left + 0.25 * (1 - left)),
            "n": n,
            "draws": None,
            "top1_spread": None,
            "settings": "",
        }

    tables["accuracy"] += [
        row("natural", "", 0.0, 0, images),
        row("Fgsm", "Linf", 1 / 255, 1, images),
        row("Fgsm", "Linf", 4 / 255, 1, images),
        row("Pgd", "L2", 0.5, 20, images),
    ]
    subset = max(images // 20, 10)
    tables["sweep"] += [row("natural", "", 0.0, 0, subset)]
    tables["sweep"] += [row("Pgd", "L2", e, 10, subset) for e in (0.125, 0.25, 0.5, 1.0, 2.0)]
    tables["sweep"] += [row("Pgd", "Linf", e / 255, 10, subset) for e in (1, 2, 4, 8, 16)]
    for check, expected, found in (
        ("accuracy falls with epsilon (L2)", "does not rise", "natural: 91.0%, l2 1.0: 0.0%"),
        (
            "accuracy falls with the number of steps",
            "does not rise",
            "steps 1: 9.1%, steps 10: 0.4%",
        ),
        ("with every pixel free, accuracy is at most chance", "at most chance, 10.0%", "0.0%"),
    ):
        passed = not ("steps" in check and strength == 0 and model.endswith("masked"))
        tables["checks"].append(
            {
                "model": model,
                "check": texts(check),
                "expected": texts(expected),
                "found": texts(found),
                "passed": passed,
            }
        )


def _units(
    tables: dict[str, Table],
    model: str,
    strength: float,
    layers: Sequence[str],
    units: Sequence[int],
    k: int,
    images: int,
    random: Any,
) -> Table:
    live: Table = []
    for place, (layer, size) in enumerate(zip(layers, units, strict=True)):
        depth = place / max(len(layers) - 1, 1)
        mine: Table = []
        for unit in range(size):
            lc = float(
                np.clip(0.14 + 0.4 * depth**2 + random.gamma(2, 0.05 + 0.05 * depth), 0.1, 1)
            )
            telling = (lc - 0.1) / 0.9
            cs1 = 0.9 - (0.75 - 0.68 * strength) * (0.25 + 0.75 * telling) + random.normal(0, 0.03)
            cs2 = 0.3 + (0.55 - 0.5 * strength) * telling + random.normal(0, 0.04)
            adversarial = lc * (0.35 + 0.55 * strength) + random.normal(0.03, 0.02)
            dead = unit == 1 and place == len(layers) - 1
            values = {
                "lc": lc,
                "consis_adv": float(np.clip(adversarial, 0.1, 1)),
                "cs1": float(np.clip(cs1, 0, 1)),
                "cs2": float(np.clip(cs2, 0, 1)),
                "lc_corrected": (k * lc - 1) / (k - 1),
                "consis_adv_fgsm": float(np.clip(adversarial + 0.01, 0.1, 1)),
            }
            mine.append(
                {
                    "model": model,
                    "layer": layer,
                    "unit": unit,
                    "dead": dead,
                    **{name: None if dead else value for name, value in values.items()},
                }
            )
        tables["units"] += mine
        live += [row for row in mine if not row["dead"]]
        row: dict[str, Any] = {
            "model": model,
            "layer": layer,
            "units": size,
            "dead": sum(r["dead"] for r in mine),
            "top": k,
            "n": images,
        }
        for measure in (*MEASURES, "lc_corrected"):
            mean = float(np.mean([r[measure] for r in mine if not r["dead"]]))
            row |= {f"{measure}_mean": mean}
            if measure != "lc_corrected":
                row |= {f"{measure}_low": mean - 0.015, f"{measure}_high": mean + 0.015}
        tables["layers"].append(row)
    return live


def _consistency(
    tables: dict[str, Table],
    model: str,
    strength: float,
    layers: Sequence[str],
    units: Sequence[int],
    images: int,
    random: Any,
) -> None:
    means = {row["layer"]: row for row in tables["layers"] if row["model"] == model}
    sets = (
        ("least-likely", LIKELY | {"epsilon": 1.0}, 1 - 0.969 * strength),
        ("equal-success", LIKELY | {"epsilon": 0.31 + 2.2 * strength}, 0.95),
        ("fgsm", FGSM, 0.62 - 0.37 * strength),
        ("noise", {"attack": "GaussianNoise", "norm": "L2", "epsilon": 1.0, "steps": 1}, 0.1),
    )
    for images_name, attack, success in sets:
        for layer, size in zip(layers, units, strict=True):
            for measure in (
                MEASURES if "least" in images_name or "equal" in images_name else MEASURES[:3]
            ):
                mean = means[layer][f"{measure}_mean"]
                if images_name == "equal-success":
                    mean = 0.6 * mean + 0.1 if measure == "cs1" else mean
                if images_name == "noise" and measure == "cs1":
                    mean = 0.985
                tables["consistency"].append(
                    {
                        "model": model,
                        "layer": layer,
                        "images": images_name,
                        **attack,
                        **_share(success, images, "success"),
                        "measure": measure,
                        "mean": mean,
                        "low": mean - 0.015,
                        "high": mean + 0.015,
                        "units": size,
                        "n": images,
                    }
                )
    last = means[layers[-1]]
    tables["table1_d19"].append(
        {
            "model": model,
            "layer": layers[-1],
            "consis": last["lc_mean"],
            "consis_low": last["lc_low"],
            "consis_high": last["lc_high"],
            "consis_adv": last["consis_adv_mean"],
            "consis_adv_low": last["consis_adv_low"],
            "consis_adv_high": last["consis_adv_high"],
            **FGSM,
            **_share(0.62 - 0.37 * strength, images, "success"),
            "units": units[-1] - last["dead"],
            "n": images,
        }
    )


def _curves(tables: dict[str, Table], model: str, live: Table) -> None:
    for images_name in ("least-likely", "equal-success"):
        for index in range(10):
            inside = [row for row in live if index <= 10 * row["lc"] < index + 1]
            if not inside:
                continue
            row: dict[str, Any] = {
                "model": model,
                "images": images_name,
                "bin_low": index / 10,
                "bin_high": (index + 1) / 10,
                "lc": float(np.mean([r["lc"] for r in inside])),
            }
            for measure in ("cs1", "cs2"):
                values = [r[measure] for r in inside]
                mean = float(np.mean(values)) * (0.9 if images_name == "equal-success" else 1)
                half = (
                    1.96 * float(np.std(values)) / len(values) ** 0.5 if len(values) > 1 else None
                )
                row[measure] = mean
                row[f"{measure}_low"] = None if half is None else mean - half
                row[f"{measure}_high"] = None if half is None else mean + half
            tables["curves"].append(row | {"units": len(inside)})


def _pictures(
    tables: dict[str, Table],
    model: str,
    strength: float,
    layer: str,
    classes: Sequence[str],
    live: Table,
    shown: int,
    pixels: Any,
    run: Path,
    random: Any,
) -> None:
    mine = sorted((r for r in live if r["layer"] == layer), key=lambda row: -row["lc"])
    picked = [("highest LC", row) for row in mine[:shown]]
    picked += [("median LC", row) for row in mine[len(mine) // 2 :][:shown]]
    place = len(tables["pictures"])
    for chosen, unit in picked:
        favorite = int(random.integers(len(classes)))
        for kind in ("real", "adversarial"):
            for rank in range(8):
                number = int(random.integers(1000)) * len(classes) + favorite
                fooled = kind == "adversarial" and random.random() > strength
                if fooled:
                    number = int(random.integers(1000 * len(classes)))
                label = classes[number % len(classes)]
                predicted = classes[favorite] if fooled else label
                file = f"figures/images/{place}.png"
                (run / file).parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels(number)).save(run / file)
                place += 1
                tables["pictures"].append(
                    {
                        "model": model,
                        "layer": layer,
                        "unit": unit["unit"],
                        "lc": unit["lc"],
                        "chosen": chosen,
                        "images": kind,
                        "rank": rank,
                        "id": number,
                        "label": label,
                        "predicted": predicted,
                        "response": 9.0 - rank,
                        "framed": kind == "adversarial",
                        "file": file,
                        "map": "",
                    }
                )


def _record(
    models: Sequence[str],
    layers: Sequence[str],
    units: Sequence[int],
    classes: Sequence[str],
    images: int,
    texts: Any,
) -> dict[str, Any]:
    return {
        "advlens": "0.1.0",
        "command": texts("advlens audit --model resnet20@a.safetensors --data cifar10:DIR"),
        "created": "2026-03-01T12:00:00+00:00",
        "seed": 0,
        "settings": {
            "epsilon": 0.5,
            "limit": None,
            texts("fgsm"): [1 / 255, 0.0157],
            "a": {"b": texts("c")},
        },
        "models": [
            {
                "name": model,
                "spec": texts(f"cifar_resnet20@{index}.safetensors"),
                "weights": f"{index + 10:02x}" * 32,
                "parameters": 272474,
                "layers": [{"name": n, "units": u} for n, u in zip(layers, units, strict=True)],
                "image_size": 32,
                "mean": [0.4914, 0.4822, 0.4465],
                "std": [0.247, 0.243, 0.262],
                "classes": len(classes),
                "batch_norm_folded": True,
            }
            for index, model in enumerate(models)
        ],
        "data": {
            "name": texts("CIFAR-10 test"),
            "fingerprint": "0f" * 32,
            "images": images,
            "classes": list(classes),
            "synsets": None,
        },
        "versions": {"python": "3.11.7", "torch": "2.10.0", "numpy": texts("2.4.6")},
        "machine": {"device": texts("cpu"), "threads": 2, "tf32": False},
        "stages": [
            {
                "stage": stage,
                "model": model,
                "seconds": 812.4,
                "peak_memory_mb": 1402.7,
                "images_per_second": 12.3,
            }
            for model in models
            for stage in ("accuracy", "neurons")
        ],
        "warnings": [texts("standard is right on 10.0% of 300 images.")],
        "notes": [texts("The sweep and the checks use a seeded subset of 500 images.")],
    }


def write_training(
    run: Path,
    *,
    models: Sequence[str] = ("standard", "robust"),
    epochs: int = 60,
    n: int = 1000,
    left_out: Sequence[str] = (),
    described: bool = True,
    texts: Callable[[str], str] = lambda text: text,
) -> Path:
    """Write `training.csv` and `training_settings.csv`: standard, adversarial, and TRADES models.

    The adversarial one overfits robustly from two thirds of its epochs on.

    Args:
        run: the folder.
        models: their names; the first one is trained on natural images.
        epochs: of each.
        n: held-out images.
        left_out: columns without values, as older trainings leave them.
        described: write the settings in words.
        texts: applied to every free text.
    """
    rows: Table = []
    for index, model in enumerate(models):
        mine = [_epoch(model, index, epoch, epochs, n) for epoch in range(1, epochs + 1)]
        best = max(mine, key=lambda row: row["natural"] + row["adversarial"])
        best["kept"] = True
        rows += [row | dict.fromkeys(left_out) for row in mine]
    write_table(run, "training", rows)
    objectives = (
        "standard training",
        "adversarial training (PGD-2, L2 ε = 0.5)",
        "TRADES (PGD-10, L∞ ε = 8/255, weight 6)",
    )
    words = [
        {
            "model": model,
            "recipe": texts("" if index else "cifar10-standard"),
            "objective": texts(objectives[min(index, 2)]),
            "attack": texts("PGD-10, L2 ε = 0.5"),
            "settings": texts("SGD with Nesterov momentum 0.9, weight decay 0.0005"),
        }
        for index, model in enumerate(models)
    ]
    if described:
        write_table(run, "training_settings", words)
    return run


def _epoch(model: str, index: int, epoch: int, epochs: int, n: int) -> dict[str, Any]:
    random = np.random.default_rng([index, epoch])
    t = epoch / epochs
    learned = 1 - 0.75 * float(np.exp(-3.2 * t))
    over = max(0.0, t - 0.66) * (0.35 if index == 1 else 0.0)
    natural = (0.95, 0.86, 0.81)[min(index, 2)] * learned
    adversarial = (0.02, 0.6, 0.57)[min(index, 2)] * learned - over
    adversarial += 0.2 * float(np.exp(-9 * t)) if index == 0 else 0
    gap, robust_gap = 0.07 * t**2, 0.1 * t + 1.2 * over
    noise = random.normal(0, 0.008, 2)

    def counted(share: float) -> float:
        return round(float(np.clip(share, 0, 1)) * n) / n

    row: dict[str, Any] = {
        "model": model,
        "epoch": epoch,
        "learning_rate": 0.2 * (1 - t) if t < 1 else 0.0,
        "loss": 2.1 - 1.5 * learned,
        "train_natural_loss": 2.2 * (1 - natural - gap) + 0.05,
        "train_natural_accuracy": natural + gap,
        "train_adversarial_loss": 2.3 * (1 - adversarial - robust_gap) + 0.1,
        "train_adversarial_accuracy": adversarial + robust_gap,
        "train_distance": None,
        "train_divergence": 0.3 * learned if index == 2 else None,
        "natural": counted(natural + noise[0]),
        "adversarial": counted(adversarial + noise[1]),
        "natural_loss": 2.2 * (1 - natural) + 0.1,
        "adversarial_loss": 6 + 14 * t if index == 0 else 2.4 * (1 - adversarial) + 0.2,
        "n": n,
        "images_per_second": 900.0 - 600 * min(index, 1),
        "seconds": 61.5 * epoch,
        "kept": False,
    }
    if index == 0:
        row |= dict.fromkeys(("train_adversarial_loss", "train_adversarial_accuracy"))
    return row


def read(run: Path, table: str) -> list[dict[str, str]]:
    """The rows of a table of a run folder, as text."""
    with open(run / "results" / f"{table}.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def change(run: Path, table: str, alter: Callable[[dict[str, Any]], object]) -> None:
    """Write a table again, each row altered."""
    rows: list[dict[str, Any]] = list(read(run, table))
    for row in rows:
        alter(row)
    write_table(run, table, rows)


def put(run: Path, table: str, where: dict[str, str], **values: Any) -> None:
    """Write other values into the rows of a table whose columns hold these texts."""
    change(run, table, lambda row: where.items() <= row.items() and row.update(values))
