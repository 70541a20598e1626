"""Which forms of a copy reproduce the model: both run on one real batch, twice each.

Logits and input gradients must agree up to rounding, with the same global random numbers in both.
This excludes a graph that froze the forward's random draws, forgot an autocast or a no_grad, or
took another branch, and a memory layout that the model's code does not support.
"""

import contextlib
import copy
import io
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from advlens.arrays import Images
from advlens.errors import AdvlensError, ModelError, NumericError
from advlens.models.classifier import Classifier, precision_of, to_evaluation
from advlens.models.outputs import has_one_logit, head_taken, logits_of
from advlens.prepared.forms import FORMS, Copy, Entry, Form, make_copy, model_name, model_origin
from advlens.prepared.precision import rounded
from advlens.seeding import seeded

CHECKED = 2
"""Number of images on which model and copy are compared."""
_FLOORS = {torch.float64: 1e-9, torch.float32: 1e-4}
_NUDGE = 2.0**-22  # relative: the effect of rounding on a pixel


@dataclass(frozen=True)
class Verdict:
    """The result of a trial.

    Attributes:
        form: the fastest form that reproduces the model; None if the model itself must run.
        copy: a copy in that form, in the model's precision.
        shape: shape of the model's output for one image.
        randomized: whether two passes over the same images differ.
        differentiable: whether a gradient flows from the output to the images.
        batch: the only batch size that the model takes, if it takes only one.
        notes: what a reader of the results should know, in sentences.
    """

    form: Form | None
    copy: Copy | None
    shape: tuple[int, ...]
    randomized: bool
    differentiable: bool
    batch: int | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Look:
    """Logits, and the gradient of a fixed combination of them, in float64."""

    logits: Tensor
    gradient: Tensor


def try_forms(
    model: nn.Module, images: Images, *, ready: tuple[Form, Copy] | None = None
) -> Verdict:
    """Find the fastest form that reproduces the model's own results.

    The model runs four times and each tried form twice, on at most `CHECKED` images. The model is
    left unchanged: modes, buffers, plain attributes, random numbers.

    Args:
        model: images → logits.
        images: a real batch, on the model's device.
        ready: a form with its finished copy, which is not made again.

    Raises:
        ModelError: the model fails on these images.
        NumericError: it returns NaN.
    """
    name, origin = model_name(model), model_origin(model)
    images = images.to(precision_of(model)).contiguous()
    notes: list[str] = []
    with (
        rounded(),  # other rounding would hide errors of a copy
        torch.autocast(images.device.type, enabled=False),
        untouched(model),
        torch.inference_mode(False),
    ):
        entry = Entry(model)
        first, few, differentiable, told = _first_look(origin, model, images)
        whole = len(few) == len(images) > CHECKED
        before = _state(model)
        second = _looked(origin, entry, few, 1, differentiable)
        changing = _state(model) != before
        nudged = few * (1 + _NUDGE * _signs(few))
        third = _looked(origin, entry, nudged.clamp(0, 1), 0, differentiable)
        close = partial(
            are_close, noise=third, floor=_FLOORS.get(images.dtype, _coarse(images.dtype))
        )
        randomized = not close(first, second)
        batch, alone = (len(few) if whole else None), first.logits[:1]
        if len(few) > 1 and not whole:
            try:
                alone = look_at(entry, few[:1], 0, False).logits
            except AdvlensError:
                raise
            except Exception:  # a user's forward can raise anything
                batch = len(few)
    notes += told
    if not differentiable:
        notes.append(
            f"no gradient flows from what {name} returns to the images, so attacks and "
            "attributions by gradients find nothing"
        )
    elif not first.gradient.any():
        notes.append(
            f"the gradient of {name} is exactly 0 on the first images, as behind rounding or a "
            "sign, so attacks and attributions by gradients find nothing"
        )
    if randomized:
        notes.append(
            f"{name} is randomized: two passes over the same images differ, its logits by up to "
            f"{_apart(first, second):.2g}"
        )
    elif not close(first, Look(torch.cat([alone, first.logits[1:]]), first.gradient)):
        notes.append(
            f"what {name} returns for an image depends on the other images of its batch, so its "
            "numbers depend on the batch size"
        )
    if batch is not None:
        notes.append(f"{name} takes batches of {batch} images only; smaller ones are filled up")
    if changing:
        notes.append(f"{name} changes its own state in each pass")
    wanted = [first, second]
    form, made, reason = _fastest(model, few, wanted, differentiable, close, changing, ready)
    if form is None or form != FORMS[0]:
        notes.append(f"{name} runs {_how(form)}: {reason}")
    shape = tuple(first.logits.shape[1:])
    return Verdict(form, made, shape, randomized, differentiable, batch, tuple(notes))


def _how(form: Form | None) -> str:
    return f"without {form}" if form is not None else "itself, not a copy of it"


