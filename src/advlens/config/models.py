"""How models are read."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """What every verb that reads a weights file understands.

    Attributes:
        ignore_keys: patterns of what is left out of weights files, such as "loss.*": tensors that
            the network does not need, or dictionaries of tensors, by their names in the file.
    """

    ignore_keys: tuple[str, ...] = ()
