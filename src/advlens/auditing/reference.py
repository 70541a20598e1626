"""The networks, other than the model itself, by which the images made from it are judged."""

from functools import cache
from pathlib import Path

import torch

from advlens.auditing.subjects import Subject
from advlens.fid.representations import FeatureNetwork, Representation
from advlens.models import Classifier, load_model
from advlens.models.classifier import device_of
from advlens.settings import AuditSettings


@cache
def reference(device: torch.device) -> Classifier:
    """The packaged classifier of CIFAR-10 that judges models of it."""
    return load_model("cifar10-reference", device=device)


def feature_network(subject: Subject, settings: AuditSettings) -> FeatureNetwork:
    """In whose features distances are measured: the Inception network where it is given.

    Raises:
        AdvlensError: its folder does not hold it.
    """
    if settings.inception is not None:
        return _inception(settings.inception)
    return Representation(reference(device_of(subject.classifier)))


@cache
def _inception(folder: Path) -> FeatureNetwork:
    from advlens.fid.inception import Inception  # torchvision takes a second to import

    return Inception(folder)
