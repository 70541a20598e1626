"""Networks other than the model itself that judge the images made from it."""

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
    """The packaged CIFAR-10 classifier that judges models of CIFAR-10."""
    return load_model("cifar10-reference", device=device)


def feature_network(subject: Subject, settings: AuditSettings) -> FeatureNetwork:
    """The network in whose features distances are measured: the Inception network if it is given.

    Raises:
        AdvlensError: the folder does not hold the network.
    """
    if settings.inception is not None:
        return _inception(settings.inception)
    return _representation(device_of(subject.classifier))


@cache
def _representation(device: torch.device) -> FeatureNetwork:
    return Representation(reference(device))


@cache
def _inception(folder: Path) -> FeatureNetwork:
    from advlens.fid.inception import Inception  # torchvision takes a second to import

    return Inception(folder)
