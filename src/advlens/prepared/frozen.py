"""The frozen evaluation copy of a model that every method runs on.

Batch normalization is folded into the convolutions, tensors are channels last, parameters take no
gradient: the same logits and input gradients in about three quarters of the time. The model itself
is not touched.
"""

import copy
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.utils import fuse_conv_bn_weights

from advlens.arrays import Images, Logits
from advlens.errors import ModelError
from advlens.prepared.geometry import Fields, receptive_fields
from advlens.prepared.reading import (
    kept_input_of_last_linear,
    kept_outputs,
    read_by_last_linear,
    reading,
)
from advlens.prepared.units import (
    NO_REPRESENTATION,
    check_layer,
    last,
    layer_name,
    responses,
    trace,
)


class Prepared(nn.Module):
    """What `prepare` returns: pixels in [0, 1] → logits, and the units on the way.

    Attributes:
        layers: name of each layer of units → their number, in the order of execution.
        last: the layer whose units are computed last; empty where there is none.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype):
        super().__init__()
        self.dtype = dtype
        self._network: nn.Module
        self._graph: fx.Graph | None
        try:
            network = copy.deepcopy(model).eval().requires_grad_(False)
        except RuntimeError as error:
            raise ModelError(f"cannot copy {type(model).__name__}: {error}") from error
        try:
            self._graph = trace(network)
        except ModelError:
            self._graph = None
            self._network, self._pairs = network, []
            paths = [name for name, m in network.named_modules() if isinstance(m, nn.Conv2d)]
            final = paths[-1] if paths else ""
        else:
            self._pairs = _fold(network, self._graph)
            self._network = fx.GraphModule(network, self._graph)
            self._nodes = responses(network, self._graph)
            paths = list(self._nodes)
            final = last(self._nodes) if paths else ""
        self._readings: dict[object, nn.Module] = {}
        self._network.to(dtype=dtype)
        for module in self._network.modules():
            if isinstance(module, nn.Conv2d):
                module.to(memory_format=torch.channels_last)
        self._paths = {layer_name(model, path): path for path in paths}
        self.last = layer_name(model, final)
        modules: dict[str, Any] = dict(self._network.named_modules())
        self.layers: dict[str, int] = {
            name: getattr(modules[path], "out_channels", None) or modules[path].out_features
            for name, path in self._paths.items()
        }
        folded, current = {conv for conv, _ in self._pairs}, _tensors(model)
        self._copied = {
            name: tensor
            for name, tensor in _tensors(self._network).items()
            if name in current and name.rpartition(".")[0] not in folded
        }
        self.eval()

    @property
    def folded(self) -> bool:
        """Whether the model could be traced, so that batch normalization is folded."""
        return self._graph is not None

    def forward(self, images: Images) -> Logits:
        logits: Logits = self._network(self._cast(images)).float()
        return logits

    def _cast(self, images: Images) -> Images:
        return images.to(dtype=self.dtype, memory_format=torch.channels_last)

    def record(self, images: Images) -> tuple[Logits, dict[str, Tensor]]:
        """Logits, and for each layer the units' responses: spatial maximum, ≥ 0, shape N×units."""
        if self._graph is not None:
            if None not in self._readings:
                nodes = list(self._nodes.values())
                self._readings[None] = reading(
                    self._network, self._graph, nodes, _maximum, logits=True
                )
            logits, *maxima = self._readings[None](self._cast(images))
            return logits.float(), dict(zip(self.layers, maxima, strict=True))
        with kept_outputs(self._network, self._paths, _maximum) as kept:
            logits = self(images)
        for name, units in self.layers.items():
            if name not in kept:  # a branch that these images did not take
                kept[name] = logits.new_zeros(len(images), units)
        return logits, {name: kept[name] for name in self.layers}

    def features(self, images: Images, layer: str | None = None) -> Tensor:
        """Maps N×units×H×W of one layer (default: the last), computing nothing behind it.

        Raises:
            ModelError: no such layer (the layers named), or one that these images do not reach.
        """
        name = self.last if layer is None else layer
        return self.maps(images, [name], logits=False)[1][name]

    def maps(
        self, images: Images, layers: Sequence[str], *, logits: bool = True
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        """What the model returns, and the maps N×units×H×W of several layers, in one pass.

        Without `logits`, None stands in their place and nothing behind the last layer is computed.

        Raises:
            ModelError: no such layer (the layers named), one that these images do not reach, or
                one of an MLP whose tokens are not patches of the image.
        """
        for name in layers:
            check_layer(name, self.layers)
        if self._graph is not None:
            key = (*layers, logits)
            if key not in self._readings:
                nodes = [self._nodes[self._paths[name]] for name in layers]
                self._readings[key] = reading(
                    self._network, self._graph, nodes, F.relu, logits=logits
                )
            found = self._readings[key](self._cast(images))
            named = dict(zip(layers, found[len(found) - len(layers) :], strict=True))
            for name, values in named.items():
                if values.shape[2] == 1 < values.shape[3] and self._is_hidden(name):
                    raise ModelError(
                        f"the tokens that the layer {name} works on have no place in the image, "
                        "so there are no maps of its units; choose another layer"
                    )
            return (found[0].float() if logits else None), named
        with kept_outputs(self._network, {n: self._paths[n] for n in layers}, F.relu) as kept:
            found = self(images)
        for name in layers:
            if name not in kept:
                raise ModelError(f"the layer {name} is not run on these images; choose another")
        return (found if logits else None), {name: kept[name] for name in layers}

    def _is_hidden(self, layer: str) -> bool:
        return isinstance(self._network.get_submodule(self._paths[layer]), nn.Linear)

    def fields(self, layer: str) -> Fields | None:
        """Where the receptive fields of a layer's units lie, if the model's graph tells.

        Raises:
            ModelError: no such layer (the layers named).
        """
        check_layer(layer, self.layers)
        if self._graph is None:
            return None
        return receptive_fields(self._network, self._graph, self._nodes[self._paths[layer]])

    def representation(self, images: Images) -> Tensor:
        """What the last linear layer reads the logits from: N×d, after global pooling.

        Raises:
            ModelError: the model has no linear layer.
        """
        if self._graph is not None and (node := read_by_last_linear(self._network, self._graph)):
            if "" not in self._readings:  # no layer is named so
                self._readings[""] = reading(
                    self._network, self._graph, [node], torch.Tensor.float, logits=False
                )
            values: Tensor = self._readings[""](self._cast(images))[0]
            return values
        with kept_input_of_last_linear(self._network) as kept:
            self(images)
        if not kept:
            raise ModelError(NO_REPRESENTATION)
        return kept[-1].float()

    def update(self, model: nn.Module) -> None:
        """Take over the current weights of the model that this copy was prepared from."""
        current = _tensors(model)
        with torch.no_grad():
            for name, tensor in self._copied.items():
                tensor.copy_(current[name])
            for conv, norm in self._pairs:
                target: Any = self._network.get_submodule(conv)
                weight, bias = _fused(model.get_submodule(conv), model.get_submodule(norm))
                target.weight.copy_(weight)
                target.bias.copy_(bias)


def prepare(model: nn.Module, *, dtype: torch.dtype = torch.float32) -> Prepared:
    """The frozen evaluation copy of a model; a copy given is returned as it is.

    Raises:
        ModelError: a model that torch cannot copy.
    """
    return model if isinstance(model, Prepared) else Prepared(model, dtype)


def _fold(network: nn.Module, graph: fx.Graph) -> list[tuple[str, str]]:
    """Fold each batch normalization into the convolution that feeds only it; return their names."""
    modules: dict[Any, Any] = dict(network.named_modules())
    nodes = [node for node in graph.nodes if node.op == "call_module"]
    calls = Counter(node.target for node in nodes)
    pairs = []
    for node in nodes:
        source = node.all_input_nodes[0]
        if (
            source.op == "call_module"
            and _is_plain(modules[source.target], nn.Conv2d)
            and _is_plain(modules[node.target], nn.BatchNorm2d)
            and modules[node.target].running_mean is not None
            and len(source.users) == 1
            and calls[source.target] == calls[node.target] == 1
        ):
            conv = modules[source.target]
            conv.weight, conv.bias = _fused(conv, modules[node.target])
            pairs.append((str(source.target), str(node.target)))
            node.replace_all_uses_with(source)
            graph.erase_node(node)
    return pairs


def _is_plain(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a layer does just what its type says: subclasses and hooks may do something else."""
    return type(module) is kind and not (module._forward_hooks or module._forward_pre_hooks)


def _fused(conv: Any, norm: Any) -> tuple[nn.Parameter, nn.Parameter]:
    """Weight and bias of a convolution that does its batch normalization's work as well."""
    return fuse_conv_bn_weights(
        conv.weight,
        conv.bias,
        norm.running_mean,
        norm.running_var,
        norm.eps,
        norm.weight,
        norm.bias,
    )


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers by name, also those that a state dict leaves out."""
    parameters = module.named_parameters(remove_duplicate=False)
    return {**dict(parameters), **dict(module.named_buffers(remove_duplicate=False))}


def _maximum(maps: Tensor) -> Tensor:
    return maps.amax(dim=(2, 3)).clamp_(min=0).float()
