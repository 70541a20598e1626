"""How good an epoch is, on held-out images."""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advlens.arrays import Ids, Images, Labels
from advlens.attacks import Attack
from advlens.prepared import prepare

MEASURED = ("natural", "natural_loss", "adversarial", "adversarial_loss")


def measure(
    model: nn.Module, attack: Attack, batches: Iterable[tuple[Ids, Images, Labels]]
) -> Tensor:
    """The quantities that `MEASURED` names, summed over images, shape 4, float64.

    Natural and adversarial count right predictions; the losses are cross entropies. The adversarial
    ones are taken at the iterate that counts for the prediction (see `Attack.outcomes`).
    """
    prepared = prepare(model)
    device = prepared.device
    sums = torch.zeros(4, dtype=torch.float64, device=device)
    with torch.no_grad():
        for ids, images, labels in batches:
            clean = prepared(images)
            attacked = attack.outcomes(prepared, images, labels, ids=ids, clean=clean)
            for place, logits in ((0, clean), (2, attacked)):
                sums[place] += (logits.argmax(dim=1) == labels).sum()
                sums[place + 1] += F.cross_entropy(logits, labels, reduction="sum")
    return sums
