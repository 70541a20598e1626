"""The networks of RobustBench's model zoo, as its own package builds them."""

import importlib
import re
from collections.abc import Mapping
from functools import partial
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
            "function that returns Classifier(robustbench.utils.load_model(…), …)"
        )
    data, threat, name = spec.split("/")
    timm: Any = importlib.import_module("timm")
    registered = f"{name}_{data}_{threat}".lower().replace("-", "_")  # as the zoo looks it up
    build, preprocessing = known[spec]["model"], known[spec].get("preprocessing")
    if timm.is_model(registered):
        build, preprocessing = partial(timm.create_model, registered), None
    try:
        network = build()
    except Exception as error:  # the library's
        raise ModelError(
            f"cannot build robustbench:{spec}: {type(error).__name__}: {error}"
        ) from error
    given: dict[str, Any] = {}
    if [part for part, _ in network.named_children()] == ["normalize", "model"]:
        constants = network.normalize.mean, network.normalize.std
        given["mean"], given["std"] = (tuple(each.flatten().tolist()) for each in constants)
        network = network.model  # whose names ImageNet's files have
    if state is not None:
        _keep_constants(network, state)
    given |= _known(data, preprocessing, getattr(network, "default_cfg", {}))
    classifier = Classifier(network, name=name, **given)
    if preprocessing == "Crop288":
        classifier.notes += (
            f"the shorter side of images is resized to 288 pixels for {name}; RobustBench crops as "
            "many from images that are not resized",
        )
    return classifier if size is None else resized(classifier, size)


def _keep_constants(network: nn.Module, state: State) -> None:
    """Leave a network its normalization where a file lacks it."""
    given = {name.rpartition(".")[2] for name in state}
    for module in network.modules():
        for name in module._buffers:
            if name in NORMALIZERS and name not in given:
                module.register_buffer(name, module._buffers[name], persistent=False)


def _known(data: str, preprocessing: str | None, config: Mapping[str, Any]) -> dict[str, Any]:
    """The classes and images of a data set, as arguments of `Classifier`.

    Args:
        data: the zoo's name of the data set.
        preprocessing: the zoo's name of how ImageNet's images are resized and cropped; None if
            `config` says it.
        config: timm's description of the network.
    """
    if data != "imagenet":
        table = CIFAR10_SYNSETS if data == "cifar10" else cifar100_synsets()
        names = {"classes": tuple(table), "synsets": tuple(table.values())}
        return names | {"image_size": 32, "resize": 32}
    squeeze = False
    if preprocessing is None and config:
        side, interpolation = config["input_size"][1], config["interpolation"]
        resize = int(side / config["crop_pct"])
    else:
        steps = preprocessing or "Res256Crop224"
        if (found := re.fullmatch(r"(Bicubic)?(?:Res(\d+))?(?:Crop(\d+))?", steps)) is None:
            raise ModelError(
                f"how RobustBench resizes images for this network ({steps}) is not known here; "
                "write a function that returns Classifier(robustbench.utils.load_model(…), …)"
            )
        bicubic, given, crop = found.groups()
        side = int(crop or given or 224)
        resize, interpolation = int(given or side), "bicubic" if bicubic else "bilinear"
        squeeze = crop is None  # to the whole side, whatever its shape
    return {
        "classes": imagenet_classes(),
        "synsets": imagenet_synsets(),
        "image_size": side,
        "resize": resize,
        "interpolation": interpolation,
        "squeeze": squeeze,
    }
