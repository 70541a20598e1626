"""Where a network's units are, and how they are read.

A *unit* is a channel of a convolution's output after the non-linearity that follows it, through
normalization and a residual addition. If no non-linearity follows directly, or if another
convolution already owns it (a projection shortcut), the unit is the positive part of the normalized
output before the addition.

In vision transformers, ConvNeXt and similar networks, the hidden units of each block's MLP are
units as well: the outputs, after their non-linearity, of a linear layer whose result returns to a
sum. Their maps have the layout of the image: a token's position is its patch's; tokens before the
patches (class, registers) have no position and are left out. The linear layers of a head behind the
last sum do not count, nor do linear layers without a non-linearity (attention).

In a gated MLP the units are the products that the next linear layer reads. Where several layers, or
parts of one, make them, they are named by the layer that reads them.

In a model that cannot be traced, hidden units are found as it runs (`watching`), and other units
are only the positive parts of normalized convolutions.
"""

import math
from collections.abc import Collection, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from advlens.errors import ModelError
from advlens.models.classifier import Classifier
from advlens.prepared.reading import (
    NORMS,
    kept_input_of_last_linear,
    kept_outputs,
    read_by_last_linear,
    reading,
)

NO_REPRESENTATION = "the model has no linear layer, so no representation before it"

_TRANSPARENT = (*NORMS, nn.Identity, nn.Dropout, nn.Dropout2d)
_ACTIVATIONS = (
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.PReLU,
    nn.ELU,
    nn.SELU,
    nn.CELU,
    nn.GELU,
    nn.SiLU,
    nn.Mish,
    nn.Hardswish,
    nn.Softplus,
    nn.Sigmoid,
    nn.Tanh,
)
ACTIVATIONS = {
    "relu",
    "relu6",
    "hardtanh",  # the name of relu6 in programs of torch.export
    "leaky_relu",
    "prelu",
    "elu",
    "selu",
    "celu",
    "gelu",
    "silu",
    "mish",
    "hardswish",
    "softplus",
    "sigmoid",
    "tanh",
}
TRANSPARENT = {
    "dropout",
    "feature_dropout",
    "layer_norm",
    "batch_norm",
    "group_norm",
    "instance_norm",
    "rms_norm",
}
SAME_PLACE = (*_TRANSPARENT, *_ACTIVATIONS)
"""Layers whose output at a position belongs to the same image position as their input there."""
PRODUCTS = {"mul", "imul", "multiply"}
HALVES = {"chunk", "split", "tensor_split", "unbind", "getitem", "__getitem__"}
GLU = {"glu"}
"""Names of functions and methods (`called`): non-linearities, those whose output belongs to the
input's place, and those between the linear layers of a gated MLP."""
UNITS = "units"
_SUMS = {"add", "iadd"}
_ABOUT = ("shape", "dtype", "device")
_MOST_PREFIX_TOKENS = 16
"""Maximum number of class, distillation and register tokens in any published transformer."""


class _Tracer(fx.Tracer):
    """Keeps every layer whole, including subclasses of convolutions defined outside torch."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        whole = (nn.Conv2d, nn.Linear, *_TRANSPARENT, *_ACTIVATIONS)
        return isinstance(m, whole) or super().is_leaf_module(m, module_qualified_name)


def trace(model: nn.Module, *, name: str | None = None) -> fx.Graph:
    """The graph of a model's layers.

    The model's `view` becomes `reshape`, which supports channels-last tensors.

    Raises:
        ModelError: control flow cannot be traced.
    """
    try:
        graph = _Tracer().trace(model)
    except Exception as error:  # fx can raise anything on control flow that it cannot follow
        raise ModelError(
            f"cannot trace the forward of {name or type(model).__name__} ({error}); "
            "take control flow that depends on the images out of it"
        ) from error
    for node in graph.nodes:
        if node.target is torch.ops.aten.view.default:
            node.target = torch.ops.aten.reshape.default
        by_type = any(isinstance(value, torch.dtype) for value in node.args)  # another kind of view
        if node.op == "call_method" and node.target == "view" and not by_type:
            node.target = "reshape"
    return graph


def live_features(model: nn.Module, layer: str | None = None, *, traced: bool = True) -> nn.Module:
    """The model itself as a module with shared parameters and modes: images → (logits, features).

    The features are those of `Prepared.features` or `Prepared.representation`, with gradients to
    the parameters. Tracing takes some milliseconds: keep the result as long as the model stays in
    one mode.

    Args:
        model: images → logits.
        layer: name of a layer of units, for its maps N×units×H×W (default: the last one), or
            "representation", for the input of the last linear layer, N×d.
        traced: run along the model's graph; otherwise, or without a graph, by hooks.

    Raises:
        ModelError: the layer does not exist (the message lists the layers).
    """
    if not traced:
        return _Hooked(model, layer)
    try:
        graph = trace(model)
    except ModelError:
        return _Hooked(model, layer)
    if layer == "representation":
        node = read_by_last_linear(model, graph)
        if node is None:
            raise ModelError(NO_REPRESENTATION)
        return reading(model, graph, [node], torch.clone, logits=True)
    nodes = {layer_name(model, path): node for path, node in responses(model, graph).items()}
    name = _chosen(model, layer, nodes, last(nodes))
    return reading(model, graph, [nodes[name]], F.relu, logits=True)


class _Hooked(nn.Module):
    """`live_features` of a model that runs its own code."""

    def __init__(self, model: nn.Module, layer: str | None):
        super().__init__()
        self.model = model
        self.path = ""
        if layer != "representation":
            paths = {
                layer_name(model, path): path
                for path, module in model.named_modules()
                if isinstance(module, nn.Conv2d)
            }
            self.path = paths[_chosen(model, layer, paths, list(paths)[-1] if paths else "")]

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        if not self.path:
            with kept_input_of_last_linear(self.model) as inputs:
                logits = self.model(images)
            if not inputs:
                raise ModelError(NO_REPRESENTATION)
            return logits, inputs[-1]
        with kept_outputs(self.model, {"maps": self.path}, F.relu) as maps:
            logits = self.model(images)
        if not maps:
            raise ModelError(f"the layer {self.path} is not run on these images; choose another")
        return logits, maps["maps"]


def _chosen(model: nn.Module, layer: str | None, layers: Collection[str], final: str) -> str:
    if not layers:
        raise ModelError(f"{type(model).__name__} has no convolution to take features from")
    name = final if layer is None else layer
    check_layer(name, layers)
    return name


def layer_name(model: nn.Module, path: str) -> str:
    """The name of a layer for users: a classifier's layers have their names in its network."""
    return path.removeprefix("network." if isinstance(model, Classifier) else "")


