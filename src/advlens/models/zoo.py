"""Models by specification: `NAME`, `torchvision:NAME`, `package.module:factory`, or any `@FILE`."""

import importlib
import os
import sys
from collections import OrderedDict
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import nn

from advlens.errors import ModelError, SettingsError
from advlens.files import sha256
from advlens.models.classifier import Classifier
from advlens.models.resnet import CifarResNet
from advlens.models.weights import load_weights

CIFAR10_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
CIFAR10_MEAN, CIFAR10_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

_CIFAR_RESNETS: dict[str, tuple[tuple[int, ...], tuple[int, ...], Any]] = {
    "resnet14": ((2, 2, 2), (32, 64, 128), "pad"),
    "resnet20": ((3, 3, 3), (16, 32, 64), "pad"),
    "resnet32": ((5, 5, 5), (16, 32, 64), "pad"),
    "resnet44": ((7, 7, 7), (16, 32, 64), "pad"),
    "resnet56": ((9, 9, 9), (16, 32, 64), "pad"),
    "resnet18": ((2, 2, 2, 2), (64, 128, 256, 512), "projection"),
}
_TORCHVISION = {"alexnet": 224, "vgg16": 224, "resnet18": 224, "resnet50": 224, "inception_v3": 299}
_PACKAGED = {
    "cifar10-standard": "resnet14",
    "cifar10-l2": "resnet14",
    "cifar10-consistency": "resnet14",
    "cifar10-reference": "resnet20",
}


def load_model(spec: str, *, device: str | torch.device = "cpu", seed: int = 0) -> Classifier:
    """Build a classifier in evaluation mode.

    Args:
        spec: a packaged model (`cifar10-standard`, `cifar10-l2`, `cifar10-consistency`, or
            `cifar10-reference`, whose features serve for distances), a network for 32×32 images
            (`resnet14`, `resnet18`, `resnet20` …), `torchvision:NAME`,
            `torchvision:NAME.PART` for a part that needs no others, such as `alexnet.features`, or
            `package.module:factory` for a function without arguments that returns a module from
            pixels in [0, 1] to logits (or a `Classifier`). `@FILE` loads weights: safetensors or a
            state dict. A torchvision name with `@DEFAULT` takes torchvision's own weights; without
            `@`, weights are random.
        device: where the model goes.
        seed: of random weights.

    Raises:
        SettingsError: no such name.
        ModelError: the factory fails or returns something else.
        CheckpointError: the weights file does not fit.
    """
    name, _, weights = spec.partition("@")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if name in _PACKAGED:
            if weights:
                raise SettingsError(
                    f"{name} has its own weights; for others give {_PACKAGED[name]}@{weights}"
                )
            file = resources.files("advlens.models") / "pretrained" / f"{name}.safetensors"
            with resources.as_file(file) as path:
                classifier = _cifar_resnet(_PACKAGED[name], name, path)
        elif name in _CIFAR_RESNETS:
            classifier = _cifar_resnet(name, name, Path(weights) if weights else None)
        elif name.startswith("torchvision:"):
            classifier = _torchvision(name.removeprefix("torchvision:"), weights)
        elif ":" in name:
            classifier = _factory(name, Path(weights) if weights else None)
        else:
            raise SettingsError(
                f"no model named {name!r}; there are {', '.join(list_models())}, "
                "and package.module:factory"
            )
    return classifier.eval().to(device)


def list_models() -> list[str]:
    """The names that `load_model` knows."""
    return [*_PACKAGED, *_CIFAR_RESNETS, *(f"torchvision:{name}" for name in _TORCHVISION)]


def network_of(spec: str) -> str:
    """What a specification names without its weights, so that others of this network can follow."""
    name = spec.partition("@")[0]
    return _PACKAGED.get(name, name)


def imagenet_synsets() -> tuple[str, ...]:
    """The WordNet ids of ImageNet's 1000 classes, in the order of the logits."""
    text = (resources.files("advlens") / "tables" / "imagenet-wnids.txt").read_text()
    return tuple(text.split())


