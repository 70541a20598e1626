"""Which channels are pruned, and how they stay pruned."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.prune import LnStructured

from advlens.errors import ModelError, SettingsError
from advlens.models import Classifier
from advlens.prepared.units import layer_name, trace


def kept_channels(model: nn.Module, sparsity: float) -> dict[str, Tensor]:
    """The channels that stay when each convolution loses those of smallest L2 norm.

    The norm of a channel is that of the weights that compute it (Li et al. 2017, Pruning filters
    for efficient ConvNets, with L2 in place of L1). Every convolution loses the same share, rounded
    to the nearest number of channels. A normalization right behind a convolution loses the same
    ones: with its bias also 0, a pruned channel is exactly 0.

    Args:
        model: images → logits.
        sparsity: share of the channels to prune, ≥ 0 and < 1.

    Returns:
        For each affected parameter, by name: truth values, one per channel, on the CPU.

    Raises:
        ModelError: the model has no convolution, or control flow that cannot be traced.
        SettingsError: a convolution would keep no channel.
    """
    graph, modules, kept = trace(model), dict(model.named_modules()), dict[str, Tensor]()
    for node in graph.nodes:
        path = str(node.target)
        if node.op != "call_module" or not isinstance(modules[path], nn.Conv2d):
            continue
        # on the CPU and in double precision, so that every machine chooses the same channels
        weight = modules[path].get_parameter("weight").detach().cpu().double()
        method: Any = LnStructured(amount=float(sparsity), n=2, dim=0)
        mask: Tensor = method.compute_mask(weight, torch.ones_like(weight))
        channels = mask.flatten(1).any(dim=1)
        if not channels.any():
            raise SettingsError(
                f"sparsity {sparsity:g} leaves none of the {len(channels)} channels of layer "
                f"{layer_name(model, path)}; give a smaller one"
            )
        behind = [str(user.target) for user in node.users if user.op == "call_module"]
        norms = [name for name in behind if isinstance(modules[name], _BatchNorm | nn.GroupNorm)]
        for name in (path, *norms):
            for parameter, _ in modules[name].named_parameters(recurse=False):
                kept[f"{name}.{parameter}"] = channels
    if not kept:
        raise ModelError(f"{type(model).__name__} has no convolution to prune; name another model")
    return kept


def prune(classifier: Classifier, sparsity: float) -> dict[str, Tensor]:
    """Set pruned channels to 0, in place, and keep them there when the classifier is trained.

    A weight of 0 whose gradient is 0 stays 0 under momentum, Adam, weight decay and averaging.

    Returns:
        The result of `kept_channels`.

    Raises:
        AdvlensError: as in `kept_channels`; then the classifier is unchanged.
    """
    kept = kept_channels(classifier, sparsity)
    for name, channels in kept.items():
        parameter = classifier.get_parameter(name)
        mask = channels.to(parameter).view(-1, *[1] * (parameter.ndim - 1))
        parameter.data[~channels] = 0
        parameter.register_hook(partial(torch.mul, mask))  # type: ignore[no-untyped-call]
    return kept
