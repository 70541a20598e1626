"""Image classifiers of Hugging Face's transformers, with the images that their processors make."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch

from advlens.errors import ModelError
from advlens.files import sha256
from advlens.models.classifier import Classifier
from advlens.models.sources import State, imagenet_classes, imagenet_synsets, resized

FILTERS: dict[int, Literal["bilinear", "bicubic"]] = {2: "bilinear", 3: "bicubic"}
"""Pillow's numbers for filters."""
SAME = 0.95
"""Share of a model's 1000 class names that are ImageNet's, if its classes are."""


def from_huggingface(
    name: str, *, state: State | None = None, size: int | None = None
) -> Classifier:
    """An image classifier by its name on the hub, or by the folder that it was saved to.

    Normalization, size, crop and filter are those of its image processor.

    Args:
        name: the name, or the path of a folder.
        state: outline of the weights to load; without it, the model's own are.
        size: height and width of its images, if they differ from the processor's.

    Raises:
        ModelError: transformers is not installed, or cannot build the model or its processor; or
            the processor does what advlens cannot.
    """
    try:
        transformers: Any = importlib.import_module("transformers")
    except ImportError as error:
        raise ModelError(
            f"hf:{name} needs transformers, which is not installed; "
            "pip install 'advlens[transformers]'"
        ) from error
    if name.startswith(("/", ".", "~")) and not Path(name).is_dir():
        raise ModelError(f"hf:{name} names the folder {name}, which does not exist")
    model: Any = transformers.AutoModelForImageClassification
    try:
        if state is None:
            network = model.from_pretrained(name, dtype=torch.float32)
        else:
            network = model.from_config(transformers.AutoConfig.from_pretrained(name))
        processor = transformers.AutoImageProcessor.from_pretrained(name).to_dict()
    except Exception as error:  # the library's: no such folder, no connection, a damaged file
        raise ModelError(
            f"cannot build hf:{name}: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
        ) from error
    labels = network.config.id2label
    classes: list[str] | None = [labels[number] for number in sorted(labels)]
    if classes is not None and classes[:2] == ["LABEL_0", "LABEL_1"]:  # transformers' own
        classes = None
    imagenet = classes is not None and _are_imagenet(classes)
    file = Path(name) / "model.safetensors"
    classifier = Classifier(
        network,
        name=name.rstrip("/").rpartition("/")[2],
        classes=imagenet_classes() if imagenet else classes,
        synsets=imagenet_synsets() if imagenet else None,
        weights=sha256(file) if file.is_file() and state is None else None,
        **_images(name, processor),
    )
    return classifier if size is None else resized(classifier, size)


def _are_imagenet(classes: list[str]) -> bool:
    """Whether these are ImageNet's classes in its order, each with one or all of its words."""
    own = imagenet_classes()
    same = sum(a.split(",")[0].lower() == b.lower() for a, b in zip(classes, own, strict=False))
    return len(classes) == len(own) and same >= SAME * len(own)


def _images(name: str, processor: Mapping[str, Any]) -> dict[str, Any]:
    """How image files become inputs, as arguments of `Classifier`."""
    given: dict[str, Any] = {}
    scale = processor.get("rescale_factor", 1 / 255) if processor.get("do_rescale", True) else 1.0
    if not 0.99 < scale * 255 < 1.01 or processor.get("rescale_offset"):
        raise ModelError(
            f"the image processor of hf:{name} does not scale pixels to [0, 1] (rescale_factor "
            f"{scale:.4g}); write a function that returns a Classifier with its mean and std"
        )
    if processor.get("do_normalize"):
        given |= {"mean": processor["image_mean"], "std": processor["image_std"]}
    whole = processor.get("size") or {}
    crop = processor.get("crop_size") if processor.get("do_center_crop") else None
    shorter = whole.get("shortest_edge") or min(whole.get("height", 0), whole.get("width", 0))
    side = crop or whole
    height, width = (side.get(key) or whole.get("shortest_edge") for key in ("height", "width"))
    if not shorter or not height or not width:
        raise ModelError(
            f"the image processor of hf:{name} does not make images of one size (size "
            f"{whole}, crop_size {crop}); write a function that returns a Classifier with its "
            "image_size"
        )
    if share := processor.get("crop_pct") if "shortest_edge" in whole and height < 384 else None:
        shorter = int(height / share)  # ConvNeXt's
    filtered = int(processor.get("resample", 2))
    if filtered not in FILTERS:
        raise ModelError(
            f"the image processor of hf:{name} resizes with Pillow's filter {filtered}, which is "
            "neither bilinear nor bicubic; write a function that returns a Classifier"
        )
    sizes = {"image_size": (height, width), "resize": max(shorter, min(height, width))}
    squeeze = "shortest_edge" not in whole
    if squeeze and whole["height"] * width != whole["width"] * height:
        raise ModelError(
            f"the image processor of hf:{name} squeezes images to {whole['height']}×"
            f"{whole['width']} and crops {height}×{width}, another shape; write a function that "
            "returns a Classifier"
        )
    return given | sizes | {"interpolation": FILTERS[filtered], "squeeze": squeeze}
