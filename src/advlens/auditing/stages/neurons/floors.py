"""What the measures of units are by chance."""

import numpy as np
import torch

from advlens.arrays import Labels
from advlens.auditing.stage import Context
from advlens.consistency import Composition, Similarity, agreement, class_counts, level
from advlens.runs.tables import Row


def uniform_floor(similarity: Similarity) -> float:
    """LC of a unit whose images are spread evenly over all classes: uᵀCu."""
    return float(similarity.mean())


def random_floor(
    labels: Labels, similarity: Similarity, top: int, *, seed: int, draws: int = 1000
) -> tuple[float, float]:
    """Mean LC and mean CS1 of random images instead of the top ones.

    Args:
        labels: true class of every image.
        similarity: C.
        top: images per set.
        seed: the seed of the draws.
        draws: number of pairs of sets.
    """
    random = np.random.default_rng(seed)
    sets = [
        np.stack([random.choice(len(labels), top, replace=False) for _ in range(draws)])
        for _ in range(2)
    ]
    first, second = (
        Composition.of(class_counts(labels[torch.from_numpy(ids)], len(similarity)), similarity)
        for ids in sets
    )
    return level(first).mean().item(), agreement(first, second).mean().item()


def floor_rows(context: Context, similarity: Similarity, top: int, *, seed: int) -> list[Row]:
    """The floors of a model's units, whose top sets have so many images."""
    labels = context.data.labels
    lc, cs1 = random_floor(labels, similarity, top, seed=seed)
    some = f"of {top} random images"
    floors = (
        ("LC, all classes alike", "lc", "uniform", uniform_floor(similarity)),
        (f"LC {some}", "lc", "random", lc),
        (f"CS1 {some}", "cs1", "random", cs1),
    )
    return [
        {
            "model": context.name,
            "floor": floor,
            "measure": measure,
            "kind": kind,
            "value": value,
            "n": len(labels),
        }
        for floor, measure, kind, value in floors
    ]
