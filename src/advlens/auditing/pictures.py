"""Pictures that stages leave in the run folder."""

import re
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from advlens.arrays import Ids, Images
from advlens.attacks import Attack
from advlens.auditing.stage import Context
from advlens.consistency import class_counts
from advlens.drawing import png
from advlens.files import atomic


def write_png(image: Float[Tensor, "3 h w"], path: Path) -> None:
    """Write pixels in [0, 1] as a PNG, whole or not at all."""
    with atomic(path) as output:
        output.write(png(image))


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
