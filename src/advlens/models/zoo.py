"""Models by specification: a name, then `:SIZE` for an image size, then `@FILE` for weights."""

import re
import sys
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import nn

from advlens.distributed import local_device
from advlens.errors import ModelError, SettingsError
from advlens.files import sha256
from advlens.models.classifier import Classifier, to_evaluation
from advlens.models.huggingface import from_huggingface
from advlens.models.matching import Matched
from advlens.models.resnet import CifarResNet
from advlens.models.robustbench import from_robustbench
from advlens.models.sources import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    PLACES365,
    from_places365,
    from_timm,
    from_torchvision,
    resized,
    torchvision_names,
)
from advlens.models.weights import load_weights, outline, save_weights
from advlens.plugins import from_here, named
from advlens.words import perhaps

CIFAR10_CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
CIFAR10_MEAN, CIFAR10_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)

_CIFAR_RESNETS: dict[str, tuple[tuple[int, ...], tuple[int, ...], Any]] = {
    "resnet14": ((2, 2, 2), (32, 64, 128), "pad"),
    "resnet20": ((3, 3, 3), (16, 32, 64), "pad"),
    "resnet32": ((5, 5, 5), (16, 32, 64), "pad"),
    "resnet44": ((7, 7, 7), (16, 32, 64), "pad"),
    "resnet56": ((9, 9, 9), (16, 32, 64), "pad"),
    "resnet18": ((2, 2, 2, 2), (64, 128, 256, 512), "projection"),
}
_PACKAGED = {
    "cifar10-standard": "resnet14",
    "cifar10-l2": "resnet14",
    "cifar10-consistency": "resnet14",
    "cifar10-reference": "resnet20",
}
LIBRARIES = {"torchvision": from_torchvision, "timm": from_timm}
OTHERS = {"hf": from_huggingface, "robustbench": from_robustbench}


def load_model(
    spec: str,
    *,
    device: str | torch.device = "cpu",
    seed: int = 0,
    ignore_keys: Sequence[str] = (),
    head: str | None = None,
) -> Classifier:
    """Build a classifier in evaluation mode.

    Args:
        spec: a packaged model (`cifar10-standard`, `cifar10-l2`, `cifar10-consistency`, or
            `cifar10-reference`, whose features define distances), a network for 32×32 images
            (`resnet14`, `resnet18`, `resnet20` …), `torchvision:NAME`, `torchvision:NAME.PART` for
            a part that needs no others, such as `alexnet.features`, `timm:NAME`, `places365-NAME`
            for AlexNet, VGG-16 and ResNets on scenes, `hf:NAME` or `hf:DIR` for an image
            classifier of Hugging Face's transformers, `robustbench:DATA/THREAT/NAME` for a network
            of RobustBench's zoo, or `package.module:factory` for a function
            without arguments that returns a module from pixels in [0, 1] to logits (or a
            `Classifier`). A `:SIZE` after it sets the height and width of the images. `@FILE` loads
            weights: safetensors, or any torch.save file with a state dict in it. A torchvision or
            timm name takes the number of classes in the file, and `@DEFAULT` loads the library's
            own weights; without `@`, weights are random.
        device: the device of the model.
        seed: the seed of random weights.
        ignore_keys: patterns such as "loss.*" (`fnmatch`) for what to leave out of the weights
            file: tensors that the network does not need, or dictionaries of tensors, by their names
            there. Counters that no output needs are always left out.
        head: the part of the network's output that holds the logits, see `Classifier`.

    Raises:
        SettingsError: the name or device does not exist, the spec is not a string, or `ignore_keys`
            is one string.
        ModelError: the factory or library fails, returns something else, or is not installed.
        CheckpointError: the weights file does not fit.
    """
    place = local_device(str(device))  # before anything is read
    classifier = _loaded(spec, seed, ignore_keys)[0].to(place)
    if head is not None:
        classifier.head = head
    given = {"seed": seed, "ignore_keys": ignore_keys, "head": head}
    others = [f", {name}={value!r}" for name, value in given.items() if value]
    classifier.made_by = f"advlens.load_model({spec!r}{''.join(others)})"
    return classifier


def convert_model(
    spec: str, path: Path, *, ignore_keys: Sequence[str] = ()
) -> tuple[Classifier, Matched | None]:
    """Write the weights that a specification names as safetensors, with mean and std.

    Returns:
        The classifier, and what was found in its weights file, if it names one.

    Raises:
        AdvlensError: as `load_model` and `save_weights`.
    """
    classifier, matched = _loaded(spec, 0, ignore_keys)
    save_weights(classifier, path)
    return classifier, matched


