"""Pictures that stages leave in the run folder."""

import re
from pathlib import Path

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from advlens.files import atomic

SIDE = 112
"""Pixels of a picture's side, at least."""


def write_png(image: Float[Tensor, "3 h w"], path: Path) -> None:
    """Write pixels in [0, 1] as a PNG, whole or not at all."""
    pixels = (image.detach() * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    with atomic(path) as output:
        Image.fromarray(pixels).save(output, format="PNG")


def enlarged(image: Float[Tensor, "c h w"]) -> Float[Tensor, "c h2 w2"]:
    """A small image repeated pixel by pixel to a side of at least 112, to be drawn on."""
    factor = -(-SIDE // min(image.shape[1:]))
    return image.repeat_interleave(factor, dim=1).repeat_interleave(factor, dim=2)


def slug(name: str) -> str:
    """A name as a part of a file name."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-.")[:60] or "x"
