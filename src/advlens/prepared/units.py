"""Where the units of a network are, and how they are read.

A *unit* is a channel of a convolution's output after the non-linearity that follows it, through
normalization and a residual addition. Where no non-linearity follows directly, or where another
convolution already owns it (a projection shortcut), the unit is the positive part of the
normalized output before the addition.
"""

import operator
import weakref
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _NormBase

from advlens.errors import ModelError
from advlens.models.classifier import Classifier

NO_REPRESENTATION = "the model has no linear layer, so no representation before it"

_NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm)
_TRANSPARENT = (*_NORMS, nn.Identity, nn.Dropout, nn.Dropout2d)
_ACTIVATIONS = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish,
    nn.Hardswish, nn.Softplus, nn.Sigmoid, nn.Tanh,
)  # fmt: skip
ACTIVATION_FUNCTIONS = {
    F.relu, F.relu_, F.relu6, F.leaky_relu, F.elu, F.selu, F.celu, F.gelu, F.silu, F.mish,
    F.hardswish, F.softplus, torch.relu, torch.relu_, torch.sigmoid, torch.tanh,
}  # fmt: skip
ACTIVATION_METHODS = {"relu", "relu_", "sigmoid", "tanh"}
SAME_PLACE = (*_TRANSPARENT, *_ACTIVATIONS)
"""Layers whose output at a position belongs to the same place of the image as their input there."""
_ADDITIONS = {operator.add, operator.iadd, torch.add}
_ADDITION_METHODS = {"add", "add_"}


class _Tracer(fx.Tracer):
    """Keeps every layer whole, also subclasses of convolutions defined outside torch."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        whole = (nn.Conv2d, nn.Linear, *_TRANSPARENT, *_ACTIVATIONS)
        return isinstance(m, whole) or super().is_leaf_module(m, module_qualified_name)


def trace(model: nn.Module) -> fx.Graph:
    """The graph of a model's layers.

    Raises:
        ModelError: control flow that cannot be traced.
    """
    try:
        return _Tracer().trace(model)
    except Exception as error:  # fx raises anything at all on control flow that it cannot follow
        raise ModelError(
            f"cannot trace the forward of {type(model).__name__} ({error}); "
            "take control flow that depends on the images out of it"
        ) from error


def live_features(model: nn.Module, layer: str | None = None) -> nn.Module:
    """The model itself, parameters and modes shared, as a module: images → (logits, features).

    The features are those of `Prepared.features`, or of `Prepared.representation`, with gradients
    to the parameters. Tracing takes some milliseconds: keep the result as long as the model stays
    in one mode.

    Args:
        model: images → logits.
        layer: name of a convolution, for its maps N×units×H×W (default: the last one), or
            "representation", for what the last linear layer reads, N×d.

    Raises:
        ModelError: control flow that cannot be traced, or no such layer (the layers are named).
    """
    graph = trace(model)
    if layer == "representation":
        node = read_by_last_linear(model, graph)
        if node is None:
            raise ModelError(NO_REPRESENTATION)
        return reading(model, graph, [node], torch.clone, logits=True)
    nodes = {layer_name(model, path): node for path, node in responses(model, graph).items()}
    if not nodes:
        raise ModelError(f"{type(model).__name__} has no convolution to take features from")
    name = last(nodes) if layer is None else layer
    check_layer(name, nodes)
    return reading(model, graph, [nodes[name]], F.relu, logits=True)


def layer_name(model: nn.Module, path: str) -> str:
    """The name of a layer for users: a classifier's layers go by their names in its network."""
    return path.removeprefix("network." if isinstance(model, Classifier) else "")


def check_layer(name: str, layers: Collection[str]) -> None:
    """Raise ModelError, naming the layers, if this is none of them."""
    if name not in layers:
        known = ", ".join(layers) or "none"
        raise ModelError(f"no convolution named {name!r}; there are: {known}")


def last(nodes: dict[str, fx.Node]) -> str:
    """The layer whose units are computed last (a projection shortcut's come before their sum)."""
    (graph,) = {node.graph for node in nodes.values()}
    order = {node: number for number, node in enumerate(graph.nodes)}
    return max(nodes, key=lambda name: order[nodes[name]])