def _loaded(spec: str, seed: int, ignore_keys: Sequence[str]) -> tuple[Classifier, Matched | None]:
    if not isinstance(spec, str):
        raise SettingsError(
            "a model is loaded by its name, such as 'cifar10-l2' or 'package.module:factory', not "
            f"by {type(spec).__name__}; a torch.nn.Module needs no loading"
        )
    name, _, weights = spec.partition("@")
    name, size = _sized(name)
    kind, _, rest = name.partition(":")
    foreign = kind in LIBRARIES
    if name in _PACKAGED and weights:
        raise SettingsError(
            f"{name} has its own weights; for others give {_PACKAGED[name]}@{weights}"
        )
    default = foreign and weights == "DEFAULT"
    file = Path(weights).expanduser() if weights and not default else None
    with torch.random.fork_rng(devices=[]), resources.as_file(_pretrained(name)) as packaged:
        torch.manual_seed(seed)
        file = packaged if name in _PACKAGED else file
        state = None if file is None else outline(file, ignore_keys=ignore_keys)
        if foreign:
            classifier = LIBRARIES[kind](rest, default=default, state=state, size=size)
        elif kind in OTHERS:
            classifier = OTHERS[kind](rest, state=state, size=size)
        elif name.removeprefix("places365-") in PLACES365 and name.startswith("places365-"):
            classifier = from_places365(name.removeprefix("places365-"), state=state, size=size)
        else:
            classifier = _factory(name) if ":" in name else _cifar_resnet(name)
            classifier = classifier if size is None else resized(classifier, size)
        matched = None
        if file is not None:
            matched = load_weights(classifier, file, ignore_keys=ignore_keys)
            classifier.file, classifier.weights = file, sha256(file)
            if name not in _PACKAGED:
                # a training run names all of its weights alike: the folder tells them apart
                ours = file.stem in ("model", "best")
                classifier.name = file.absolute().parent.name if ours else file.stem
    to_evaluation(classifier)
    return classifier, matched


def _sized(name: str) -> tuple[str, int | None]:
    """A name without its `:SIZE`, and that size."""
    if (sized := re.fullmatch(r"(.+):(\d{1,5})", name)) is None:
        return name, None
    if (size := int(sized[2])) < 1:
        raise SettingsError(f"{name}: images have a size of at least 1 pixel, as in {sized[1]}:64")
    return sized[1], size


def _pretrained(name: str) -> Any:
    return resources.files("advlens.models") / "pretrained" / f"{name}.safetensors"


def list_models() -> list[str]:
    """The names that `load_model` knows, except timm's and users' own."""
    return [
        *_PACKAGED,
        *_CIFAR_RESNETS,
        *(f"places365-{name}" for name in PLACES365),
        *(f"torchvision:{name}" for name in torchvision_names()),
    ]


def network_of(spec: str) -> str:
    """The network of a specification without its weights, for other weights of this network."""
    name = spec.partition("@")[0]
    return _PACKAGED.get(name, name)


def _cifar_resnet(name: str) -> Classifier:
    from advlens.wordnet import CIFAR10_SYNSETS

    architecture = _PACKAGED.get(name, name)
    if architecture not in _CIFAR_RESNETS:
        known = list_models()
        same = [each for each in known if each.endswith((f":{name}", f"-{name}"))]
        near = f"; perhaps you meant {' or '.join(same)}" if same else perhaps(name, known, 5)
        raise SettingsError(
            f"no model named {name!r}{near}; advlens models lists them, and there are timm:NAME "
            "and package.module:factory"
        )
    network = CifarResNet(*_CIFAR_RESNETS[architecture])
    # The public weights of depths 20, 32, 44 and 56 were trained with ImageNet's statistics; the
    # packaged files hold their own.
    public = architecture in ("resnet20", "resnet32", "resnet44", "resnet56")
    mean, std = (IMAGENET_MEAN, IMAGENET_STD) if public else (CIFAR10_MEAN, CIFAR10_STD)
    return Classifier(
        network,
        name=name,
        mean=mean,
        std=std,
        classes=CIFAR10_CLASSES,
        synsets=tuple(CIFAR10_SYNSETS.values()),
        image_size=32,
        resize=32,
    )


def _factory(name: str) -> Classifier:
    module_name, _, attribute = name.partition(":")
    try:
        with from_here():
            built = named(module_name, attribute)()
    except Exception as error:  # user code can raise anything
        raise ModelError(
            f"cannot build the model {name}: {type(error).__name__}: {error}; it must name a "
            "function without arguments, in a module that can be imported from here"
            f"{_meant(module_name, attribute)}"
        ) from error
    if not isinstance(built, nn.Module):
        mend = "; return its .module()" if hasattr(built, "module") else ""  # of torch.export
        raise ModelError(
            f"{name} returned an object of type {type(built).__name__}, not a torch.nn.Module{mend}"
        )
    return built if isinstance(built, Classifier) else Classifier(built, name=attribute)


def _meant(module: str, attribute: str) -> str:
    """What an unknown module or function may have meant, as the end of a sentence, or nothing."""
    if module in sys.modules:
        known = vars(sys.modules[module])
        return "" if attribute in known else perhaps(attribute, known)
    files = (*Path().glob("*.py"), *Path().glob("*/*.py"))
    modules = (".".join(file.with_suffix("").parts) for file in files)
    near = perhaps(module, ["torchvision", "timm", *modules])
    return near and f"{near}:{attribute}"