def check_layer(name: str, layers: Collection[str]) -> None:
    """Raise ModelError, listing the layers, if this is not one of them."""
    if name not in layers:
        known = ", ".join(layers) or "none"
        raise ModelError(f"no convolution named {name!r}; there are: {known}")


def last(nodes: dict[str, fx.Node]) -> str:
    """The layer whose units are computed last (a projection shortcut's come before their sum).

    It is empty if there is none.
    """
    graphs = {node.graph for node in nodes.values()}
    order = {node: number for graph in graphs for number, node in enumerate(graph.nodes)}
    return max(nodes, key=lambda name: order[nodes[name]], default="")


def responses(network: nn.Module, graph: fx.Graph) -> dict[str, fx.Node]:
    """The node at which each layer's units are read as maps, by the rule at the top of this file.

    For MLP layers, nodes that arrange their values as maps are added to the graph. A node's
    `meta[UNITS]` is the number of its units.
    """
    modules = dict(network.named_modules())
    computed, summed = _from_images(graph), _summed(graph)
    ends: dict[str, tuple[fx.Node, fx.Node | None]] = {}
    grids: dict[str, fx.Node | None] = {}
    grid: fx.Node | None = None  # the last convolution's output shape: the grid of patches
    gated = dict[str, int]()  # the number of units by layer
    made = set[str]()  # linear layers whose outputs are no units, because a product makes them
    for node in list(graph.nodes):
        module = modules.get(str(node.target)) if node in computed else None
        if isinstance(module, nn.Conv2d):
            ends[node.target] = _follow(node, modules)
            grid = node
        elif isinstance(module, nn.Linear) and node in summed:
            if (product := _product(node, modules)) is not None:
                values, layers = product
                name, *others = layers
                if others or modules[name].out_features != module.in_features:
                    name = str(node.target)
                made |= {*layers}
                gated[name] = module.in_features
                ends[name], grids[name] = (values, values), grid
            end = _follow(node, modules)
            if end[1] is not None and node.target not in gated:
                ends[node.target], grids[node.target] = end, grid
    for name in made - {*gated}:
        ends.pop(name, None)
        grids.pop(name, None)
    owners: dict[fx.Node, str] = {}
    for name, (_, activation) in ends.items():
        if activation is not None:
            rival = owners.get(activation)
            if rival is None or _area(modules[name]) > _area(modules[rival]):
                owners[activation] = name
    nodes = {
        name: activation if activation is not None and owners[activation] == name else own
        for name, (own, activation) in ends.items()
    }
    for name, convolution in grids.items():
        nodes[name] = _laid_out(graph, nodes[name], convolution)
    for name, node in nodes.items():
        layer = modules[name]
        node.meta[UNITS] = (
            gated.get(name) or getattr(layer, "out_channels", None) or layer.out_features
        )
    return nodes


def _product(reader: fx.Node, modules: dict[str, Any]) -> tuple[fx.Node, list[str]] | None:
    """The product that a linear layer reads and the linear layers that make it, if it is gated.

    They make it place by place, with a non-linearity in at least one factor.
    """
    (end,) = reader.all_input_nodes
    while _is_transparent(end, modules) and len(inputs := _values(end)) == 1:
        (end,) = inputs
    if not (_multiplies(end) or _calls(end, GLU)):
        return None
    layers, bent, waiting = list[str](), False, [end]
    for node in waiting:
        if isinstance(modules.get(str(node.target)), nn.Linear) and node.op == "call_module":
            layers += [str(node.target)] if str(node.target) not in layers else []
        elif (acts := _activates(node, modules) or _calls(node, GLU)) or _pointwise(node, modules):
            bent |= acts
            waiting += [n for n in _values(node) if n not in waiting]
        else:
            return None
    return (end, sorted(layers)) if bent and layers else None


