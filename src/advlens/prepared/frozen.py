"""The frozen evaluation copy of a model that every method runs on.

Batch normalization is folded into the convolutions, tensors are channels last, and parameters take
no gradient: the same logits and input gradients in about three quarters of the time. The model
itself is not touched. `trial` compares the two, and optimizations that a model does not support are
left out.
"""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.parameter import is_lazy

from advlens.arrays import Images, Logits
from advlens.errors import AdvlensError, ModelError
from advlens.models.classifier import check_images, device_of, precision_of, tensors_of
from advlens.prepared.forms import (
    FORMS,
    Copy,
    Entry,
    Form,
    fused,
    look_through,
    make_copy,
    model_name,
    model_origin,
    own_tensors,
    tensors,
)
from advlens.prepared.geometry import Fields, receptive_fields
from advlens.prepared.programs import CONVOLUTIONS
from advlens.prepared.reading import (
    kept_input_of_last_linear,
    last_linear,
    read_by_last_linear,
    reading,
)
from advlens.prepared.trial import CHECKED, Verdict, evaluated, try_forms, untouched
from advlens.prepared.units import (
    NO_REPRESENTATION,
    UNITS,
    check_layer,
    embeds_patches,
    last,
    layer_name,
    responses,
)
from advlens.prepared.watching import read_running, running_layers
from advlens.seeding import seeded
from advlens.words import counted

MIXED = 0.05
"""Share of the largest response by which an image's responses may depend on other images."""
Call = Callable[[Images], tuple[Tensor, ...]]
"""A pass: from images as the network takes them to what is read, one row per image."""