def _fastest(
    model: nn.Module,
    images: Images,
    wanted: list[Look],
    differentiable: bool,
    close: Any,
    changing: bool,
    ready: tuple[Form, Copy] | None,
) -> tuple[Form | None, Copy | None, str]:
    """The first form whose looks match the wanted ones, and why those before it were rejected."""
    reasons, traceable = list[str](), not changing
    if changing:
        reasons.append("a graph cannot follow a state that each pass changes")
    for form in FORMS:
        if form.traced and not traceable:
            continue
        try:
            made = ready[1] if ready is not None and ready[0] == form else make_copy(model, form)
        except ModelError as error:
            reasons.append(str(error))
            if not form.traced:
                break  # it cannot be copied
            traceable = False
            continue
        layout = torch.channels_last if form.channels_last else torch.contiguous_format
        given = images.contiguous(memory_format=layout)
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # torch prints its own report
                looks = [look_at(made.network, given, seed, differentiable) for seed in (0, 1)]
        except Exception as error:
            reasons.append(f"otherwise it fails ({_said(error)})")
            continue
        if all(close(look, other) for look, other in zip(wanted, looks, strict=True)):
            return form, made, next(iter(reasons), "")
        furthest = max(_apart(look, other) for look, other in zip(wanted, looks, strict=True))
        reasons.append(
            "otherwise its logits or gradients differ beyond rounding, the logits by up to "
            f"{furthest:.2g}"
        )
    return None, None, reasons[0]


def _first_look(
    name: str, model: nn.Module, images: Images
) -> tuple[Look, Images, bool, list[str]]:
    """A first pass: the look, its images, whether it has a gradient, and notes on the output."""
    told: list[str] = []

    def listen(module: nn.Module, inputs: Any, output: Any) -> None:
        told[:] = _output_notes(model, output)

    network = model.network if isinstance(model, Classifier) else model
    hook: Any = contextlib.nullcontext()
    if not isinstance(network, torch.jit.ScriptModule):  # it takes no hooks, and returns tensors
        hook = network.register_forward_hook(listen)
    entry, failures = Entry(model), list[Exception]()
    with hook:
        for differentiable in (True, False):  # numpy refuses tensors that require a gradient
            for few in dict.fromkeys((images[:CHECKED], images)):
                try:
                    look = look_at(entry, few, 0, differentiable)
                except AdvlensError:
                    raise
                except Exception as error:  # a user's forward can raise anything
                    failures.append(error)
                    continue
                _check_numbers(name, few, look)
                if differentiable and look.gradient is _NONE:
                    differentiable = False
                return look, few, differentiable, told
    raise ModelError(_fails(name, images, failures[0])) from failures[0]


def _output_notes(model: nn.Module, output: Any) -> list[str]:
    """What is to be said of a network's output."""
    name, notes = model_name(model), list[str]()
    wanted = model.head if isinstance(model, Classifier) else None
    if (head := head_taken(output, wanted)) is not None:
        notes.append(
            f"{name} returns several parts; {head} is taken as its logits (choose another with "
            "--head)"
        )
    if isinstance(model, Classifier) and has_one_logit(logits_of(output, wanted)):
        notes.append(
            f"{name} returns one logit for each image, which is taken as that of the second of two "
            "classes"
        )
    return notes


def _looked(name: str, network: nn.Module, images: Images, seed: int, differentiable: bool) -> Look:
    """A later pass of the model itself."""
    try:
        look = look_at(network, images, seed, differentiable)
    except AdvlensError:
        raise
    except Exception as error:  # a user's forward can raise anything
        raise ModelError(_fails(name, images, error)) from error
    _check_numbers(name, images, look)
    return look


_NONE = torch.empty(0)
"""Stands for the gradient if there is none."""


def look_at(network: nn.Module, images: Images, seed: int, differentiable: bool) -> Look:
    with seeded(seed, images.device), torch.set_grad_enabled(differentiable):
        inputs = images.detach().clone(memory_format=torch.preserve_format)
        inputs.requires_grad_(differentiable)
        logits: Tensor = network(inputs)
        gradient: Tensor | None = None
        if differentiable and logits.requires_grad:
            # weighted by position in batch and output, so that a swap of logits shows
            values = logits.where(logits.isfinite(), 0).double().flatten(1)
            weights = torch.linspace(-1, 1, values.numel(), device=values.device).double()
            score = (values * weights.view_as(values)).sum()
            try:
                (gradient,) = torch.autograd.grad(score, inputs, allow_unused=True)
            except Exception as error:  # a user's backward can raise anything
                raise ModelError(
                    f"the gradient of the logits of {network} with respect to the images cannot be "
                    f"taken ({_said(error)})"
                ) from error
    slope = _NONE if gradient is None else gradient.detach().double()
    return Look(logits.detach().double(), slope)


