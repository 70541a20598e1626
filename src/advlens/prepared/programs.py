"""Programs of torch.export: their layers are calls of functions, and become layers again."""

from typing import Any

import torch
from torch import fx, nn

CONVOLUTIONS = (torch.ops.aten.conv2d.default, torch.ops.aten.conv2d.padding)
_LINEAR = torch.ops.aten.linear.default
_NORM = torch.ops.aten.batch_norm.default
_TENSORS = ("weight", "bias", "running_mean", "running_var")


def give_layers(network: nn.Module) -> None:
    """Make layers of calls in the programs of torch.export within a network, in place.

    A layer takes the place of the module without code that holds its tensors, so that it has the
    name that it had before the export. Calls stay where they are if their tensors are computed or
    are not such a module's own.
    """
    for program in [each for each in network.modules() if isinstance(each, fx.GraphModule)]:
        made: dict[str, Any] = {}
        for node in list(program.graph.nodes):
            if node.target in (*CONVOLUTIONS, _LINEAR, _NORM):
                _give_layer(program, node, made)
        program.recompile()


def _give_layer(program: fx.GraphModule, node: fx.Node, made: dict[str, Any]) -> None:
    """Make a layer of a call, unless it cannot be one.

    `made` has the settings of each layer that there is already, by its path.
    """
    target: Any = node.target
    names = [argument.name for argument in target._schema.arguments]
    values = {each.name: each.default_value for each in target._schema.arguments}
    given = values | dict(zip(names, node.args, strict=False)) | node.kwargs
    sources = {name: given.pop(name) for name in _TENSORS if given.get(name) is not None}
    source = given.pop("input")
    path = str(sources["weight"].target).rpartition(".")[0] if "weight" in sources else ""
    if not path or any(
        each.op != "get_attr" or each.target != f"{path}.{name}" for name, each in sources.items()
    ):
        return
    settings = target, given, sources.keys()
    if path not in made:
        holder = program.get_submodule(path)
        if type(holder) is not nn.Module or holder._modules:
            return
        tensors = {name: getattr(holder, name) for name in sources}
        layer = _layer(target, given, tensors)
        if layer is None or not {*holder._parameters, *holder._buffers} <= {*_names(layer)}:
            return
        for name in _names(layer):
            setattr(layer, name, tensors.get(name))
        program.set_submodule(path, layer)
        made[path] = settings
    if made[path] != settings:
        return
    with program.graph.inserting_before(node):
        call = program.graph.call_module(path, (source,))
    node.replace_all_uses_with(call)
    program.graph.erase_node(node)
    for each in sources.values():
        if not each.users:
            program.graph.erase_node(each)


def _names(layer: nn.Module) -> list[str]:
    return [*layer._parameters, *layer._buffers]


def _layer(target: Any, given: dict[str, Any], tensors: dict[str, Any]) -> nn.Module | None:
    """A layer, still without tensors, that does what a call does with them; None for others."""
    weight = tensors["weight"]
    if target is _LINEAR:
        return nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    if target is _NORM:
        if given["training"] or "running_mean" not in tensors:
            return None
        return nn.BatchNorm2d(len(weight), eps=given["eps"], device="meta")
    outputs, inputs, *kernel = weight.shape
    return nn.Conv2d(inputs * given["groups"], outputs, tuple(kernel), **given, device="meta")
