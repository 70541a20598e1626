"""What a stage needs from a model and its data, checked before any computation."""

import torch

from advlens.auditing.reals import Reals
from advlens.auditing.stage import Need
from advlens.auditing.subjects import Subject
from advlens.datasets.base import UNLABELED
from advlens.errors import AdvlensError, DataError, ModelError
from advlens.settings import AuditSettings, DissectSettings

PROBED = 8
"""Images on which a gradient is probed."""


def lacking(
    subject: Subject, need: Need, settings: AuditSettings | DissectSettings
) -> AdvlensError | None:
    """Why the model or its data lack what is needed; None if they have it."""
    if need == "labels":
        return None if subject.data.labeled else DataError(f"{subject.data.name} {UNLABELED}")
    if need == "synsets":
        return None if subject.data.synsets is not None else DataError(subject.unnamed)
    if need == "units":
        return (
            None
            if subject.prepared.layers
            else ModelError(
                "it has no units, which are channels of convolutions and hidden units of a "
                "transformer's MLPs; TorchScript and decomposed programs show none: audit the "
                "module itself or what torch.export makes of it"
            )
        )
    if need == "representation":
        return _without_representation(subject)
    if need == "gradients":
        return _without_gradients(subject)
    assert isinstance(settings, AuditSettings)  # the stage of `dissect` needs no pairs
    reals, name = Reals.of(subject, settings), subject.data.name
    if reals.classes:
        return None
    if settings.gaussians == "paper" or reals.balanced:
        fitted, whole, least = reals.fitted.name, "a class's images", 2
    else:
        fitted, whole, least = name, "half of a class's images", 4
    return DataError(
        f"images are generated from a Gaussian that is fitted to {whole}, and {fitted} has no "
        f"class of {least} images or more"
    )


def _without_representation(subject: Subject) -> ModelError | None:
    try:
        with torch.no_grad():
            (first,) = subject.data.batches(1, [0], device=subject.prepared.device)
            subject.prepared.representation(first.images)
    except ModelError as error:
        return error
    return None


def _without_gradients(subject: Subject) -> ModelError | None:
    """An error if the largest logit's gradient is missing or exactly 0 on each of some images."""
    ids = range(min(PROBED, len(subject.data)))
    (some,) = subject.data.batches(PROBED, ids, device=subject.prepared.device)
    images = some.images.requires_grad_()
    with torch.enable_grad():
        highest = subject.prepared(images).amax(dim=1).sum()
        if highest.requires_grad:
            (gradient,) = torch.autograd.grad(highest, images, allow_unused=True)
            if gradient is not None and gradient.any():
                return None
    return ModelError(
        "no gradient comes from its output to the pixels; take rounding, argmax, numpy and detach "
        "out of its forward"
    )
