"""How values inside a network are read: along its graph, or else by hooks."""

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _NormBase

NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm)


def reading(
    network: nn.Module,
    graph: fx.Graph,
    nodes: Sequence[fx.Node],
    reduce: Callable[[Tensor], Tensor],
    *,
    logits: bool,
) -> nn.Module:
    """The network, layers shared, returning a tuple: logits if requested, then each reduced node.

    A node is read right after it is computed, because later layers may overwrite it in place.
    Without the logits, nothing after the last node is computed.
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
    """Read by hooks each convolution's output, or its norm's, for untraceable models."""
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
        if isinstance(module, (nn.Conv2d, *NORMS))
    ]
    try:
        yield kept
    finally:
        for handle in handles:
            handle.remove()


def read_by_last_linear(network: nn.Module, graph: fx.Graph) -> fx.Node | None:
    """The input node of the last linear layer, if there is one."""
    layer = last_linear(network, graph)
    return None if layer is None else layer.all_input_nodes[0]


def last_linear(network: nn.Module, graph: fx.Graph) -> fx.Node | None:
    """The last linear layer, whose input is the representation, if there is one."""
    modules: dict[Any, nn.Module] = dict(network.named_modules())
    layers = [
        node
        for node in graph.nodes
        if node.op == "call_module" and isinstance(modules[node.target], nn.Linear)
    ]
    return layers[-1] if layers else None


@contextmanager
def kept_input_of_last_linear(network: nn.Module) -> Iterator[list[Tensor]]:
    """Read by hooks what the last linear layer to run takes in, for untraceable models."""
    kept: list[Tensor] = []

    def keep(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        kept[:] = [inputs[0].clone()]  # later code may overwrite it

    layers = [module for module in network.modules() if isinstance(module, nn.Linear)]
    handles = [module.register_forward_pre_hook(keep) for module in layers]
    try:
        yield kept
    finally:
        for handle in handles:
            handle.remove()
