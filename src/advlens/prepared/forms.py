"""The forms in which a model can run: traced or not, folded or not, in either memory layout.

Every form must reproduce the model's own results. `trial` tests which of them do; nothing else is
assumed about a form.
"""

import copy
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils import fuse_conv_bn_weights

from advlens.errors import ModelError
from advlens.models.classifier import Classifier, to_evaluation
from advlens.models.outputs import logits_of
from advlens.prepared.programs import give_layers
from advlens.prepared.units import trace
from advlens.seeding import seeded

Pair = tuple[str, str, float]
WRAPPERS = {nn.DataParallel: "module", nn.parallel.DistributedDataParallel: "module"}
"""Modules that only pass on their network's output, and the attribute that holds the network."""


@dataclass(frozen=True)
class Form:
    """How a copy of a model runs.

    Attributes:
        traced: along a graph of its layers, which shows where the units are; otherwise by its own
            code, with hooks to read the units.
        folded: batch normalization is part of the convolutions (traced only).
        channels_last: in this memory layout; otherwise in torch's usual one.
    """

    traced: bool
    folded: bool
    channels_last: bool

    def __str__(self) -> str:
        left_out = [
            what
            for what, there in (
                ("tracing", self.traced),
                ("folding", self.folded or not self.traced),
                ("the channels-last layout", self.channels_last),
            )
            if not there
        ]
        return " and ".join(left_out)


FORMS = tuple(
    Form(traced, folded, channels_last)
    for traced, folded in ((True, True), (True, False), (False, False))
    for channels_last in (True, False)
)
"""All forms, from the fastest to the model's own code on a plain copy."""


class Entry(nn.Module):
    """A uniform wrapper for any model: images in, logits out."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.network = model
        self.training = getattr(model, "training", False)  # a frozen script has no mode

    def forward(self, images: Tensor) -> Any:
        return logits_of(self.network(images))

    def __str__(self) -> str:
        return model_name(self.network)


@dataclass
class Copy:
    """A frozen evaluation copy of a model in one form.

    Attributes:
        network: images → logits; its paths begin with `network.`, the model.
        graph: the graph of its layers, if it is traced.
        pairs: paths of each folded convolution and its normalization, and the latter's ε.
    """

    network: nn.Module
    graph: fx.Graph | None
    pairs: list[Pair]


def make_copy(model: nn.Module, form: Form) -> Copy:
    """A copy of a model; the model stays as it is.

    Raises:
        ModelError: torch cannot copy it, or its forward cannot be traced.
    """
    try:
        with torch.no_grad():  # otherwise a script's copy would depend on the original
            network: nn.Module = Entry(copy.deepcopy(model))
    except Exception as error:  # a user's class can raise anything
        raise ModelError(f"cannot copy {model_name(model)}: {error}") from error
    _unwrap(network)
    give_layers(network)
    to_evaluation(network)
    network.requires_grad_(False)
    graph: fx.Graph | None = None
    pairs: list[Pair] = []
    if form.traced:
        with seeded(0, torch.device("cpu")):  # a forward with random draws runs here
            graph = trace(network, name=model_name(model))
        if form.folded:
            pairs = _fold(network, graph)
        network = fx.GraphModule(network, graph)
    for module in network.modules() if form.channels_last else ():
        if isinstance(module, nn.Conv2d):
            module.to(memory_format=torch.channels_last)
    to_evaluation(network)
    return Copy(network, graph, pairs)


def look_through(model: nn.Module) -> nn.Module:
    """The network in a wrapper such as DataParallel or a compiled module; others unchanged."""
    while (inner := _inside(model)) is not None:
        model = inner
    return model


def _inside(module: nn.Module) -> nn.Module | None:
    attribute = WRAPPERS.get(type(module))
    if attribute is None and isinstance(getattr(module, "_orig_mod", None), nn.Module):
        attribute = "_orig_mod"  # the result of torch.compile
    return None if attribute is None else getattr(module, attribute)


def _unwrap(network: nn.Module) -> None:
    for name, child in network.named_children():
        inner = look_through(child)
        if inner is not child:
            setattr(network, name, inner)
        _unwrap(inner)


def tensors(model: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers by their path in a copy, even those that a state dict omits."""
    return {
        f"{path}.{name}".removeprefix("."): tensor
        for path, module in modules(model).items()
        for name, tensor in (*module._parameters.items(), *module._buffers.items())
        if tensor is not None
    }


def own_tensors(module: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers by name, those that are shared under each of theirs."""
    parameters = module.named_parameters(remove_duplicate=False)
    return {**dict(parameters), **dict(module.named_buffers(remove_duplicate=False))}


def modules(model: nn.Module) -> dict[str, nn.Module]:
    """All modules by their path in a copy of the model, which has no wrappers."""
    return dict(_walk("network", look_through(model)))


def _walk(path: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    yield path, module
    for name, child in module._modules.items():
        if child is not None:
            yield from _walk(f"{path}.{name}", look_through(child))


def _fold(network: nn.Module, graph: fx.Graph) -> list[Pair]:
    """Fold each batch normalization into the convolution that feeds only it; return the pairs."""
    layers: dict[Any, Any] = dict(network.named_modules())
    named = own_tensors(network)
    nodes = [node for node in graph.nodes if node.op == "call_module"]
    calls = Counter(node.target for node in nodes)
    pairs = []
    for node in nodes:
        source = node.all_input_nodes[0]
        if (
            source.op == "call_module"
            and _is_plain(layers[source.target], nn.Conv2d)
            and _is_plain(layers[node.target], nn.BatchNorm2d)
            and layers[node.target].running_mean is not None
            and len(source.users) == 1
            and calls[source.target] == calls[node.target] == 1
        ):
            conv, norm = str(source.target), str(node.target)
            eps = layers[norm].eps
            layers[conv].weight, layers[conv].bias = fused(named, conv, norm, eps)
            pairs.append((conv, norm, eps))
            node.replace_all_uses_with(source)
            graph.erase_node(node)
    return pairs


def _is_plain(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a layer does exactly what its type says: subclasses and hooks may change it."""
    return type(module) is kind and not (module._forward_hooks or module._forward_pre_hooks)


def fused(
    named: Mapping[str, Tensor], conv: str, norm: str, eps: float
) -> tuple[nn.Parameter, nn.Parameter]:
    """Weight and bias of a convolution that includes its batch normalization.

    Args:
        named: tensors of the network by name.
        conv: path of the convolution.
        norm: path of the normalization.
        eps: what the normalization adds to the variance.
    """
    return fuse_conv_bn_weights(
        named[f"{conv}.weight"],
        named.get(f"{conv}.bias"),
        named[f"{norm}.running_mean"],
        named[f"{norm}.running_var"],
        eps,
        named.get(f"{norm}.weight"),
        named.get(f"{norm}.bias"),
    )


def model_name(model: nn.Module) -> str:
    """The name of a model in notes."""
    return model.name if isinstance(model, Classifier) else type(model).__name__


def model_origin(model: nn.Module) -> str:
    """The name of a model in errors, with its weights file, which may be the cause."""
    file = model.file if isinstance(model, Classifier) else None
    return model_name(model) + (f" from {file}" if file else "")
