"""How models are read."""

from dataclasses import dataclass
from typing import Annotated

from advlens.checks import Precision, check_types
from advlens.settings.numbers import NoHint


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """Flags of every verb that opens a model.

    Attributes:
        ignore_keys: patterns for what to leave out of weights files, such as "loss.*": tensors that
            the network does not need, or dictionaries of tensors, by their names in the file.
        head: the part of a model's output that holds the logits, if it has several: a key, an
            attribute or a number (default: logits, out, or the first part).
    """

    ignore_keys: Annotated[tuple[str, ...], NoHint] = ()
    head: Annotated[str | None, NoHint] = None

    def __post_init__(self) -> None:
        check_types(self, where="")  # named like the flags


@dataclass(frozen=True, kw_only=True)
class ComputeSettings(ModelSettings):
    """Flags of every verb that computes with a model.

    Attributes:
        tf32: let a GPU round products and convolutions to TensorFloat-32, which is faster; by
            default float32 is float32.
        deterministic: use only algorithms that give the same bits each time, which a GPU does not
            do by itself; an error where there is none.
    """

    tf32: bool = False
    deterministic: bool = False

    @property
    def rounding(self) -> dict[str, bool]:
        """The arguments of `rounded`."""
        return {"tf32": self.tf32, "deterministic": self.deterministic}


@dataclass(frozen=True, kw_only=True)
class StepSettings(ComputeSettings):
    """Flags of every verb that climbs gradients of a finished model.

    Attributes:
        precision: bf16 takes gradient steps in bfloat16, faster where the machine has it; what is
            counted is always float32.
    """

    precision: Precision = "float32"


@dataclass(frozen=True, kw_only=True)
class ImageSettings(ComputeSettings):
    """Flags of every verb that also opens images with classes.

    Attributes:
        exif_orientation: turn images as their EXIF data say; torchvision and most others do not.
    """

    exif_orientation: bool = False
