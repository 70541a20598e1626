"""Attributions of captum by name."""

import inspect
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from advlens.arrays import Ids, Images, Labels, PerImage
from advlens.attribution.base import (
    Attribution,
    Target,
    check_finite,
    completeness,
    predicted,
    score,
    uncertainty,
)
from advlens.attribution.baselines import Baseline, blurred, noise
from advlens.checks import check_positive, check_seed, check_types
from advlens.errors import ModelError, SettingsError
from advlens.interop.guests import check_arguments, guest, library, library_class, users
from advlens.models.classifier import check_images
from advlens.prepared import Prepared, number_images, place_images, prepare
from advlens.seeding import derived
from advlens.settings.spec import MethodSpec, parse_method

OURS = ("target", "baseline")
UNFIT = {
    "LayerAttribution": "explains a layer or a neuron, not the pixels of an image",
    "NeuronAttribution": "explains a layer or a neuron, not the pixels of an image",
    "FeaturePermutation": "compares the images of a batch; use captum:FeatureAblation",
    "DataLoaderAttribution": "wraps another attribution, to add it up over a set of images",
    "ShapleyValues": "takes every order of the pixels, which never ends; use "
    "captum:ShapleyValueSampling",
    "LLMAttribution": "explains language models",
    "RemoteLLMAttribution": "explains language models",
    "LLMGradientAttribution": "explains language models",
}
"""Classes of captum that cannot explain an image, with all that are made from them."""
LAYERS: dict[Any, type[nn.Module]] = {
    F.relu: nn.ReLU,
    F.relu_: nn.ReLU,
    torch.relu: nn.ReLU,
    torch.relu_: nn.ReLU,
    torch.sigmoid: nn.Sigmoid,
    torch.tanh: nn.Tanh,
    F.sigmoid: nn.Sigmoid,
    F.tanh: nn.Tanh,
    "relu": nn.ReLU,
    "relu_": nn.ReLU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    nn.ReLU: nn.ReLU,
    nn.Sigmoid: nn.Sigmoid,
    nn.Tanh: nn.Tanh,
}
"""Functions, methods and layers → the layer that does the same."""


