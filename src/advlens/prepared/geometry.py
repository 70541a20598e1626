"""Where the receptive field of each map position lies in the input image.

Fields are composed along the graph, as in Network Dissection (Bau et al. 2017): where branches
meet, the larger field counts. Branches of unknown position, such as a gate from globally pooled
values, do not count beside one that is known.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from advlens.prepared.units import ACTIVATIONS, SAME_PLACE, TRANSPARENT, called

_ELEMENTWISE = (
    ACTIVATIONS
    | TRANSPARENT
    | {"add", "iadd", "sub", "mul", "div", "truediv", "cat", "clamp"}
    | {"contiguous", "float", "to", "type"}
)
_POOLS = (nn.MaxPool2d, nn.AvgPool2d)
_POOL_FUNCTIONS = {"max_pool2d", "avg_pool2d"}


@dataclass(frozen=True)
class Fields:
    """The receptive fields of a map's positions, (rows, columns), in pixels of the input.

    Attributes:
        start: first pixel of the field of position 0; negative if it reaches into the padding.
        size: side of a field.
        stride: distance between the fields of neighboring positions.
    """

    start: tuple[int, int] = (0, 0)
    size: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)

    @property
    def center(self) -> tuple[float, float]:
        """The center of the field of position 0; 0 is the center of the first pixel."""
        (top, left), (rows, columns) = self.start, self.size
        return top + (rows - 1) / 2, left + (columns - 1) / 2

    def through(
        self, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int]
    ) -> "Fields":
        """The fields behind a convolution or pooling; a dilated kernel includes its gaps."""
        parts = list(zip(self.start, self.size, self.stride, kernel, stride, padding, strict=True))
        rows, columns = (
            (start - pad * step, size + (width - 1) * step, step * apart)
            for start, size, step, width, apart, pad in parts
        )
        start, size, step = zip(rows, columns, strict=True)
        return Fields(start, size, step)


def receptive_fields(network: nn.Module, graph: fx.Graph, end: fx.Node) -> Fields | None:
    """The fields of a node's positions; None behind an operation for which they are unknown."""
    modules: dict[Any, Any] = dict(network.named_modules())
    fields: dict[fx.Node, Fields | None] = {}
    for node in graph.nodes:
        if node.op == "placeholder":
            fields[node] = Fields()
        elif node.op == "get_attr":
            # a constant such as the mean: never the larger field
            fields[node] = Fields(size=(0, 0))
        else:
            inputs = [fields[source] for source in node.all_input_nodes]
            fields[node] = _behind(node, inputs, modules)
        if node is end:
            break
    return fields[end]


def _behind(
    node: fx.Node, inputs: Sequence[Fields | None], modules: dict[Any, Any]
) -> Fields | None:
    known = [fields for fields in inputs if fields is not None]
    if not known:
        return None
    fields = max(known, key=lambda fields: fields.size)
    if node.op == "call_module":
        module = modules[node.target]
        if isinstance(module, nn.Conv2d):
            kernel = [
                1 + gap * (k - 1)
                for k, gap in zip(_pair(module.kernel_size), _pair(module.dilation), strict=True)
            ]
            return fields.through(kernel, _pair(module.stride), _padding(module.padding, kernel))
        if isinstance(module, _POOLS):
            return _pooled(
                fields,
                module.kernel_size,
                module.stride,
                module.padding,
                getattr(module, "dilation", 1),
            )
        return fields if isinstance(module, SAME_PLACE) else None
    if called(node) in _POOL_FUNCTIONS:
        return _called(fields, node)
    return fields if called(node) in _ELEMENTWISE else None


def _called(fields: Fields, node: fx.Node) -> Fields:
    names = ("kernel_size", "stride", "padding", "dilation")
    given = dict(zip(names, node.args[1:], strict=False)) | node.kwargs
    if called(node) == "avg_pool2d":
        given.pop("dilation", None)  # its fourth argument is another
    return _pooled(
        fields,
        given["kernel_size"],
        given.get("stride"),
        given.get("padding", 0),
        given.get("dilation", 1),
    )


def _pooled(fields: Fields, kernel: Any, stride: Any, padding: Any, dilation: Any) -> Fields:
    sides = [1 + gap * (k - 1) for k, gap in zip(_pair(kernel), _pair(dilation), strict=True)]
    return fields.through(sides, _pair(stride or kernel), _pair(padding))


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[-1])


def _padding(padding: Any, kernel: Sequence[int]) -> tuple[int, int]:
    if padding == "valid":
        return 0, 0
    if padding == "same":  # torch pads the odd pixel at the end
        return (kernel[0] - 1) // 2, (kernel[1] - 1) // 2
    return _pair(padding)
