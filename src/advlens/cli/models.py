"""The output of `advlens models`: what it shows of a model, and of weights that it converts."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from advlens.errors import AdvlensError
from advlens.models import Classifier, convert_model, load_model
from advlens.prepared import Prepared, prepare

SHOWN = 10
"""Number of classes that are named when there are more."""


def show_model(spec: str, *, ignore_keys: Sequence[str] = ()) -> str:
    """Describe a model to people: weights, images, classes, representation, layers of units.

    Raises:
        AdvlensError: as `load_model`.
    """
    classifier = load_model(spec, ignore_keys=ignore_keys)
    prepared = prepare(classifier)
    lines = {
        "name": classifier.name,
        "parameters": f"{sum(p.numel() for p in classifier.parameters()):,}",
        "weights": classifier.weights or "random",
        "image size": f"{_size(classifier)}, cropped from a "
        f"{'whole image' if classifier.squeeze else 'shorter side'} of {classifier.resize}, "
        f"{'squeezed' if classifier.squeeze else 'resized'} {classifier.interpolation}",
        "normalization": _normalization(classifier),
        "classes": _classes(classifier),
        "representation": _representation(classifier, prepared),
    }
    rows = [f"{key:<15}{value}" for key, value in lines.items()]
    if not prepared.traced:  # hidden units are found as it runs
        with contextlib.suppress(AdvlensError):
            sides = classifier.image_size, classifier.image_width
            prepared.check(torch.rand(2, 3, *sides))
    for layer, units in prepared.layers.items():
        hidden = len(_weight(classifier.network, layer).shape) == 2
        kind = "hidden units of an MLP" if hidden else "channels of a convolution"
        rows.append(f"{'layer':<15}{layer}, {units} units: {kind}")
    rows += [f"{'note':<15}{note}" for note in prepared.notes]
    return "\n".join(rows)


def convert(spec: str, out: Path, *, ignore_keys: Sequence[str] = ()) -> str:
    """Write a model's weights as safetensors; say what was read, dropped and derived.

    Raises:
        AdvlensError: as `convert_model`.
    """
    classifier, match = convert_model(spec, out, ignore_keys=ignore_keys)
    kept = len(classifier.network.state_dict())
    rows = [f"read           {kept if match is None else len(match.tensors)} tensors"]
    if match is not None:
        rows[0] += f", named {match.prefix}… in the file" if match.prefix else ""
        rows += [f"dropped        {copy}…, an equal copy" for copy in match.copies]
        rows += [f"dropped        {name}, a counter" for name in match.counters]
        rows += [f"found          {name}" for name in match.normalizers]
    rows += [f"normalization  {_normalization(classifier)}", f"written        {out}"]
    return "\n".join(rows)


def _size(classifier: Classifier) -> str:
    height, width = classifier.image_size, classifier.image_width
    return str(height) if height == width else f"{height}×{width}"


def _normalization(classifier: Classifier) -> str:
    mean, std = (
        ", ".join(f"{value:.4g}" for value in values.flatten().tolist())
        for values in (classifier.mean, classifier.std)
    )
    return f"mean {mean}; std {std}"


def _classes(classifier: Classifier) -> str:
    names = classifier.classes or classifier.synsets
    if names is None:
        return "unknown"
    if len(names) <= 2 * SHOWN:
        return ", ".join(names)
    return f"{len(names)}: {', '.join(names[: SHOWN - 1])} … {names[-1]}"


def _representation(classifier: Classifier, prepared: Prepared) -> str:
    if not prepared.traced:
        return "the input of the last linear layer to be run"
    layer = prepared.last_linear
    if layer is None:
        return "none: the model has no linear layer"
    return f"the {_weight(classifier.network, layer).shape[1]} inputs of {layer}"


def _weight(network: nn.Module, layer: str) -> Any:
    """The weight of a layer; in a program of torch.export it lies in a module without code."""
    return network.get_submodule(layer).weight
