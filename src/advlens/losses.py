"""Losses per image, in forms whose float32 values and gradients are right for confident models."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from advlens.arrays import Labels, Logits, PerImage
from advlens.errors import ModelError

FeatureDistance = Literal["squared", "summed", "absolute", "cosine"]


def log_odds(logits: Logits, labels: Labels) -> PerImage:
    """log (1 − p(label)) / p(label): logsumexp of the other logits minus the label's logit.

    Cross entropy is its softplus, so both have the same gradient direction for each image, but this
    one neither loses its leading digits where p(label) rounds to 1 nor underflows. It is positive
    wherever the model does not predict the label.

    Raises:
        ModelError: there is only one class.
    """
    if len(logits) and (logits.ndim == 1 or logits.shape[1] == 1):
        raise ModelError(
            "the model returns one logit for each image, which is right whatever the image is; "
            "give it one logit for each of at least two classes, or to advlens.Classifier, which "
            "takes one logit as that of the second of two classes"
        )
    label = labels.unsqueeze(1)
    others = logits.scatter(1, label, -torch.inf)
    return torch.logsumexp(others, dim=1) - logits.gather(1, label).squeeze(1)


def cross_entropy(logits: Logits, labels: Labels) -> PerImage:
    """−log p(label), as softplus(log odds): the float32 gradient equals the float64 one."""
    return F.softplus(log_odds(logits, labels))


def divergence(logits: Logits, others: Logits) -> PerImage:
    """KL(p ‖ q) = Σ p log(p/q) of the probabilities p of `logits` and q of `others` (TRADES).

    With t the class that `logits` predict, it is Σ_{j≠t} p_j (log p_j/p_t − log q_j/q_t) +
    log p_t − log q_t, which loses nothing where p_t and q_t round to 1. It is computed in float64,
    because near p = q the terms cancel, and so does its gradient, q − p.
    """
    z, others = logits.double(), others.double()
    top = z.argmax(dim=1)
    label = top.unsqueeze(1)
    p = z.softmax(dim=1).scatter(1, label, 0)
    odds, other_odds = (each - each.gather(1, label) for each in (z, others))
    apart = torch.where(p > 0, odds - other_odds, 0.0)  # −∞ − −∞ comes from a masked class
    total = (p * apart).sum(dim=1) + cross_entropy(others, top)
    return (total - cross_entropy(z, top)).to(logits.dtype)


def rounding(logits: Logits) -> PerImage:
    """How far an image's logits may vary between batches, in units of logits.

    Kernels add in another order there: measured differences reach 22 ε of the largest logit (a
    random VGG-11) and 2 ε (trained networks). The bound is 64 ε.
    """
    largest = logits.masked_fill(logits.isinf(), 0).abs().amax(dim=1)
    return 64 * torch.finfo(logits.dtype).eps * largest


def feature_distance(
    features: Tensor, others: Tensor, kind: FeatureDistance = "squared"
) -> PerImage:
    """Distance of each image's features (D19 eq. 6, D22 eq. 9).

    The distance is "squared" or "absolute" differences, averaged over the elements; "summed", the
    squared Euclidean distance of the papers; or "cosine": 1 − cos of the two vectors.
    """
    if kind == "cosine":
        return 1 - F.cosine_similarity(features.flatten(1), others.flatten(1))
    difference = features - others
    size = difference.abs() if kind == "absolute" else difference.square()
    return size.flatten(1).sum(dim=1) if kind == "summed" else size.flatten(1).mean(dim=1)
