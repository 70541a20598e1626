"""Tables of visualization, inversion and generation made up for tests of the report."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from synthetic_run import Table, write_table

STARTS = ("noise", "image")
MEASURES = {
    "representation": ("", 0.05, 0.12),
    "pixels": ("", 0.9, 0.5),
    "192 (192 features)": ("inception", 17.0, 11.5),
}
"""The network that measures, and the means of the first model and of the last."""
Draw = Callable[[str, int, float], np.ndarray]


def noise(kind: str, number: int, strength: float) -> np.ndarray:
    """A picture of 8×8 of a kind: real, start, visualized, inverted, generated."""
    return np.random.default_rng([len(kind), number, int(100 * strength)]).integers(
        0, 256, (8, 8, 3), dtype=np.uint8
    )


def write_features(
    run: Path,
    *,
    models: Sequence[str] = ("standard", "robust"),
    classes: Sequence[str] = ("airplane", "cat", "dog", "ship"),
    components: Sequence[int] = (3, 130),
    n: int = 24,
    generated: int = 5000,
    features: str = "inception",
    dimension: int = 2048,
    judges: Sequence[str] = (),
    shown: int = 2,
    top: int = 4,
    draw: Draw = noise,
    texts: Callable[[str], str] = lambda text: text,
) -> Path:
    """Write the five tables of features and pictures; the last model's are nearest to real ones.

    Args:
        run: the folder.
        models: their names.
        classes: that images are generated for.
        components: visualized, of each model.
        n: inverted images.
        generated: images, and real ones.
        features: the network of FID and KID.
        dimension: of its features.
        judges: networks asked for the class (default: the other models).
        shown: inversions from each start, and generated images of each class.
        top: images that activate a component most, and least.
        draw: pixels of a picture.
        texts: applied to every free text.
    """
    tables: dict[str, Table] = {
        name: []
        for name in (
            "inversion",
            "inversion_pictures",
            "visualization_pictures",
            "generation",
            "generation_pictures",
        )
    }
    folder = run / "figures" / "images"
    folder.mkdir(parents=True, exist_ok=True)
    named = [texts(name) for name in classes]

    def picture(kind: str, number: int, strength: float, owner: int) -> str:
        file = f"figures/images/{kind}-{owner}-{number}.png"
        Image.fromarray(draw(kind, number, strength)).save(run / file)
        return file

    for index, model in enumerate(models):
        strength = index / max(len(models) - 1, 1)
        _inversions(tables, model, index, strength, n, shown, named, picture)
        _visualizations(tables, model, index, strength, components, top, named, picture)
        others = judges or [name for name in models if name != model]
        _scores(tables, model, strength, generated, features, dimension, others)
        for place, name in enumerate(named):
            for kind in ("real", "generated", "start"):
                tables["generation_pictures"] += [
                    {
                        "model": model,
                        "class": name,
                        "kind": kind,
                        "rank": rank,
                        "file": picture(
                            kind, 100 * place + rank, strength, index if kind[0] == "g" else 0
                        ),
                    }
                    for rank in range(shown)
                ]
    for name, rows in tables.items():
        write_table(run, name, rows)
    return run


def _inversions(
    tables: dict[str, Table],
    model: str,
    index: int,
    strength: float,
    n: int,
    shown: int,
    classes: Sequence[str],
    picture: Any,
) -> None:
    for place, start in enumerate(STARTS):
        for measure, (features, first, last) in MEASURES.items():
            mean = (first + strength * (last - first)) * (1 + 0.02 * place)
            half = 0.5 * mean / n**0.5
            tables["inversion"].append(
                {
                    "model": model,
                    "start": start,
                    "measure": measure,
                    "features": features or model,
                    "steps": 10_000,
                    "epsilon": 1000.0,
                    "step_size": 1.0,
                    "mean": mean,
                    "low": mean - half,
                    "high": mean + half,
                    "n": n,
                    "untouched": 3 * mean,
                }
            )
        for rank in range(shown):
            number = 1000 * (place + 1) + rank
            tables["inversion_pictures"].append(
                {
                    "model": model,
                    "start": start,
                    "rank": rank,
                    "target_label": classes[rank % len(classes)],
                    "start_label": classes[(rank + 1) % len(classes)] if place else "",
                    "start_file": picture("source" if place else "noise", number, 0.0, 0),
                    "target_file": picture("real", number, 0.0, 0),
                    "file": picture("inverted", number, strength, index),
                    "distance": 0.05 + 0.1 * strength + 0.01 * rank,
                }
            )


def _visualizations(
    tables: dict[str, Table],
    model: str,
    index: int,
    strength: float,
    components: Sequence[int],
    top: int,
    classes: Sequence[str],
    picture: Any,
) -> None:
    for component in components:
        for kind, count, activation in (
            ("visualized", 1, 9.0),
            ("most", top, 3.0),
            ("least", top, 0.0),
        ):
            for rank in range(count):
                number = 5000 + 100 * component + rank + 50 * (kind == "least")
                tables["visualization_pictures"].append(
                    {
                        "model": model,
                        "component": component,
                        "kind": kind,
                        "rank": rank,
                        "file": picture(kind, number, strength, index),
                        "activation": activation - 0.1 * rank * (kind == "most"),
                        "label": "" if kind == "visualized" else classes[rank % len(classes)],
                    }
                )


def _scores(
    tables: dict[str, Table],
    model: str,
    strength: float,
    n: int,
    features: str,
    dimension: int,
    others: Sequence[str],
) -> None:
    means = {
        "generated": (152.0 - 64 * strength, 0.15 - 0.07 * strength),
        "start": (130.0, 0.12),
        "real": (5.4, 0.0004),
    }
    for images, (fid, kid) in means.items():
        network = {"features": features, "dimension": dimension, "resize": "resized to 299×299"}
        common = {"n": n, "n_real": n}
        tables["generation"] += [
            {
                "model": model,
                "images": images,
                "measure": "fid",
                **network,
                "mean": fid,
                "low": None,
                "high": None,
                **common,
            },
            {
                "model": model,
                "images": images,
                "measure": "kid",
                **network,
                "mean": kid,
                "low": kid - 0.004,
                "high": kid + 0.004,
                **common,
            },
        ]
    asked = [("confidence", model, 0.99), *(("recognized", other, 0.2) for other in others)]
    for measure, network_name, least in asked:
        share = least + (0.6 * strength if measure == "recognized" else 0)
        tables["generation"] += [
            {
                "model": model,
                "images": images,
                "measure": measure,
                "features": network_name,
                "dimension": 0,
                "resize": "",
                "mean": mean,
                "low": mean - 0.01,
                "high": mean + 0.01,
                "n": n,
                "n_real": 0,
            }
            for images, mean in (("start", 0.15), ("generated", share))
        ]
