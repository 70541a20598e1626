"""Pictures that stages leave in the run folder."""

import re
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Float64, Int64
from PIL import Image
from torch import Tensor

from advlens.arrays import Ids, Images
from advlens.attacks import Attack
from advlens.auditing.stage import Context
from advlens.colors import AGAINST, FOR
from advlens.consistency import class_counts
from advlens.errors import SettingsError
from advlens.files import atomic
from advlens.maps import gray

SIDE = 112
"""Minimum side of a picture, in pixels."""
FAINT = 0.3
"""Share of the gray image's contrast that remains under a heat map, above white."""


def write_png(image: Float[Tensor, "3 h w"], path: Path) -> None:
    """Write pixels in [0, 1] as a PNG, whole or not at all."""
    pixels = (image.detach() * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    with atomic(path) as output:
        Image.fromarray(pixels).save(output, format="PNG")


def enlarged(image: Float[Tensor, "c h w"]) -> Float[Tensor, "c h2 w2"]:
    """A small image enlarged pixel by pixel to a side of at least 112, for drawing."""
    factor = -(-SIDE // min(image.shape[1:]))
    return image.repeat_interleave(factor, dim=1).repeat_interleave(factor, dim=2)


def slug(name: str) -> str:
    """A name made safe for a file name."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-.")[:60] or "x"


def images_of(context: Context, ids: Ids, attack: Attack | None) -> Images:
    """Images of the stage's data by id, attacked if there is an attack, on the model's device.

    An attacked image is recomputed: attack, seed and image id determine it.
    """
    device = context.device
    parts = []
    for batch in context.data.batches(context.batch_size, ids.tolist()):
        images = batch.images.to(device)
        if attack is not None:
            labels = attack.given(batch.labels, batch.targets)
            images = attack(context.prepared, images, labels.to(device), ids=batch.ids)
        parts.append(images)
    return torch.cat(parts)


def near_classes(
    labels: Int64[Tensor, "units k"], similarity: Float64[Tensor, "c c"]
) -> Bool[Tensor, "units c"]:
    """The classes near those of each unit's images (D22, section 2).

    A near class is at least half as similar to their distribution as the most similar class.
    """
    closeness = class_counts(labels, len(similarity)) @ similarity
    return closeness >= 0.5 * closeness.amax(dim=1, keepdim=True)


def heat_map(
    image: Float[Tensor, "3 h w"], attribution: Float[Tensor, "h w"], scale: float
) -> Float[Tensor, "3 h w"]:
    """A heat map over the faint gray image: red supports the class, blue opposes it.

    A pixel's color covers the image with opacity |attribution| / scale, at most 1.

    Args:
        image: pixels in [0, 1].
        attribution: the attribution of each pixel, of either sign.
        scale: the attribution with full color; 0 leaves the image as it is.

    Returns:
        Pixels in [0, 1].

    Raises:
        SettingsError: the scale is below 0 or not finite.
    """
    if not 0 <= scale < float("inf"):
        raise SettingsError(f"heat_map: scale must be finite and at least 0, not {scale}")
    faint = 1 - FAINT * (1 - gray(image))
    share = (attribution / scale if scale else torch.zeros_like(attribution)).clamp(-1, 1)
    color = torch.where(share > 0, _rgb(image, FOR), _rgb(image, AGAINST))
    return share.abs() * color + (1 - share.abs()) * faint


def _rgb(image: Tensor, color: str) -> Float[Tensor, "3 1 1"]:
    return image.new_tensor(list(bytes.fromhex(color[1:])))[:, None, None] / 255
