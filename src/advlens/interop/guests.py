"""Methods of other libraries as guests: found by name, seeded, and gone without a trace."""

import contextlib
import importlib
import inspect
import io
import warnings
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from advlens.errors import AdvlensError, ModelError, SettingsError
from advlens.models.classifier import device_of
from advlens.plugins import named
from advlens.seeding import seeded
from advlens.settings.spec import MethodSpec
from advlens.words import perhaps


def library(name: str, module: str = "") -> ModuleType:
    """An optional library, or a module of it.

    Raises:
        SettingsError: it is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # theirs
            return importlib.import_module(module or name)
    except ImportError as error:
        raise SettingsError(
            f"{name} cannot be imported ({error}); install it with: pip install 'advlens[{name}]'"
        ) from error


def library_class(spec: MethodSpec, module: ModuleType, kind: type) -> Any:
    """The class of a library that a specification names.

    Raises:
        SettingsError: there is none of this kind.
    """
    thing = getattr(module, spec.name, None)
    if inspect.isclass(thing) and issubclass(thing, kind):
        return thing
    known = [n for n, t in vars(module).items() if inspect.isclass(t) and issubclass(t, kind)]
    hint = perhaps(spec.name, known, 3)
    raise SettingsError(f"{spec.library} has no {kind.__name__.lower()} {spec.name!r}{hint}")


def users(spec: MethodSpec, kind: type, others: str) -> Any:
    """The user's own class that a specification `package.module:Class` names.

    Args:
        spec: the specification.
        kind: the class that it must derive from.
        others: the alternatives, for the error, as "attacks; use foolbox:NAME".

    Raises:
        SettingsError: there is no such module or class, or it derives from another one.
    """
    try:
        thing = named(spec.library, spec.name)
    except Exception as error:  # the user's code may raise anything
        raise SettingsError(
            f"{spec}: there is no library {spec.library!r} of {others}, and no such class can be "
            f"imported from here: {type(error).__name__}: {error}"
        ) from error
    if not inspect.isclass(thing) or not issubclass(thing, kind):
        wanted = "a class" if kind is object else f"a class made from advlens's {kind.__name__}"
        raise SettingsError(f"{spec} must be {wanted}, not {thing!r}")
    return thing


def check_arguments(spec: MethodSpec, call: Callable[..., Any], *given: Any, **named: Any) -> None:
    """Raise SettingsError for settings that a call would not take."""
    try:
        inspect.signature(call).bind(*given, **named)
    except TypeError as error:
        takes = ", ".join(list(inspect.signature(call).parameters)[len(given) :])
        raise SettingsError(f"{spec}: {error}; it takes {takes or 'no settings'}") from error


@contextlib.contextmanager
def guest(name: str, model: nn.Module, seed: int) -> Iterator[nn.Module]:
    """What other libraries change is put back: global randomness, modes, gradients, hooks.

    Within the block gradients are taken, global random numbers follow from the seed, and warnings
    and prints are kept to themselves.

    Args:
        name: of the method, for the error.
        model: that it works on.
        seed: ≥ 0.

    Yields:
        The model in a form that others can work with.

    Raises:
        ModelError: in place of anything that the method raises.
    """
    modules = [(module, module.training, _hooks(module)) for module in model.modules()]
    gradients = [(p, p.requires_grad, p.grad) for p in model.parameters()]
    with contextlib.ExitStack() as stack:
        stack.enter_context(seeded(seed, device_of(model)))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(warnings.catch_warnings())
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        warnings.simplefilter("ignore")
        try:
            yield _Host(model)
        except (AdvlensError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # other libraries raise anything at all
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise ModelError(
                f"{name} fails on this model ({type(error).__name__}: {reason}); change its "
                "settings or leave it out"
            ) from error
        finally:
            for module, training, hooks in modules:
                module.training = training
                for own, before in zip(_own_hooks(module), hooks, strict=True):
                    own.clear()
                    own.update(before)
            for parameter, required, gradient in gradients:
                parameter.requires_grad_(required)
                parameter.grad = gradient


class _Host(nn.Module):
    """The model, its gradients laid out as its images are: others call `view` on them."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.training = model.training

    def forward(self, images: Tensor, *others: Tensor) -> Tensor:
        images = images.clone(memory_format=torch.contiguous_format)
        if images.requires_grad:
            images.register_hook(Tensor.contiguous)  # type: ignore[no-untyped-call]
        result: Tensor = self.model(images, *others)
        return result


def _own_hooks(module: nn.Module) -> tuple[dict[int, Any], ...]:
    return (
        module._forward_hooks,
        module._forward_pre_hooks,
        module._backward_hooks,
        module._backward_pre_hooks,
    )


def _hooks(module: nn.Module) -> tuple[dict[int, Any], ...]:
    return tuple(dict(hooks) for hooks in _own_hooks(module))