def _check_numbers(name: str, images: Images, look: Look) -> None:
    if look.logits.ndim < 2 or len(look.logits) != len(images):
        raise ModelError(
            f"{name} returns {tuple(look.logits.shape)} for {len(images)} images; it must return "
            "one row of logits for each (in advlens.Classifier, one number is the logit of the "
            "second of two classes)"
        )
    if look.logits.isnan().any():
        raise NumericError(
            f"{name} returns NaN on images in [0, 1], so its results mean nothing: check its "
            "weights"
        )


def are_close(look: Look, other: Look, *, noise: Look, floor: float) -> bool:
    """Whether two looks at the same images differ only by rounding.

    The effect of rounding on a model is measured on images that are changed by rounding, but
    hundredths of the logits or tenths of a gradient never count as rounding.
    """
    if look.logits.shape != other.logits.shape or look.gradient.shape != other.gradient.shape:
        return False
    if not torch.equal(look.logits.isfinite(), other.logits.isfinite()):
        return False
    if not torch.equal(look.gradient.isfinite(), other.gradient.isfinite()):
        return False
    scale = _finite(look.logits).abs().amax().item()
    allowed = max(floor * scale, min(10 * _apart(look, noise), 0.01 * scale))
    if _apart(look, other) > allowed:
        return False
    gradient = _finite(look.gradient)
    length = gradient.norm().item()
    moved = (gradient - _finite(noise.gradient)).norm().item()
    allowed = max(10 * floor * length, min(10 * moved, 0.1 * length))
    differs = (gradient - _finite(other.gradient)).norm().item()
    return bool(differs <= allowed)


def _apart(look: Look, other: Look) -> float:
    """The largest difference between the logits."""
    return (_finite(look.logits) - _finite(other.logits)).abs().amax().item()


def _finite(values: Tensor) -> Tensor:
    return values.where(values.isfinite(), 0)


def _coarse(dtype: torch.dtype) -> float:
    return 16 * torch.finfo(dtype).eps


def _signs(images: Images) -> Tensor:
    flat = torch.arange(images.numel(), device=images.device).view_as(images)
    return (flat % 2 * 2 - 1).to(images.dtype)


def _fails(name: str, images: Images, error: Exception) -> str:
    shape = "×".join(map(str, images.shape))
    return (
        f"{name} fails on a batch of images {shape} ({_said(error)}); it must take pixels in [0, 1]"
        " and return logits"
    )


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


@contextlib.contextmanager
def evaluated(model: nn.Module) -> Iterator[None]:
    """Within the block the model is in evaluation mode; each module's mode is then restored."""
    modes = [(m, m.training) for m in model.modules() if hasattr(m, "training")]
    to_evaluation(model)
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextlib.contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Restore modes, buffers and plain attributes at the end."""
    buffers = [(module, dict(module._buffers)) for module in model.modules()]
    values = {id(b): b.detach().clone() for b in model.buffers()}
    plain = [(module, _plain_attributes(module)) for module in model.modules()]
    try:
        with evaluated(model):
            yield
    finally:
        with torch.no_grad():
            for module, before in buffers:
                if type(module._buffers) is dict:  # a script cannot replace its own
                    module._buffers.update(before)
            for buffer in model.buffers():
                if not _same(buffer, values[id(buffer)]):
                    buffer.copy_(values[id(buffer)])
        for module, attributes in plain:
            vars(module).update(attributes)


def _state(model: nn.Module) -> dict[str, Any]:
    """What a pass may change in a model, in a comparable form."""
    state: dict[str, Any] = {}
    for path, module in model.named_modules():
        state |= {f"{path}.{key}": value for key, value in _plain_attributes(module).items()}
    for path, buffer in model.named_buffers():
        state[path] = _Values(buffer.detach().clone())
    return state


class _Values:
    """A tensor that compares as a whole."""

    def __init__(self, tensor: Tensor):
        self.tensor = tensor

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Values) and _same(self.tensor, other.tensor)

    __hash__ = None  # type: ignore[assignment]


def _same(tensor: Tensor, other: Tensor) -> bool:
    return tensor.shape == other.shape and bool(((tensor == other) | (tensor != tensor)).all())


_OWN = frozenset(vars(nn.Module()))
"""Attributes that torch keeps on every module."""


def _plain_attributes(module: nn.Module) -> dict[str, Any]:
    return {
        key: copy.deepcopy(value)
        for key, value in vars(module).items()
        if key not in _OWN and _is_plain(value)
    }


def _is_plain(value: object) -> bool:
    if isinstance(value, dict):
        return all(_is_plain(each) for pair in value.items() for each in pair)
    if isinstance(value, (list, tuple, set, frozenset)):
        return all(map(_is_plain, value))
    return value is None or type(value) in (bool, int, float, complex, str)
