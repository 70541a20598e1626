"""Networks of torchvision, timm and Places365, with their images and classes."""

import importlib
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from typing import Any, Literal

from torch import Tensor, nn

from advlens.errors import ModelError, SettingsError
from advlens.models.classifier import Classifier
from advlens.models.matching import match
from advlens.words import perhaps

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PLACES365 = ("alexnet", "resnet18", "resnet50", "vgg16")
"""Networks with released Places365 weights for PyTorch."""

MAX_CLASSES = 100_000
"""Maximum number of classes in a weights file; ImageNet has 21 843 at most."""

State = Mapping[str, Tensor]


def torchvision_names() -> list[str]:
    """torchvision's classification networks."""
    from torchvision import models

    return [str(name) for name in models.list_models(module=models)]


def imagenet_synsets() -> tuple[str, ...]:
    """The WordNet ids of ImageNet's 1000 classes, in the order of the logits."""
    return _table("imagenet-wnids.txt")


def imagenet_classes() -> tuple[str, ...]:
    """A name for each of ImageNet's 1000 classes, in the order of the logits; two are "crane"."""
    from advlens.wordnet import lemmas

    return tuple(lemmas(wnid)[0] for wnid in imagenet_synsets())


def places365_classes() -> tuple[str, ...]:
    """The names of Places365's scene categories, in the order of the logits."""
    return _table("places365.txt")


def from_torchvision(
    spec: str, *, default: bool = False, state: State | None = None, size: int | None = None
) -> Classifier:
    """`NAME` or `NAME.PART` of torchvision, with the number of classes in the weights.

    Args:
        spec: the name, with or without a part.
        default: use torchvision's own weights.
        state: outline of the weights to load; without it, the network is for ImageNet.
        size: height and width of its images, if they differ from the released weights'.

    Raises:
        SettingsError: the network or part does not exist.
        ModelError: torchvision cannot build it, or cannot fetch its weights.
    """
    name, _, part = spec.partition(".")
    if name not in (names := torchvision_names()):
        raise SettingsError(
            f"torchvision:{name} is not known{perhaps(name, names, 5)}; advlens models lists them"
        )
    from torchvision import models

    enum = models.get_model_weights(name)
    release = enum.DEFAULT if default else next(iter(enum))
    images = release.transforms()
    crop, resize = images.crop_size[0], images.resize_size[0]
    given: dict[str, Any] = {}
    if name.startswith("vit_"):
        given["image_size"] = size or crop
    elif name.startswith("maxvit"):
        given["input_size"] = (size or crop,) * 2
    if default:
        given["weights"] = "DEFAULT"
    elif name in ("googlenet", "inception_v3"):
        given["init_weights"] = True

    def build(classes: int) -> Any:
        return models.get_model(name, **given, **({} if default else {"num_classes": classes}))

    network, classes = _fitting(f"torchvision:{name}", build, 1000, None if part else state)
    mean, std = tuple(images.mean), tuple(images.std)
    if hasattr(network, "transform_input"):
        network.transform_input = False  # torchvision's change of normalization; ours replaces it
        mean = std = (0.5, 0.5, 0.5)
    if part:
        parts = dict(network.named_children())
        if part not in parts:
            raise SettingsError(f"{name} has no part {part!r}; there are {', '.join(parts)}")
        network = nn.Sequential(OrderedDict({part: parts[part]}))  # names stay as in the whole
    return _classifier(
        network,
        spec,
        classes=0 if part else classes,
        mean=mean,
        std=std,
        image_size=crop,
        resize=resize,
        interpolation=images.interpolation.value,
        size=size,
        weights="torchvision DEFAULT" if default else None,
    )


def from_places365(name: str, *, state: State | None = None, size: int | None = None) -> Classifier:
    """A torchvision network as released for Places365.

    AlexNet and the ResNets are those of CSAILVision/places365. VGG-16, which that repository has
    for Caffe only, comes from davidbau/dissect; its layers have their names in the paper (`conv1_1`
    … `fc8a`). All take RGB images normalized as ImageNet's.
    """
    from torchvision import models

    classes = places365_classes()
    network = models.get_model(name, num_classes=len(classes))
    if name == "vgg16" and (state is None or any("conv1_1" in key for key in state)):
        network.features = _named(network.features, _VGG16_FEATURES)
        network.classifier = _named(network.classifier, _VGG16_CLASSIFIER)
    classifier = _classifier(
        network,
        f"places365-{name}",
        classes=len(classes),
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        image_size=224,
        resize=256,
        interpolation="bilinear",
        squeeze=True,
        size=size,
        weights=None,
    )
    classifier.classes = classes
    return classifier


_VGG16_FEATURES = [
    name
    for block, count in enumerate((2, 2, 3, 3, 3), start=1)
    for name in (
        *(f"{kind}{block}_{n}" for n in range(1, count + 1) for kind in ("conv", "relu")),
        f"pool{block}",
    )
]
_VGG16_CLASSIFIER = ["fc6", "relu6", "drop6", "fc7", "relu7", "drop7", "fc8a"]


