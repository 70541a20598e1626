"""Hidden units of MLPs in a model that runs its own code: found and read while it runs.

The rule is that of `units`, in the order in which the model computes: values that come from linear
layers through a non-linearity, place by place, are hidden units if a linear layer reads them and
its result flows into a sum of two branches.
"""

import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from advlens.prepared.reading import kept_outputs
from advlens.prepared.units import (
    ACTIVATIONS,
    GLU,
    HALVES,
    PRODUCTS,
    maps_of_hidden,
)

_ACTIVATIONS = ACTIVATIONS | GLU
_SAME_PLACE = {"dropout", "layer_norm", "rms_norm", "contiguous", "to", "float"}


@dataclass(frozen=True)
class _Trail:
    """Where a tensor comes from.

    Attributes:
        layers: the linear layers that it comes from place by place.
        values: what stands for it as hidden units, once there was a non-linearity.
        before: hidden layers that it depends on, and that no sum has followed yet.
    """

    layers: frozenset[str] = frozenset()
    values: Tensor | None = None
    before: frozenset[str] = frozenset()


class Watch(TorchFunctionMode):
    """Follows what depends on the images through a network that runs.

    Attributes:
        order: the layers of units as they ran, convolutions too.
        hidden: the reduced maps of hidden units by layer.
        summed: the layers of hidden units that a sum follows.
    """

    def __init__(self, network: nn.Module, images: Tensor, reduce: Callable[[Tensor], Tensor]):
        super().__init__()
        self.order: list[str] = []
        self.hidden: dict[str, Tensor] = {}
        self.summed: set[str] = set()
        self._reduce = reduce
        self._patches: Sequence[int] | None = None
        self._trails: dict[int, tuple[weakref.ref[Tensor], _Trail]] = {}
        self._mark(images, _Trail())
        self._linear = {
            path: module for path, module in network.named_modules() if type(module) is nn.Linear
        }
        self.handles = [
            layer.register_forward_hook(partial(self._after_linear, path))
            for path, layer in self._linear.items()
        ]
        self.handles += [
            layer.register_forward_hook(partial(self._after_convolution, path))
            for path, layer in network.named_modules()
            if isinstance(layer, nn.Conv2d)
        ]

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        given = [self._trail(each) for each in _flat((*args, *(kwargs or {}).values()))]
        if found := [trail for trail in given if trail is not None]:
            name = getattr(function, "__name__", "").rstrip("_")
            self._mark(result, self._next(name, found, result))
        return result

    def _next(self, name: str, found: list[_Trail], result: Any) -> _Trail:
        """The trail of a function's result."""
        before = frozenset[str]().union(*(trail.before for trail in found))
        if name == "add" and len(found) > 1:
            self.summed |= before
            return _Trail()
        layers = frozenset[str]().union(*(trail.layers for trail in found))
        bent = any(trail.values is not None for trail in found)
        if not all(trail.layers for trail in found) or (bent and name in HALVES):
            return _Trail(before=before)
        if name in _ACTIVATIONS or (bent and name in PRODUCTS):
            return _Trail(layers, self._reduce(maps_of_hidden(result, self._patches)), before)
        if name in _SAME_PLACE | HALVES | PRODUCTS:
            return _Trail(layers, found[0].values, before)
        return _Trail(before=before)

    def _after_linear(
        self, path: str, layer: nn.Linear, inputs: tuple[Any, ...], output: Tensor
    ) -> None:
        trail = self._trail(inputs[0])
        if trail is None:
            return
        before = trail.before
        if trail.values is not None:
            name, *others = trail.layers
            if others or self._linear[name].out_features != layer.in_features:
                name = path  # a gated MLP, whose units have no layer of their own
            self.order.append(name)
            self.hidden[name] = trail.values
            before |= {name}
        self._mark(output, _Trail(frozenset({path}), None, before))
        self._trails = {key: pair for key, pair in self._trails.items() if pair[0]() is not None}

    def _after_convolution(
        self, path: str, layer: nn.Module, inputs: tuple[Any, ...], maps: Tensor
    ) -> None:
        self.order.append(path)
        self._patches = maps.shape

    def _trail(self, value: object) -> _Trail | None:
        reference, trail = self._trails.get(id(value), (None, None))
        return trail if reference is not None and reference() is value else None

    def _mark(self, value: object, trail: _Trail) -> None:
        for tensor in _flat((value,)):
            self._trails[id(tensor)] = weakref.ref(tensor), trail


def _flat(values: Iterable[object]) -> Iterator[Tensor]:
    """The tensors among some values, and in tuples and lists of them."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (tuple, list)):
            yield from _flat(value)


@contextmanager
def _watched(
    network: nn.Module, images: Tensor, reduce: Callable[[Tensor], Tensor]
) -> Iterator[Watch]:
    watch = Watch(network, images, reduce)
    try:
        with watch:
            yield watch
    finally:
        for handle in watch.handles:
            handle.remove()


def running_layers(network: nn.Module, images: Tensor) -> tuple[Tensor, dict[str, int]]:
    """The logits, and the number of units of each layer that runs, by path, in this order."""
    with _watched(network, images, lambda maps: maps[:1]) as watch:
        logits: Tensor = network(images)
    modules: dict[str, Any] = dict(network.named_modules())
    units = dict[str, int]()
    for path in watch.order:
        if path in watch.summed:
            units[path] = watch.hidden[path].shape[1]
        elif path not in watch.hidden:
            units[path] = modules[path].out_channels
    return logits, units


def read_running(
    network: nn.Module,
    images: Tensor,
    paths: dict[str, str],
    reduce: Callable[[Tensor], Tensor],
    *,
    hidden: bool,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The logits, and the reduced maps N×units×H×W of those layers that these images reach.

    Args:
        network: it runs its own code.
        images: as it takes them.
        paths: the paths of layers by name.
        reduce: what to keep of maps.
        hidden: whether there are hidden units of MLPs among them.
    """
    watching: Any = _watched(network, images, reduce) if hidden else nullcontext()
    with kept_outputs(network, paths, reduce) as kept, watching as watch:
        logits = network(images)
    if hidden:
        kept |= {n: watch.hidden[path] for n, path in paths.items() if path in watch.hidden}
    return logits, kept