def responses(network: nn.Module, graph: fx.Graph) -> dict[str, fx.Node]:
    """The node at which each convolution's units are read, by the rule at the top of this file."""
    modules = dict(network.named_modules())
    ends: dict[str, tuple[fx.Node, fx.Node | None]] = {}
    for node in graph.nodes:
        if node.op == "call_module" and isinstance(modules[node.target], nn.Conv2d):
            ends[node.target] = _follow(node, modules)
    owners: dict[fx.Node, str] = {}
    for name, (_, activation) in ends.items():
        if activation is not None:
            rival = owners.get(activation)
            if rival is None or _area(modules[name]) > _area(modules[rival]):
                owners[activation] = name
    return {
        name: activation if activation is not None and owners[activation] == name else own
        for name, (own, activation) in ends.items()
    }


def _area(convolution: Any) -> int:
    rows, columns = convolution.kernel_size
    return int(rows * columns)


def _follow(node: fx.Node, modules: dict[str, nn.Module]) -> tuple[fx.Node, fx.Node | None]:
    """The convolution's own normalized output, and the activation it flows into alone, if any."""
    own, added = node, False
    while len(node.users) == 1:
        (node,) = node.users
        module = modules.get(str(node.target)) if node.op == "call_module" else None
        if (
            isinstance(module, _ACTIVATIONS)
            or (node.op == "call_function" and node.target in ACTIVATION_FUNCTIONS)
            or (node.op == "call_method" and node.target in ACTIVATION_METHODS)
        ):
            return own, node
        if isinstance(module, _TRANSPARENT):
            own = own if added else node
        elif (node.op == "call_function" and node.target in _ADDITIONS) or (
            node.op == "call_method" and node.target in _ADDITION_METHODS
        ):
            added = True
        else:
            break
    return own, None


def reading(
    network: nn.Module,
    graph: fx.Graph,
    nodes: Sequence[fx.Node],
    reduce: Callable[[Tensor], Tensor],
    *,
    logits: bool,
) -> nn.Module:
    """The network, layers shared, returning a tuple: its logits if asked for, each node reduced.

    A node is read right behind its place: later layers may write into it in place. Without the
    logits, nothing behind the last node is computed.
    """
    longer = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    read: dict[fx.Node, fx.Node] = {}
    results: list[Any] = []
    for node in graph.nodes:
        if node.op == "output":
            results += [copies[node.args[0]]] if logits else []
            break
        copies[node] = longer.node_copy(node, copies.__getitem__)
        if node in nodes:
            read[node] = longer.call_function(reduce, (copies[node],))
        if len(read) == len(nodes) and not logits:
            break
    longer.output((*results, *(read[node] for node in nodes)))
    return fx.GraphModule(network, longer)


@contextmanager
def kept_outputs(
    network: nn.Module, paths: dict[str, str], reduce: Callable[[Tensor], Tensor]
) -> Iterator[dict[str, Tensor]]:
    """For models that cannot be traced: each convolution's output, or its norm's, by hooks."""
    names = {path: name for name, path in paths.items()}
    kept: dict[str, Tensor] = {}
    owners: dict[int, tuple[weakref.ref[Tensor], str]] = {}

    def keep(path: str, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        if not isinstance(module, nn.Conv2d):
            before, path = owners.get(id(inputs[0]), (lambda: None, ""))
            if before() is not inputs[0]:
                return
        owners[id(output)] = weakref.ref(output), path
        if path in names:
            kept[names[path]] = reduce(output)

    handles = [
        module.register_forward_hook(partial(keep, path))
        for path, module in network.named_modules()
        if isinstance(module, (nn.Conv2d, *_NORMS))
    ]
    try:
        yield kept
    finally:
        for handle in handles:
            handle.remove()


def read_by_last_linear(network: nn.Module, graph: fx.Graph) -> fx.Node | None:
    """The node that the last linear layer takes in, if there is one."""
    modules: dict[Any, nn.Module] = dict(network.named_modules())
    inputs = [
        node.all_input_nodes[0]
        for node in graph.nodes
        if node.op == "call_module" and isinstance(modules[node.target], nn.Linear)
    ]
    return inputs[-1] if inputs else None


@contextmanager
def kept_input_of_last_linear(network: nn.Module) -> Iterator[list[Tensor]]:
    """For models that cannot be traced: what its last linear layer to be run took in, by hooks."""
    kept: list[Tensor] = []

    def keep(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        kept[:] = [inputs[0]]

    layers = [module for module in network.modules() if isinstance(module, nn.Linear)]
    handles = [module.register_forward_pre_hook(keep) for module in layers]
    try:
        yield kept
    finally:
        for handle in handles:
            handle.remove()
