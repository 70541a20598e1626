"""Gradients along straight paths that end at an image, weighted and summed in chunks."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from advlens.arrays import Images, Labels
from advlens.attribution.base import Target, chunks, score, slope
from advlens.prepared import Prepared

Numbers = Int64[Tensor, " k"]
Places = tuple[Images, Float[Tensor, " k"], Float[Tensor, " k"]]


class Sums(NamedTuple):
    """Sums over each image's samples; the last two are float64.

    Attributes:
        values: Σ w (x − x′) ∂F(x′ + α (x − x′))/∂x.
        each: each sample's contribution to `values`, summed over the input values.
        scores: F at each sample's point.
    """

    values: Images
    each: Float[Tensor, "n samples"]
    scores: Float[Tensor, "n samples"]


def walk(
    model: Prepared,
    images: Images,
    classes: Labels,
    target: Target,
    *,
    samples: int,
    place: Callable[[Numbers, Numbers], Places],
    batch_size: int,
) -> Sums:
    """Take all gradients, `batch_size` at a time, across images.

    Memory holds a chunk and the result: one image and two numbers per sample.

    Args:
        model, images, classes, target: define the score F and the images x.
        samples: gradients per image.
        place: maps numbers of images and of their samples to baselines x′, α and weights w.
        batch_size: gradients per chunk.
    """
    values, each, scores = torch.zeros_like(images), [], []
    for part in chunks(len(images) * samples, batch_size):
        number = torch.arange(part.start, part.stop)
        row = (number // samples).to(images.device)
        places = place(number // samples, number % samples)
        share, values_there = _shares(model, images[row], classes[row], target, *places)
        # image by image, because index_add_ has no fixed order on a GPU
        for image in range(part.start // samples, (part.stop - 1) // samples + 1):
            own = slice(max(image * samples - part.start, 0), (image + 1) * samples - part.start)
            values[image] += share[own].sum(dim=0)
        each.append(share.sum(dim=(1, 2, 3), dtype=torch.float64))
        scores.append(values_there)
    nothing = images.new_empty(0, dtype=torch.float64)
    flat, heights = torch.cat([nothing, *each]), torch.cat([nothing, *scores])
    return Sums(values, flat.view(len(images), samples), heights.view(len(images), samples))


def _shares(
    model: Prepared,
    images: Images,
    classes: Labels,
    target: Target,
    starts: Images,
    alpha: Float[Tensor, " k"],
    weights: Float[Tensor, " k"],
) -> tuple[Images, Float[Tensor, " k"]]:
    """w (x − x′) ∂F, and F, at one point of each path."""
    change = images - starts
    points = torch.addcmul(starts, alpha.to(images).view(-1, 1, 1, 1), change)
    _, logits, gradient = slope(model, points, lambda _: classes, target)
    share = change.mul_(gradient).mul_(weights.to(images).view(-1, 1, 1, 1))
    return share, score(logits.double(), classes, target)