def _pointwise(node: fx.Node, modules: dict[str, Any]) -> bool:
    """Whether a node's values belong, place by place, to those of its inputs."""
    return _is_transparent(node, modules) or _multiplies(node) or _calls(node, HALVES)


def _is_transparent(node: fx.Node, modules: dict[str, Any]) -> bool:
    called = node.op == "call_module" and isinstance(modules[str(node.target)], _TRANSPARENT)
    return called or _calls(node, TRANSPARENT)


def _multiplies(node: fx.Node) -> bool:
    return _calls(node, PRODUCTS)


def called(node: fx.Node) -> str:
    """The name of the function or method that a node calls, empty if it calls none.

    Forms that work in place and those of aten, as in programs of torch.export, have the same name.
    """
    if node.op not in ("call_function", "call_method"):
        return ""
    return getattr(node.target, "__name__", str(node.target)).partition(".")[0].rstrip("_")


def _calls(node: fx.Node, names: Collection[str]) -> bool:
    return called(node) in names


def _values(node: fx.Node) -> list[fx.Node]:
    """The inputs of a node that are not the network's own tensors."""
    return [each for each in node.all_input_nodes if each.op != "get_attr"]


def _activates(node: fx.Node, modules: dict[str, Any]) -> bool:
    acts = node.op == "call_module" and isinstance(modules[str(node.target)], _ACTIVATIONS)
    return acts or _calls(node, ACTIVATIONS)


def _from_images(graph: fx.Graph) -> set[fx.Node]:
    """The nodes computed from image values; positional encodings have layers of their own."""
    nodes: set[fx.Node] = set()
    for node in graph.nodes:
        described = _calls(node, {"size", "sym_size"}) or (
            node.target is getattr and node.args[1] in _ABOUT
        )
        if node.op == "placeholder" or not (described or nodes.isdisjoint(node.all_input_nodes)):
            nodes.add(node)
    return nodes


def _summed(graph: fx.Graph) -> set[fx.Node]:
    """The nodes whose results flow into a sum of two branches."""
    nodes: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        if not nodes.isdisjoint(node.users) or any(
            _adds(user) and len(user.all_input_nodes) == 2 for user in node.users
        ):
            nodes.add(node)
    return nodes


def _laid_out(graph: fx.Graph, values: fx.Node, convolution: fx.Node | None) -> fx.Node:
    """A node behind `values` that arranges them as maps, on the grid of the convolution."""
    shape = None
    if convolution is not None:
        with graph.inserting_after(convolution):
            shape = graph.call_function(getattr, (convolution, "shape"))
    with graph.inserting_after(values):
        return graph.call_function(maps_of_hidden, (values, shape))


def maps_of_hidden(values: Tensor, patches: Sequence[int] | None) -> Tensor:
    """The values of an MLP's hidden units as maps N×units×H×W.

    Args:
        values: N×H×W×units with H×W no larger than the grid of patches, or N×tokens×units: the
            patches in order, after a few other tokens, or squares of f×f merged patches.
        patches: shape N×channels×rows×columns of the maps that the patches come from.

    Returns:
        Anything else gives a line N×units×1×positions, because the positions are unknown.
    """
    count, _, rows, columns = patches or (len(values), 0, 0, 0)
    is_whole = len(values) == count  # not the windows of images, stacked
    if is_whole and values.ndim == 4 and values.shape[1] <= rows and values.shape[2] <= columns:
        return values.permute(0, 3, 1, 2)
    if is_whole and values.ndim == 3 and patches:
        tokens = values.shape[1]
        f = max(1, math.isqrt(rows * columns // tokens))
        extra = tokens - rows // f * (columns // f)
        if 0 <= extra <= (_MOST_PREFIX_TOKENS if f == 1 else 0) and rows % f == columns % f == 0:
            grid = values[:, extra:].transpose(1, 2)
            return grid.reshape(*grid.shape[:2], rows // f, columns // f)
    return values.reshape(count, -1, values.shape[-1]).transpose(1, 2).unsqueeze(2)


def embeds_patches(layer: nn.Module) -> bool:
    """Whether a convolution takes each patch of an image once, as in a vision transformer."""
    return isinstance(layer, nn.Conv2d) and layer.stride == layer.kernel_size != (1, 1)


def _area(layer: Any) -> int:
    rows, columns = getattr(layer, "kernel_size", (1, 1))
    return int(rows * columns)


def _adds(node: fx.Node) -> bool:
    return _calls(node, _SUMS)


def _follow(node: fx.Node, modules: dict[str, nn.Module]) -> tuple[fx.Node, fx.Node | None]:
    """The layer's own normalized output, and the activation that is its only consumer, if any."""
    own, added = node, False
    while len(node.users) == 1:
        (node,) = node.users
        if _activates(node, modules):
            return own, node
        if _is_transparent(node, modules):
            own = own if added else node
        elif _adds(node):
            added = True
        else:
            break
    return own, None
