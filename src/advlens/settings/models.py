"""How models are read."""

from dataclasses import dataclass

from advlens.typed import check_types


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """What every verb that opens a model understands.

    Attributes:
        ignore_keys: patterns of what is left out of weights files, such as "loss.*": tensors that
            the network does not need, or dictionaries of tensors, by their names in the file.
        head: which part of what the network returns its logits are, if it returns several: a key,
            an attribute or a number (default: logits, out, or the first part).
    """

    ignore_keys: tuple[str, ...] = ()
    head: str | None = None

    def __post_init__(self) -> None:
        check_types(self, named=False)  # they are named like the flags