def imagenet_classes() -> tuple[str, ...]:
    """A name for each of ImageNet's 1000 classes, in the order of the logits; two are "crane"."""
    from advlens.wordnet import lemmas

    return tuple(lemmas(wnid)[0] for wnid in imagenet_synsets())


def _cifar_resnet(architecture: str, name: str, weights: Path | None) -> Classifier:
    from advlens.wordnet import CIFAR10_SYNSETS

    network = CifarResNet(*_CIFAR_RESNETS[architecture])
    # The public weights of depths 20, 32, 44 and 56 were trained with ImageNet's statistics; our
    # own files carry theirs.
    public = architecture in ("resnet20", "resnet32", "resnet44", "resnet56")
    mean, std = (IMAGENET_MEAN, IMAGENET_STD) if public else (CIFAR10_MEAN, CIFAR10_STD)
    classifier = Classifier(
        network, name=name, mean=mean, std=std, classes=CIFAR10_CLASSES,
        synsets=tuple(CIFAR10_SYNSETS.values()), image_size=32, resize=32,
    )  # fmt: skip
    _load(classifier, weights)
    return classifier


def _load(classifier: Classifier, weights: Path | None) -> None:
    if weights is None:
        return
    load_weights(classifier, weights)
    classifier.weights = sha256(weights)
    if classifier.name not in _PACKAGED:
        # a training of ours names all of its weights alike: its folder tells them apart
        ours = weights.stem in ("model", "best")
        classifier.name = weights.absolute().parent.name if ours else weights.stem


def _torchvision(spec: str, weights: str) -> Classifier:
    name, _, part = spec.partition(".")
    if name not in _TORCHVISION:
        known = ", ".join(_TORCHVISION)
        raise SettingsError(
            f"torchvision:{name} is not known; use one of {known}, or package.module:factory"
        )
    from torchvision import models

    extra: dict[str, Any] = {"init_weights": True} if name == "inception_v3" else {}
    if weights == "DEFAULT":
        extra = {"weights": "DEFAULT"}
    network = getattr(models, name)(**extra)
    if name == "inception_v3":
        network.transform_input = (
            False  # torchvision's own change of normalization; ours replaces it
        )
    if part:
        parts = dict(network.named_children())
        if part not in parts:
            raise SettingsError(f"{name} has no part {part!r}; there are {', '.join(parts)}")
        network = nn.Sequential(OrderedDict({part: parts[part]}))  # names stay as in the whole
    half = (0.5, 0.5, 0.5)
    size = _TORCHVISION[name]
    classifier = Classifier(
        network, name=spec, image_size=size,
        classes=None if part else imagenet_classes(), synsets=None if part else imagenet_synsets(),
        mean=half if name == "inception_v3" else IMAGENET_MEAN,
        std=half if name == "inception_v3" else IMAGENET_STD,
        resize=342 if name == "inception_v3" else 256,
        weights="torchvision DEFAULT" if weights == "DEFAULT" else None,
    )  # fmt: skip
    _load(classifier, Path(weights) if weights not in ("", "DEFAULT") else None)
    return classifier


def _factory(name: str, weights: Path | None) -> Classifier:
    module_name, _, attribute = name.partition(":")
    here = os.getcwd()  # where the user's own file lies
    sys.path.insert(0, here)
    try:
        factory: Callable[[], Any] = getattr(importlib.import_module(module_name), attribute)
        built = factory()
    except Exception as error:  # the user's code may raise anything
        raise ModelError(
            f"cannot build the model {name}: {type(error).__name__}: {error}; "
            "it must name a function without arguments, in a module that can be imported from here"
        ) from error
    finally:
        sys.path.remove(here)
    if not isinstance(built, nn.Module):
        raise ModelError(f"{name} returned a {type(built).__name__}, not a torch.nn.Module")
    classifier = built if isinstance(built, Classifier) else Classifier(built, name=attribute)
    _load(classifier, weights)
    return classifier
