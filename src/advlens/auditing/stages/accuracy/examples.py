"""Images that show what an attack does, each beside its adversarial twin and the difference."""

import math

import torch
from torch import Tensor

from advlens.arrays import Images, Labels
from advlens.attacks import Attack
from advlens.attacks.threat import L2, Threat
from advlens.auditing.pictures import images_of, slug, write_png
from advlens.auditing.stage import Context
from advlens.auditing.stages.accuracy.predictions import Predictions
from advlens.runs.tables import Row

FAINTEST = 1 / 255
"""Change that is drawn as half the range of pixels, at the least."""
TAIL = 8
"""An L2 change is drawn up to this many times its root mean square."""
SHARED = 16
"""Images that are kept of every model, whatever it predicts."""


def chosen(
    seen: Predictions, attack: int, labels: Labels, count: int, seed: int
) -> dict[str, list[int]]:
    """The ids of the images that are shown, by kind; at most `count` of each but the first.

    - `shared`: the first of a random order of all images, which is the same for all models of a
      run; the report shows the one that tells most about the models.
    - `fooled`: right before the attack and wrong after it, in that order: what fools all models is
      shown of each.
    - `error`: wrong without an attack, of highest confidence.
    - `least robust`, `most robust`: right before the attack, of highest and lowest log odds
      against the label under it.

    Ties go to the smaller id.

    Args:
        seen: the predictions on all images.
        attack: the attack's number.
        labels: the images' classes.
        count: images of each kind.
        seed: of the random order.
    """
    before = seen.predicted[0] == labels
    fooled = before & (seen.predicted[attack] != labels)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    rank = torch.empty(len(labels)).scatter(0, order, torch.arange(float(len(labels))))

    def first(of: Tensor, by: Tensor) -> list[int]:
        ids = of.nonzero()[:, 0]
        return ids[by[ids].argsort(stable=True)][:count].tolist()

    return {
        "shared": order[:SHARED].tolist(),
        "fooled": first(fooled, rank),
        "error": first(~before, -seen.confidence[0]),
        "least robust": first(before, -seen.odds[attack]),
        "most robust": first(before, seen.odds[attack]),
    }


def amplification(ball: Threat, images: Images) -> int:
    """A whole number by which the changes of a ball can be seen, as .5 + factor · change.

    The largest change in L∞ then moves a gray pixel half the way to black or white; 8 times the
    root mean square of one in L2 moves it all the way.
    """
    spread = TAIL / math.sqrt(images[0].numel()) if isinstance(ball, L2) else 2
    largest = ball.radii[1] * spread
    return max(1, int(0.5 / max(largest, FAINTEST)))


def example_rows(
    context: Context, attack: Attack, seen: Predictions, number: int, count: int
) -> list[Row]:
    """Write the pictures of the chosen images and return a row for each.

    The attack is repeated on these images alone: seed and image id determine what it gives.

    Args:
        context: the model and its images.
        attack: an attack within a ball.
        seen: the predictions on all images.
        number: the attack's number among them.
        count: images of each kind.
    """
    data, ball = context.data, attack.within()
    by_kind = chosen(seen, number, data.labels, count, context.seed)
    ids = torch.tensor(sorted({i for each in by_kind.values() for i in each}), dtype=torch.int64)
    if ball is None or not len(ids) or not context.processes.first:
        return []
    natural, attacked = (images_of(context, ids, each) for each in (None, attack))
    natural = natural.to(attacked)
    distances, factor = ball.length(attacked - natural).tolist(), amplification(ball, natural)
    drawn = {
        "natural": natural,
        "attacked": attacked,
        "difference": (0.5 + factor * (attacked - natural)).clamp(0, 1),
    }
    files = dict[int, dict[str, str]]()
    for place, image in enumerate(ids.tolist()):
        stem = f"figures/images/example-{slug(context.name)}-{image}"
        files[image] = {kind: f"{stem}-{kind}.png" for kind in drawn}
        for kind, images in drawn.items():
            write_png(images[place], context.folder / files[image][kind])
    return [
        {
            "kind": kind,
            "rank": rank,
            "id": image,
            "label": data.classes[int(data.labels[image])],
            "predicted": data.classes[int(seen.predicted[0, image])],
            "confidence": seen.confidence[0, image].item(),
            "attacked_as": data.classes[int(seen.predicted[number, image])],
            "attacked_confidence": seen.confidence[number, image].item(),
            "distance": distances[ids.tolist().index(image)],
            "factor": factor,
            **files[image],
        }
        for kind, images in by_kind.items()
        for rank, image in enumerate(images)
    ]
