"""The networks of RobustBench's model zoo, as its own package builds them."""

import importlib
import re
from typing import Any

from torch import nn

from advlens.errors import ModelError, SettingsError
from advlens.models.classifier import Classifier
from advlens.models.sources import State, imagenet_classes, imagenet_synsets, resized
from advlens.wordnet import CIFAR10_SYNSETS, cifar100_synsets
from advlens.words import perhaps

NORMALIZERS = ("mu", "sigma", "mean", "std")
"""Names of the buffers in which the zoo's networks keep their normalization."""


def from_robustbench(
    spec: str, *, state: State | None = None, size: int | None = None
) -> Classifier:
    """A network of the zoo by its place there, `cifar10/Linf/Carmon2019Unlabeled`.

    It takes pixels in [0, 1] and normalizes them itself, by its own constants where the weights
    have none. ImageNet's images are resized and cropped as the zoo says.

    Args:
        spec: data set, threat model and name, as in the paths of the zoo's files.
        state: outline of the weights to load.
        size: height and width of its images, if they differ from the zoo's.

    Raises:
        SettingsError: the zoo has no such network.
        ModelError: robustbench is not installed, cannot be imported or cannot build the network.
    """
    try:
        zoo: Any = importlib.import_module("robustbench.model_zoo.models").model_dicts
    except Exception as error:  # also what its dependencies raise
        raise ModelError(
            f"robustbench:{spec} needs RobustBench, which cannot be imported "
            f"({type(error).__name__}: {error}); install it in an environment of its own, because "
            "it asks for one old version of timm"
        ) from error
    known = {
        f"{data.value}/{threat.value}/{name}": entry
        for data, threats in zoo.items()
        for threat, entries in threats.items()
        for name, entry in entries.items()
    }
    if spec not in known:
        raise SettingsError(f"robustbench:{spec} is not known{perhaps(spec, known, 5)}")
    if isinstance(known[spec].get("gdrive_id"), list):
        raise ModelError(
            f"robustbench:{spec} has several files of weights, and only one can be given; write a "
            "function that returns the model"
        )
    try:
        network = known[spec]["model"]()
    except Exception as error:  # the library's
        raise ModelError(
            f"cannot build robustbench:{spec}: {type(error).__name__}: {error}"
        ) from error
    if state is not None:
        _keep_constants(network, state)
    data, _, name = spec.split("/")
    classifier = Classifier(network, name=name, **_known(data, known[spec]))
    return classifier if size is None else resized(classifier, size)


def _keep_constants(network: nn.Module, state: State) -> None:
    """Leave a network its normalization where a file lacks it."""
    given = {name.rpartition(".")[2] for name in state}
    for module in network.modules():
        for name in module._buffers:
            if name in NORMALIZERS and name not in given:
                module.register_buffer(name, module._buffers[name], persistent=False)


def _known(data: str, entry: dict[str, Any]) -> dict[str, Any]:
    """The classes and images of a data set, as arguments of `Classifier`."""
    if data == "imagenet":
        steps = re.fullmatch(
            r"(Bicubic)?(?:Res(\d+))?(?:Crop(\d+))?", entry.get("preprocessing") or "Res256Crop224"
        )
        bicubic, resize, crop = steps.groups() if steps is not None else (None, None, None)
        side = int(crop or resize or 224)
        return {
            "classes": imagenet_classes(),
            "synsets": imagenet_synsets(),
            "image_size": side,
            "resize": int(resize or side),
            "interpolation": "bicubic" if bicubic else "bilinear",
        }
    table = CIFAR10_SYNSETS if data == "cifar10" else cifar100_synsets()
    names = {"classes": tuple(table), "synsets": tuple(table.values())}
    return names | {"image_size": 32, "resize": 32}