def _named(layers: nn.Module, names: Sequence[str]) -> nn.Sequential:
    return nn.Sequential(OrderedDict(zip(names, layers.children(), strict=True)))


def from_timm(
    name: str, *, default: bool = False, state: State | None = None, size: int | None = None
) -> Classifier:
    """`NAME` or `NAME.TAG` of timm, with the number of classes in the weights.

    Args:
        name: the name; a tag sets the images it is for.
        default: fetch timm's weights for it.
        state: outline of the weights to load; without it, the classes are those of timm's
            weights, or ImageNet's if these have none.
        size: height and width of its images, if they differ from timm's.

    Raises:
        SettingsError: the network does not exist.
        ModelError: timm is not installed, or cannot build the network or fetch its weights.
    """
    try:
        timm: Any = importlib.import_module("timm")
    except ImportError as error:
        raise ModelError(
            f"timm:{name} needs timm, which is not installed; pip install 'advlens[timm]'"
        ) from error

    if ":" in name or not timm.is_model(name):
        near = perhaps(name.partition(".")[0], timm.list_models(), 5)
        raise SettingsError(f"timm:{name} is not known{near}; timm.list_models() lists them")
    try:
        cfg = timm.get_pretrained_cfg(name)
    except RuntimeError as error:  # raised for an unknown tag
        raise SettingsError(f"timm:{name} is not known: {error} Leave the tag out") from error
    if default and not (cfg and cfg.num_classes):
        raise ModelError(f"timm has no classifier's weights for {name}; give a file after @")

    def build(classes: int) -> Any:
        given: dict[str, Any] = {"pretrained": default, "num_classes": classes}
        try:  # only networks made for one size take it
            return timm.create_model(name, **given, **({"img_size": size} if size else {}))
        except TypeError:
            return timm.create_model(name, **given)

    classes = (cfg.num_classes if cfg else 0) or 1000
    network, classes = _fitting(f"timm:{name}", build, classes, state)
    images = timm.data.resolve_data_config(model=network)
    channels, height, width = images["input_size"]
    if channels != 3:
        raise ModelError(f"timm:{name} takes {channels}×{height}×{width}, not RGB images")
    return _classifier(
        network,
        name,
        classes=classes,
        mean=images["mean"],
        std=images["std"],
        image_size=(height, width),
        resize=int(min(height, width) / images["crop_pct"]),
        interpolation=images["interpolation"],
        squeeze=images["crop_mode"] == "squash",
        size=size,
        weights=f"timm {network.pretrained_cfg['architecture']}.{network.pretrained_cfg['tag']}"
        if default
        else None,
    )


def resized(classifier: Classifier, size: int) -> Classifier:
    """A classifier for images of another size; the cropped share stays the same."""
    shorter = min(classifier.image_size, classifier.image_width)
    classifier.resize = max(size, round(classifier.resize * size / shorter))
    classifier.image_size = classifier.image_width = size
    return classifier


def _classifier(
    network: nn.Module,
    name: str,
    *,
    classes: int,
    image_size: int | tuple[int, int],
    size: int | None,
    interpolation: Literal["bilinear", "bicubic"],
    **given: Any,
) -> Classifier:
    named = classes == 1000
    classifier = Classifier(
        network,
        name=name,
        image_size=image_size,
        interpolation=interpolation,
        classes=imagenet_classes() if named else None,
        synsets=imagenet_synsets() if named else None,
        **given,
    )
    return classifier if size is None else resized(classifier, size)


def _fitting(
    name: str, build: Callable[[int], Any], classes: int, state: State | None
) -> tuple[Any, int]:
    """The network with the number of classes in the weights, and that number."""
    try:
        network = build(classes)
        count = classes if state is None else _classes_of(state, network.state_dict(), classes)
        return (network if count == classes else build(count)), count
    except Exception as error:  # the library's: an unknown tag, no connection, a wrong size
        raise ModelError(
            f"cannot build {name}: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
        ) from error


def _classes_of(state: State, own: State, classes: int) -> int:
    """The number of classes in weights for a network whose layers end in `classes` outputs.

    Every such layer must have this number, and the weights must hold all of them in full: a bias
    alone would cost its file little and the network much. Otherwise the error comes when the
    weights are loaded into the network of `classes` outputs.
    """
    try:
        tensors = match(state, own).tensors
    except ValueError:
        return classes
    last = {name: t.shape[1:] for name, t in own.items() if t.ndim and len(t) == classes}
    sizes = {
        len(tensors[name])
        if name in tensors and tensors[name].ndim and tensors[name].shape[1:] == rest
        else 0
        for name, rest in last.items()
    }
    return sizes.pop() if len(sizes) == 1 and 0 < min(sizes) <= MAX_CLASSES else classes


def _table(name: str) -> tuple[str, ...]:
    text = (resources.files("advlens") / "tables" / name).read_text("utf-8")
    return tuple(re.split(r"\s+", text.strip()))
