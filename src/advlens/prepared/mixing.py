"""Whether gradient steps can be taken in bfloat16, on this machine and with this model."""

import torch
import torch.nn.functional as F

from advlens.arrays import Images
from advlens.checks import Precision
from advlens.errors import AdvlensError, SettingsError
from advlens.prepared.frozen import Prepared
from advlens.prepared.precision import mixed
from advlens.prepared.trial import CHECKED, look_at

ALIKE = 0.8
"""Least cosine between the gradients of both precisions; sound networks exceed .95."""
INSTEAD = "leave precision out, for steps in float32"


def check_steps(model: Prepared, images: Images, precision: Precision) -> None:
    """Refuse bfloat16 where the machine or the model does not bear it; a model is tried once.

    Args:
        model: the prepared copy.
        images: a real batch on its device, of which the first few are used.
        precision: "float32" is always possible.

    Raises:
        SettingsError: the machine has no such arithmetic; or the model is not in float32, fails in
            bfloat16, or has gradients there that point elsewhere.
    """
    if precision == "float32" or model.mixes or len(images) == 0:
        return
    if model.dtype != torch.float32:
        told = str(model.dtype).removeprefix("torch.")
        raise SettingsError(
            f"precision bf16 is for models in float32, but this one is in {told}; {INSTEAD}"
        )
    if not has_bfloat16(model.device):
        raise SettingsError(
            f"precision bf16 is not possible here, because PyTorch knows of no arithmetic in "
            f"bfloat16 on this machine's {model.device.type}; {INSTEAD}"
        )
    model.check(images)
    few = images[:CHECKED]
    exact = look_at(model, few, 0, True)
    try:
        with mixed(model.device, precision):
            rough = look_at(model, few, 0, True)
    except AdvlensError as error:
        raise SettingsError(f"precision bf16 is not possible: {error}; {INSTEAD}") from error
    along = F.cosine_similarity(exact.gradient.flatten(), rough.gradient.flatten(), dim=0).item()
    if exact.gradient.any() and not (model.randomized or along > ALIKE):
        raise SettingsError(
            "precision bf16 is not for this model, whose gradients in bfloat16 point elsewhere "
            f"(cosine {along:.2f}); {INSTEAD}"
        )
    model.mixes = True


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device itself computes in bfloat16: emulation is slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return bool(torch.amp.is_autocast_available(device.type))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
