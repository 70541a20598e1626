"""Attributions as heat maps over their images."""

import torch
from jaxtyping import Float
from torch import Tensor

from advlens.errors import SettingsError
from advlens.maps import gray

FOR, AGAINST = "#b2182b", "#2166ac"
"""Ends of ColorBrewer's RdBu, which color blindness leaves apart: pixels that speak for the class
explained, and against it."""
FAINT = 0.3
"""What is left of the gray image's contrast, above white."""


def heat_map(
    image: Float[Tensor, "3 h w"], attribution: Float[Tensor, "h w"], scale: float
) -> Float[Tensor, "3 h w"]:
    """A heat map over the faint gray image: red speaks for the class, blue against it.

    A pixel's color covers the image by |attribution| / scale, at most wholly.

    Args:
        image: pixels in [0, 1].
        attribution: of each pixel, of any sign.
        scale: the attribution of full color; 0 leaves the image alone.

    Returns:
        Pixels in [0, 1].

    Raises:
        SettingsError: a scale below 0 or not finite.
    """
    if not 0 <= scale < float("inf"):
        raise SettingsError(f"heat_map: scale must be finite and at least 0, not {scale}")
    faint = 1 - FAINT * (1 - gray(image))
    share = (attribution / scale if scale else torch.zeros_like(attribution)).clamp(-1, 1)
    color = torch.where(share > 0, _rgb(image, FOR), _rgb(image, AGAINST))
    return share.abs() * color + (1 - share.abs()) * faint


def _rgb(image: Tensor, color: str) -> Float[Tensor, "3 1 1"]:
    return image.new_tensor(list(bytes.fromhex(color[1:])))[:, None, None] / 255
