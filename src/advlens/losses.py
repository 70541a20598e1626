"""Losses per image, in forms whose float32 values and gradients are right on confident models."""

import torch
import torch.nn.functional as F
from torch import Tensor

from advlens.arrays import Labels, Logits, PerImage


def log_odds(logits: Logits, labels: Labels) -> PerImage:
    """log (1 − p(label)) / p(label): logsumexp of the other logits minus the label's logit.

    Cross entropy is softplus of it, so both have the same gradient direction for each image; this
    one neither loses its leading digits where p(label) rounds to 1 nor underflows. It is positive
    wherever the model does not predict the label.
    """
    label = labels.unsqueeze(1)
    others = logits.scatter(1, label, -torch.inf)
    return torch.logsumexp(others, dim=1) - logits.gather(1, label).squeeze(1)


def cross_entropy(logits: Logits, labels: Labels) -> PerImage:
    """−log p(label), as softplus(log odds): the float32 gradient equals the float64 one."""
    return F.softplus(log_odds(logits, labels))


def feature_distance(features: Tensor, others: Tensor) -> PerImage:
    """Squared Euclidean distance averaged over elements, per image (D19 eq. 6, D22 eq. 9)."""
    return (features - others).square().flatten(1).mean(dim=1)
