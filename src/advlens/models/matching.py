"""Matching a file's tensors to a network's: names, wrappers around the network, normalizers."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from advlens.models.pickles import shown

_WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
"""Name parts that torch's wrappers add, also around a part of a network."""
_COUNTERS = {"num_batches_tracked", "n_averaged", "total_ops", "total_params"}
"""Single numbers that batch normalization, `AveragedModel` and thop keep, and no output needs."""
_MOST_COPIES = 8
_MEANS = {"mean", "new_mean", "mu", "_mean"}
_STDS = {"std", "new_std", "sigma", "_std"}


@dataclass(frozen=True)
class Matched:
    """A file's tensors under the network's names.

    Attributes:
        tensors: the network's tensors, without those that the file lacks.
        names: the name of each in the file.
        prefix: the prefix of the network's names in the file.
        copies: prefixes of further, equal copies of the network's tensors, which are dropped.
        normalizers: names of tensors with means and standard deviations.
        mean, std: their values, per channel on the [0, 1] scale, or nothing.
        counters: names of counters, which are dropped.
        unknown: names of all other tensors.
    """

    tensors: dict[str, Tensor]
    names: dict[str, str]
    prefix: str
    copies: tuple[str, ...]
    normalizers: tuple[str, ...]
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    counters: tuple[str, ...]
    unknown: tuple[str, ...]


def match(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> Matched:
    """Find a network's tensors in a file, whatever wrapped the network when it was saved.

    The robustness library saves `module.model.X` and again `module.attacker.model.X`, with
    `module.normalizer.new_mean`. RobustBench's models are saved as `normalize.mean`, `model.X` or
    `0.mean`, `1.X`, or with `mu` and `sigma` beside the layers.

    Args:
        state: the file's tensors by name.
        own: the network's tensors.

    Raises:
        ValueError: two copies of a tensor or of a normalizer differ, or a normalizer is invalid.
    """
    plain = _unwrapped(state, own)
    deepest = max((name.count(".") for name in own), default=0) + 1
    counts = Counter(prefix for name in plain for prefix in _prefixes(name, own, deepest))
    prefix = max(counts, key=lambda prefix: (counts[prefix], -len(prefix)), default="")
    full = sum(not name.endswith("num_batches_tracked") for name in own)
    copies = [other for other in counts if other != prefix and counts[other] >= full]
    if len(copies) > _MOST_COPIES:
        raise ValueError(f"it holds {len(copies)} copies of the network")
    names = {name: plain[prefix + name] for name in own if prefix + name in plain}
    used = set(names.values())
    for copy in copies:
        for name in own:
            if (again := plain.get(copy + name)) is not None and name in names:
                tensor = state[names[name]]  # with another shape, it may have any size
                if tensor.shape == own[name].shape and not torch.equal(tensor, state[again]):
                    raise ValueError(
                        f"{shown(names[name])} and {shown(again)} are not the same (--ignore-keys "
                        f"{shown(again.removesuffix(name))}* leaves out the second)"
                    )
                used.add(again)
    rest = {name: source for name, source in plain.items() if source not in used}
    counters = {name for name, source in rest.items() if _counts(name, state[source])}
    mean, std, normalizers = _normalizer({name: state[s] for name, s in rest.items()})
    apart = counters.union(normalizers)
    return Matched(
        tensors={name: state[source] for name, source in names.items()},
        names=names,
        prefix=prefix,
        copies=tuple(copies),
        normalizers=tuple(rest[name] for name in normalizers),
        mean=mean,
        std=std,
        counters=tuple(source for name, source in rest.items() if name in counters),
        unknown=tuple(source for name, source in rest.items() if name not in apart),
    )


def _counts(name: str, tensor: Tensor) -> bool:
    return name.rpartition(".")[2] in _COUNTERS and tensor.numel() == 1


def _unwrapped(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, str]:
    """Names without the parts that wrappers add, and the file's names that they stand for."""
    added = _WRAPPERS - {part for name in own for part in name.split(".")}
    plain: dict[str, str] = {}
    for name in state:
        short = ".".join(part for part in name.split(".") if part not in added)
        if short in plain:
            raise ValueError(f"{shown(plain[short])} and {shown(name)} name the same tensor")
        plain[short] = name
    return plain


def _prefixes(name: str, own: Mapping[str, Tensor], deepest: int) -> list[str]:
    """Each prefix of a name that is followed by one of the network's names.

    Args:
        deepest: the maximum number of parts in a name of the network.
    """
    prefixes, start = list[str](), len(name) + 1
    while start and deepest:
        start = name.rfind(".", 0, start - 1) + 1
        deepest -= 1
        if name[start:] in own:
            prefixes.append(name[:start])
    return [] if name.endswith("num_batches_tracked") else prefixes


def _normalizer(
    rest: Mapping[str, Tensor],
) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None, list[str]]:
    """Mean and standard deviation of three channels among the remaining tensors."""
    values_of: dict[str, dict[str, Tensor]] = {"mean": {}, "std": {}}
    for name, tensor in rest.items():
        last = name.rpartition(".")[2]
        if tensor.numel() == 3 and tensor.is_floating_point():
            if last in _MEANS:
                values_of["mean"][name] = tensor
            elif last in _STDS:
                values_of["std"][name] = tensor
    values: dict[str, tuple[float, ...]] = {}
    for kind, tensors in values_of.items():
        for name, tensor in tensors.items():
            value = tuple(tensor.double().flatten().tolist())
            if values.setdefault(kind, value) != value:
                one, other = (shown(like) for like in (next(iter(tensors)), name))
                raise ValueError(f"{one} and {other} are not the same")
            if not all(-1 <= channel <= 1 for channel in value):
                raise ValueError(f"{shown(name)}, {value}, is not on the [0, 1] scale of pixels")
    if len(values) == 1:
        return None, None, []  # a mean alone is not a normalizer: it stays unknown
    return values.get("mean"), values.get("std"), [*values_of["mean"], *values_of["std"]]
