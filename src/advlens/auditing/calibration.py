"""What an attack leaves open is found on some images, before the pass over all of them."""

import torch

from advlens.attacks import AdamAttack, Attack
from advlens.attacks.adam import CALIBRATION
from advlens.auditing.stage import Context
from advlens.datasets import Batch


def some_batches(context: Context) -> list[Batch]:
    """A seeded, class-balanced part of a stage's images, on the model's device."""
    some = context.data.subset(min(CALIBRATION, len(context.data)), seed=context.seed)
    return list(some.batches(context.batch_size, device=context.device))


def is_open(attack: object) -> bool:
    """Whether it is an Adam attack whose λ has yet to be calibrated."""
    return isinstance(attack, AdamAttack) and attack.weight is None


def calibrated(attack: Attack, context: Context, *, labeled: bool) -> Attack:
    """The attack; one whose λ is open gets the λ that succeeds on 95 % of some images.

    Args:
        attack: the attack.
        context: the model and the images.
        labeled: whether the images have labels; otherwise the predicted classes stand for them.
    """
    if not (isinstance(attack, AdamAttack) and is_open(attack)):
        return attack
    batches = some_batches(context)
    images = torch.cat([batch.images for batch in batches])
    labels = torch.cat([attack.given(batch.labels, batch.targets) for batch in batches])
    if not labeled:
        with torch.no_grad():
            labels = context.prepared(images).argmax(dim=1)
    return attack.calibrate(context.prepared, images, labels)