@dataclass(frozen=True, kw_only=True)
class CaptumAttribution:
    """An attribution of captum, of our score, on our prepared model, image by image.

    Each image is explained by itself: its random numbers come from the seed and its id, and memory
    is that of one image and `batch_size` points. The completeness gap is known of methods that
    captum gives a convergence delta, and NaN for others, as the standard error is for all.

    Attributes:
        name: captum and class, with its settings.
        kind: the class.
        made: its settings where it is made.
        asked: its settings where it is asked for an attribution.
        target: F, the "logit" of the class or its softmax "probability".
        baseline: "black", "blurred" or "noise" (uniform pixels, drawn for each image), for methods
            that have a baseline.
        batch_size: points per pass, for methods that take many.
        seed: of everything random.
    """

    name: str
    kind: Any
    made: dict[str, Any]
    asked: dict[str, Any]
    target: Target = "logit"
    baseline: Baseline = "black"
    batch_size: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        check_types(self)
        check_positive(self, "batch_size", where=self.name)
        check_seed(self, where=self.name)

    @property
    def starts_from(self) -> str:
        """The baselines in words; nothing for a method without them."""
        known = inspect.signature(self.kind.attribute).parameters.get("baselines")
        if known is None:
            return ""
        return self.baseline if known.default is not inspect.Parameter.empty else "background"

    def __call__(
        self,
        model: nn.Module,
        images: Images,
        labels: Labels | None = None,
        *,
        ids: Ids | None = None,
        background: Images | None = None,
    ) -> Attribution:
        """The attribution of each image; its points count how often the model was evaluated.

        Args:
            model: pixels in [0, 1] → logits; or its prepared copy, which saves the preparation.
            images: pixels in [0, 1], N×3×H×W.
            labels: the class to explain (default: the predicted one).
            ids: a stable number for each image, which its randomness is drawn from (default 0…N−1).
            background: pixels in [0, 1], M×3×H×W, for methods that average over many baselines
                (GradientShap, DeepLiftShap).

        Raises:
            DataError: images that are not pixels in [0, 1].
            SettingsError: labels that are not a class for each image, or a background that is
                missing.
            ModelError: captum fails on the model.
            NumericError: a score or gradient that is not finite.
        """
        with torch.no_grad():
            prepared = prepare(model)
            images = place_images(prepared, images)
            classes, logits = predicted(prepared, images, labels, self.batch_size)
            scored = _Score(_separated(prepared), self.target)
            heights = score(logits.double(), classes, self.target)
            known = uncertainty(logits, classes, self.target)
            values, points = torch.zeros_like(images), torch.zeros_like(classes)
            gap = torch.full_like(heights, torch.nan)
            for row, number in enumerate(number_images(images, ids)):
                image, own = images[row : row + 1], classes[row : row + 1]
                starts = self._starts(image, number[None], background)
                seed, scored.points = derived(self.seed, int(number)), 0
                with guest(self.name, scored, seed) as host:
                    explainer = self._explainer(host)
                    given = self._given(explainer, starts) | {"additional_forward_args": (own,)}
                    # a leaf of its own: captum sets requires_grad on what it is given
                    values[row] = self._one(explainer.attribute(image.clone(), **given), image)
                    complete = explainer.has_convergence_delta()
                points[row] = scored.points
                if complete and "baselines" in given:
                    floor = score(prepared(starts).double(), own.expand(len(starts)), self.target)
                    total = values[row].sum(dtype=torch.float64)
                    gap[row] = completeness(total, heights[row] - floor.mean(), known[row])
            check_finite(self.name, values)
            return Attribution(values, classes, gap, torch.full_like(gap, torch.nan), points)

    def _starts(self, image: Images, ids: Ids, background: Images | None) -> Images:
        """The baselines of one image."""
        if self.starts_from == "background":
            if background is None:
                raise SettingsError(
                    f"{self.name} averages over images of a background; pass background=images"
                )
            return check_images(background).to(image)
        if self.baseline == "blurred":
            return blurred(image)
        if self.baseline == "noise":
            return noise(self.seed, image, ids)(torch.zeros(1, dtype=torch.int64), 0)
        return torch.zeros_like(image)

    def _explainer(self, scored: nn.Module) -> Any:
        made = dict(self.made)
        if "attribution_method" in made:  # NoiseTunnel's
            made["attribution_method"] = made["attribution_method"](scored)
            return self.kind(**made)
        if "layer" in made:  # GuidedGradCam's
            made["layer"] = _layer(self.name, str(made["layer"]), scored)
        return self.kind(scored, **made)

    def _given(self, explainer: Any, starts: Images) -> dict[str, Any]:
        known = inspect.signature(explainer.attribute).parameters
        given = dict(self.asked)
        if "internal_batch_size" in known:
            given.setdefault("internal_batch_size", self.batch_size)
        if "baselines" in known:
            given["baselines"] = starts
        return given

    def _one(self, values: Tensor, image: Images) -> Images:
        if values.shape != image.shape:
            raise ModelError(
                f"{self.name} returns {tuple(values.shape)} for an image {tuple(image.shape)}"
            )
        return values.detach()[0]


@dataclass(frozen=True, kw_only=True)
class OwnAttribution:
    """An attribution of the user's own, called as ours are.

    Attributes:
        name: module and class, with its settings.
        method: `method(model, images, labels, ids=ids) -> Attribution`; it may take a `background`.
        target, starts_from: the score and the baselines in words; a user's own does not tell them.
    """

    name: str
    method: Any
    target: str = ""
    starts_from: str = ""

    def __call__(
        self,
        model: nn.Module,
        images: Images,
        labels: Labels | None = None,
        *,
        ids: Ids | None = None,
        background: Images | None = None,
    ) -> Attribution:
        """The attribution of each image.

        Raises:
            ModelError: the method returns anything but finite attributions of these images.
        """
        given: dict[str, Any] = {"ids": ids}
        if "background" in inspect.signature(self.method).parameters:
            given["background"] = background
        made = self.method(model, images, labels, **given)
        if (
            isinstance(made, Attribution)
            and made.values.shape == images.shape
            and bool(made.values.isfinite().all())
        ):
            return made
        raise ModelError(
            f"{self.name} must return advlens.attribution.Attribution(…) with finite values of the "
            f"images' shape {tuple(images.shape)}"
        )