class Prepared(nn.Module):
    """The result of `prepare`: from pixels in [0, 1] to logits and the units.

    It is compared with the model on the first images that it sees. Logits have the model's
    precision, but at least float32.

    Attributes:
        layers: name of each layer of units → number of its units, in execution order.
        last: the layer whose units are computed last; empty if there is none.
        shape: shape of the model's output for one image; empty before the first images.
        randomized: whether two passes over the same images differ, as far as known.
        notes: what a reader of the results should know about the model, in sentences.
        mixes: whether `mixing.check_steps` has found that it bears gradient steps in bfloat16.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype | None = None):
        super().__init__()
        if not isinstance(model, nn.Module):
            raise ModelError(
                f"the model must be a torch.nn.Module, not {type(model).__name__}; "
                "advlens.load_model makes one from a name"
            )
        model = look_through(model)
        self._given = (model,)  # in a tuple, so that it is not registered as a submodule
        self._name, self._own = model_origin(model), precision_of(model)
        if any(map(is_lazy, tensors_of(model))):
            raise ModelError(
                f"{self._name} has lazy layers without weights; run it once on images before"
            )
        self.dtype = dtype or self._own
        self.device = device_of(model)
        self.shape: tuple[int, ...] = ()
        self.randomized, self.notes = False, tuple[str, ...]()
        self.mixes = False
        self._verdict: Verdict | None = None
        self._copy: nn.Module
        self._live: tuple[nn.Module, ...]  # also in a tuple, if the model itself runs
        for form in FORMS:
            try:
                self._adopt(form, make_copy(model, form))
                break
            except ModelError:  # the only option left is to run the model itself
                continue
        else:
            self._adopt(None, Copy(Entry(model), None, []))

    def _adopt(self, form: Form | None, made: Copy) -> None:
        """Run this copy from now on; for form None, the model itself."""
        (model,) = self._given
        self._form, self._graph, self._pairs = form, made.graph, made.pairs
        network = made.network
        if form is None:
            self.dtype = self._own
        elif self.dtype != self._own:
            network.to(dtype=self.dtype)
        self._copy, self._live = (network, ()) if form is not None else (nn.Identity(), (network,))
        self._readings: dict[object, nn.Module] = {}
        if made.graph is not None:
            self._nodes = responses(network, made.graph)
            self._take_layers(
                {path: node.meta[UNITS] for path, node in self._nodes.items()}, last(self._nodes)
            )
        else:
            convolutions = {
                path: layer.out_channels
                for path, layer in network.named_modules()
                if isinstance(layer, nn.Conv2d)
            }
            self._take_layers(convolutions, next(reversed(convolutions), ""))
        inside, current = {conv for conv, *_ in made.pairs}, tensors(model)
        self._copied = {
            name: tensor
            for name, tensor in own_tensors(network).items()
            if form is not None and name in current and name.rpartition(".")[0] not in inside
        }
        self.eval()

    @property
    def _network(self) -> nn.Module:
        return self._live[0] if self._live else self._copy

    @property
    def traced(self) -> bool:
        """Whether it runs along a graph of the model's layers, not by the model's own code."""
        return self._graph is not None

    @property
    def folded(self) -> bool:
        """Whether batch normalization is folded into the convolutions."""
        return self._form is not None and self._form.folded

    @property
    def channels_last(self) -> bool:
        """Whether its tensors are in this memory layout, which not every model's code supports."""
        return self._form is not None and self._form.channels_last

    @property
    def last_linear(self) -> str | None:
        """The layer whose input is the representation, if the model's graph shows one."""
        (model,) = self._given
        node = None if self._graph is None else last_linear(self._copy, self._graph)
        return None if node is None else _named(model, str(node.target))

    def check(self, images: Images) -> None:
        """Compare with the model on real images, once, and keep what agrees with it.

        Args:
            images: pixels in [0, 1], N×3×H×W; the first few are used.

        Raises:
            ModelError: the model fails on these images.
            NumericError: it returns NaN.
        """
        if self._verdict is not None or len(images) == 0:
            return
        (model,) = self._given
        ready = None
        if self._form is not None and self.dtype == self._own:
            ready = self._form, Copy(self._copy, self._graph, self._pairs)
        verdict = try_forms(model, images.detach().to(self.device), ready=ready)
        made = verdict.copy
        if verdict.form is None or made is None:
            self._adopt(None, Copy(Entry(model), None, []))
        elif verdict.form != self._form:
            self._adopt(verdict.form, made)
        self.shape, self.randomized = verdict.shape, verdict.randomized
        self.notes, self._verdict = verdict.notes, verdict
        few = images.detach()[:CHECKED].to(self.device)
        with torch.no_grad(), seeded(0, self.device), untouched(self._network):
            if self._graph is None:
                self._find_hidden(few)
            self._drop_mixed(few)
        nodes = () if self._graph is None else self._graph.nodes
        if bare := sum(node.target in CONVOLUTIONS for node in nodes):
            self.notes += (
                f"{model_name(model)} has {counted(bare, 'convolution')} without units, because "
                "a program of torch.export computes or shares their weights",
            )
        if len(self.layers) == 1 and embeds_patches(self._layer(self.last)):
            self.notes += (
                f"the only units found in {model_name(model)} are those of {self.last}, which "
                "embeds patches of the images: what is said of units says nothing of later layers",
            )

    def take(self, images: Images) -> Images:
        """Checked images on the model's device, in its precision if that is finer.

        Raises:
            DataError: images are not pixels in [0, 1].
        """
        checked = check_images(images)
        return checked.to(self.device, torch.promote_types(checked.dtype, self.dtype))

    def forward(self, images: Images) -> Logits:
        (logits,) = self._passed(lambda pixels: (self._network(pixels),), images)
        return logits

    def _passed(self, call: Call, images: Images) -> tuple[Tensor, ...]:
        """The result of a pass over images in [0, 1], in float32 at least.

        Raises:
            ModelError: the model's own code fails on them.
        """
        if self._verdict is None:
            self.check(images)
        verdict = self._verdict
        if verdict is None or verdict.differentiable or not images.requires_grad:
            return self._filled(call, images)
        with torch.no_grad():
            outputs = self._filled(call, images.detach())
        nothing = 0 * images.flatten(1).sum(dim=1)  # its true gradient: 0
        return tuple(value + nothing.view(-1, *[1] * (value.ndim - 1)) for value in outputs)

    def _filled(self, call: Call, images: Images) -> tuple[Tensor, ...]:
        """Run in batches of the only size that the model takes, if there is one."""
        size = None if self._verdict is None else self._verdict.batch
        if size is None or len(images) == size:
            return self._guarded(call, images)
        parts = []
        for start in range(0, len(images), size):
            part = images[start : start + size]
            full = torch.cat([part, part[-1:].expand(size - len(part), *part.shape[1:])])
            parts.append([value[: len(part)] for value in self._guarded(call, full)])
        return tuple(map(torch.cat, zip(*parts, strict=True)))

    def _guarded(self, call: Call, images: Images) -> tuple[Tensor, ...]:
        (model,) = self._given
        try:
            with evaluated(model) if self._live else contextlib.nullcontext():
                return tuple(map(_fine, call(self._cast(images))))
        except (AdvlensError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # a user's forward can raise anything
            raise ModelError(
                f"{self._name} fails on a batch of images {'×'.join(map(str, images.shape))} "
                f"({type(error).__name__}: {error})"
            ) from error

    def _cast(self, images: Images) -> Images:
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        return images.to(dtype=self.dtype, memory_format=layout)

    def record(self, images: Images) -> tuple[Logits, dict[str, Tensor]]:
        """Logits, and the units' responses for each layer: spatial maximum, ≥ 0, shape N×units."""
        self.check(images)
        if self._graph is not None:
            nodes = tuple(self._nodes[path] for path in self._paths.values())
            call = self._reading(nodes, _maximum, True)
        else:
            call = self._hooked(list(self.layers), _maximum, absent=0.0)
        logits, *maxima = self._passed(call, images)
        return logits, dict(zip(self.layers, maxima, strict=True))

    def features(self, images: Images, layer: str | None = None) -> Tensor:
        """Maps N×units×H×W of one layer (default: the last), without computing later layers.

        Raises:
            ModelError: the layer does not exist (the message lists the layers), or these images do
                not reach it.
        """
        name = self.last if layer is None else layer
        return self.maps(images, [name], logits=False)[1][name]

    def maps(
        self, images: Images, layers: Sequence[str], *, logits: bool = True
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        """The model's output, and the maps N×units×H×W of several layers, in one pass.

        Without `logits`, None takes their place and nothing after the last layer is computed.

        Raises:
            ModelError: a layer does not exist (the message lists the layers), these images do not
                reach it, or it belongs to an MLP whose tokens are not patches of the image.
        """
        self.check(images)
        for name in layers:
            check_layer(name, self.layers)
        if self._graph is not None:
            call = self._reading(tuple(self._nodes[self._paths[n]] for n in layers), F.relu, logits)
        else:
            call = self._hooked(layers, F.relu, absent=None)
        outputs = self._passed(call, images)
        named = dict(zip(layers, outputs[len(outputs) - len(layers) :], strict=True))
        for name, values in named.items():
            if values.shape[2] == 1 < values.shape[3] and self._is_hidden(name):
                raise ModelError(
                    f"the tokens that the layer {name} works on have no place in the image, "
                    "so there are no maps of its units; choose another layer"
                )
        return (outputs[0] if logits else None), named

    def _reading(
        self, nodes: tuple[fx.Node, ...], reduce: Callable[[Tensor], Tensor], logits: bool
    ) -> Call:
        """Read along the graph: the logits if requested, then the values at some nodes."""
        assert self._graph is not None
        key = (nodes, reduce, logits)
        if key not in self._readings:
            self._readings[key] = reading(self._copy, self._graph, nodes, reduce, logits=logits)
        return self._readings[key]

    def _hooked(
        self, layers: Sequence[str], reduce: Callable[[Tensor], Tensor], *, absent: float | None
    ) -> Call:
        """Read as the model runs: the logits, then the outputs of some layers.

        If the images do not reach a layer, each of its units counts as `absent`; if that is None,
        it is an error.
        """
        paths = {name: self._paths[name] for name in layers}
        hidden = any(map(self._is_hidden, layers))

        def value(kept: dict[str, Tensor], name: str, pixels: Images) -> Tensor:
            if name in kept:
                return kept[name]
            if absent is None:
                raise ModelError(f"the layer {name} is not run on these images; choose another")
            return pixels.new_full((len(pixels), self.layers[name]), absent)

        def call(pixels: Images) -> tuple[Tensor, ...]:
            logits, kept = read_running(self._network, pixels, paths, reduce, hidden=hidden)
            return logits, *(value(kept, name, pixels) for name in layers)

        return call

    def _find_hidden(self, images: Images) -> None:
        """Add the hidden units of MLPs, which a model that runs its own code shows as it runs."""
        if sum(isinstance(layer, nn.Linear) for layer in self._network.modules()) < 2:
            return
        seen = dict[str, int]()

        def call(pixels: Images) -> tuple[Tensor, ...]:
            logits, layers = running_layers(self._network, pixels)
            seen.update(layers)
            return (logits,)

        self._passed(call, images)
        if not {*self._paths.values()}.issuperset(seen):
            units = {path: self.layers[name] for name, path in self._paths.items()} | seen
            paths = [*(path for path in units if path not in seen), *seen]
            self._take_layers({path: units[path] for path in paths}, paths[-1])

    def _drop_mixed(self, images: Images) -> None:
        """Leave out hidden units whose responses to an image depend on the others of its batch.

        Their tokens do not lie as `maps_of_hidden` expects.
        """
        hidden = [name for name in self.layers if self._is_hidden(name)]
        if self.randomized or len(images) < 2 or not hidden:
            return
        (_, pair), (_, alone) = (self.record(some) for some in (images, images[:1]))
        for name in hidden:
            apart = (pair[name][:1] - alone[name]).abs().amax()
            if apart > MIXED * alone[name].abs().amax():
                units = {p: self.layers[n] for n, p in self._paths.items() if n != name}
                self._take_layers(units, next(reversed(units), ""))
                self.notes += (
                    f"{name} has no units, because its tokens are not those of one image after "
                    "those of another",
                )

    def _take_layers(self, units: dict[str, int], final: str) -> None:
        """Take these layers, from path to number of units, under their names."""
        (model,) = self._given
        self._paths = {_named(model, path): path for path in units}
        self.layers = {name: units[path] for name, path in self._paths.items()}
        self.last = _named(model, final)

    def _is_hidden(self, layer: str) -> bool:
        return isinstance(self._layer(layer), nn.Linear)

    def _layer(self, name: str) -> nn.Module:
        return self._network.get_submodule(self._paths[name])

    def fields(self, layer: str) -> Fields | None:
        """The receptive fields of a layer's units, if the model's graph shows them.

        Raises:
            ModelError: the layer does not exist (the message lists the layers).
        """
        check_layer(layer, self.layers)
        if self._graph is None:
            return None
        return receptive_fields(self._copy, self._graph, self._nodes[self._paths[layer]])

    def representation(self, images: Images) -> Tensor:
        """The input of the last linear layer, which computes the logits: N×d, after global pooling.

        Raises:
            ModelError: the model has no linear layer.
        """
        self.check(images)
        if self._graph is not None and (node := read_by_last_linear(self._copy, self._graph)):
            return self._passed(self._reading((node,), _unchanged, False), images)[0]

        def call(pixels: Images) -> tuple[Tensor, ...]:
            with kept_input_of_last_linear(self._network) as kept:
                self._network(pixels)
            if not kept:
                raise ModelError(NO_REPRESENTATION)
            return (kept[-1],)

        return self._passed(call, images)[0]

    def update(self, model: nn.Module) -> None:
        """Take over the current weights of the model that this copy was prepared from."""
        if self._live:  # it is that model itself
            return
        current = tensors(model)
        with torch.no_grad():
            for name, tensor in self._copied.items():
                tensor.copy_(current[name])
            for conv, norm, eps in self._pairs:
                target: Any = self._copy.get_submodule(conv)
                weight, bias = fused(current, conv, norm, eps)
                target.weight.copy_(weight)
                target.bias.copy_(bias)


def prepare(
    model: nn.Module, images: Images | None = None, *, dtype: torch.dtype | None = None
) -> Prepared:
    """The frozen evaluation copy of a model; an existing copy is returned as it is.

    Args:
        model: pixels in [0, 1] → logits.
        images: a real batch on which copy and model are compared (default: the first one that the
            copy sees).
        dtype: the precision of the computation (default: the model's own).

    Raises:
        AdvlensError: as `Prepared.check`.
    """
    prepared = model if isinstance(model, Prepared) else Prepared(model, dtype)
    if images is not None:
        prepared.check(images)
    return prepared


def _named(model: nn.Module, path: str) -> str:
    return layer_name(model, path.removeprefix("network."))


def _maximum(maps: Tensor) -> Tensor:
    return maps.amax(dim=(2, 3)).clamp_(min=0)


def _unchanged(values: Tensor) -> Tensor:
    return values


def _fine(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))