def make_attribution(
    text: str, *, seed: int = 0, batch_size: int = 64
) -> CaptumAttribution | OwnAttribution:
    """The attribution that a text names, such as `captum:Occlusion(sliding_window_shapes=(3,4,4))`.

    Args:
        text: `captum:Name(…)`, with captum's own settings, those of the class and those of its
            `attribute`; and target=logit or probability, baseline=black, blurred or noise. Or a
            class of your own, `package.module:Name(…)`, whose instances are called as ours are.
        seed: of everything random.
        batch_size: points per pass.

    Raises:
        SettingsError: there is no such attribution or setting, or captum is not installed.
    """
    spec = parse_method(text)
    if spec.library != "captum":
        return _users(spec, seed)
    captum = library("captum", "captum.attr")
    kind = _fit(spec, captum)
    settings = spec.without(*OURS)
    known = inspect.signature(kind).parameters
    made = {key: value for key, value in settings.items() if key in known}
    asked = {key: value for key, value in settings.items() if key not in known}
    if "attribution_method" in made:
        inner = MethodSpec("captum", str(made["attribution_method"]), {})
        made["attribution_method"] = _fit(inner, captum)
        check_arguments(inner, made["attribution_method"], None)
    check_arguments(spec, kind, *([] if "attribution_method" in known else [None]), **made)
    takes = inspect.signature(kind.attribute).parameters
    needs = {"baselines": None} if "baselines" in takes else {}
    if taken := {"inputs", "baselines", "target", "additional_forward_args"} & {*asked}:
        raise SettingsError(f"{spec}: {min(taken)} is set by advlens; use target= and baseline=")
    check_arguments(spec, kind.attribute, None, None, **needs, **asked)
    ours = {key: spec.settings[key] for key in OURS if key in spec.settings}
    return CaptumAttribution(
        name=spec.said(),
        kind=kind,
        made=made,
        asked=asked,
        batch_size=batch_size,
        seed=seed,
        **ours,
    )


def _users(spec: MethodSpec, seed: int) -> OwnAttribution:
    kind = users(spec, object, "attributions; use captum:NAME")
    given = dict(spec.settings)
    if "seed" in inspect.signature(kind).parameters:
        given.setdefault("seed", seed)
    check_arguments(spec, kind, **given)
    method = kind(**given)
    if not callable(method):
        raise SettingsError(f"{spec} has no __call__(model, images, labels, *, ids)")
    return OwnAttribution(name=spec.said(), method=method)


def _fit(spec: MethodSpec, captum: ModuleType) -> Any:
    """The class that a specification names, if it explains an image."""
    kind = library_class(spec, captum, captum.Attribution)
    for name, reason in UNFIT.items():
        if issubclass(kind, getattr(captum, name, ())):  # an older captum lacks some
            raise SettingsError(f"{spec} {reason}")
    if not hasattr(kind, "attribute"):
        raise SettingsError(f"{spec} is what attributions are made from; name one of those")
    return kind


class _Score(nn.Module):
    """Images and their classes → F of each, so that captum needs no target of its own."""

    def __init__(self, model: nn.Module, target: Target):
        super().__init__()
        self.model, self.target, self.points = model, target, 0

    def forward(self, images: Images, classes: Labels) -> PerImage:
        self.points += len(images)
        return score(self.model(images), classes, self.target)


def _layer(name: str, layer: str, scored: nn.Module) -> nn.Module:
    """A convolution by its name in tables; a block by its own: its last convolution."""
    convolutions = {
        path: module for path, module in scored.named_modules() if isinstance(module, nn.Conv2d)
    }
    own = [path for path in convolutions if f".{path}".endswith(f".{layer}")]
    within = [path for path in convolutions if f".{layer}." in f".{path}"]
    if not own + within:
        raise ModelError(f"{name}: the model has no convolution {layer!r}, nor one within it")
    return convolutions[min(own, key=len) if own else within[-1]]


def _separated(model: Prepared) -> nn.Module:
    """The model with a layer of its own for each activation, where it can be traced.

    DeepLift, LRP, GuidedBackprop and Deconvolution change what layers do, see no functions, and
    fail on a layer that is used twice.
    """
    try:
        traced = fx.symbolic_trace(model)
    except Exception:  # fx raises anything at all on control flow that it cannot follow
        return model
    modules = dict(traced.named_modules())
    for number, node in enumerate(list(traced.graph.nodes)):
        called = type(modules[node.target]) if node.op == "call_module" else node.target
        if node.op in ("call_function", "call_method", "call_module") and called in LAYERS:
            traced.add_submodule(f"activation_{number}", LAYERS[called]())
            with traced.graph.inserting_after(node):
                own = traced.graph.call_module(f"activation_{number}", (node.all_input_nodes[0],))
            node.replace_all_uses_with(own)
            traced.graph.erase_node(node)
    traced.recompile()
    return traced.eval()
