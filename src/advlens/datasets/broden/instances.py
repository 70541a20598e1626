"""COCO's annotations of instances, polygons and run lengths, as label maps."""

import json
import math
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, UInt16

from advlens.datasets.broden.layout import MAX_LABEL
from advlens.errors import DataError

ODD = (
    *(ArithmeticError, AttributeError, LookupError),
    *(RecursionError, TypeError, ValueError),
)
"""What reading JSON of another form than expected raises."""
MOST_BITS = 60
"""Bits of a packed run length, at most."""


class Instance(NamedTuple):
    """The outline of one thing; in JSON's types, so that it can be hashed."""

    value: int
    """The number of its category."""
    polygons: list[list[float]]
    """x and y of the corners in turn, in pixels from the upper left corner of the image."""
    runs: list[int]
    """In place of polygons: pixels outside and inside it in turn, down one column after another."""
    shape: tuple[int, int]
    """Height and width of its image."""


def read_instances(
    path: Path, text: str, files: Mapping[str, str]
) -> tuple[dict[int, str], dict[str, list[Instance]]]:
    """The categories, numbered from 1, and the instances of each image that is listed.

    Args:
        path: the file, for messages.
        text: what it holds.
        files: from each image to its file, which the annotations name.

    Raises:
        DataError: it is not of this form, or lists none of the images.
    """
    try:
        found = json.loads(text)
        categories = {int(each["id"]): str(each["name"]) for each in found["categories"]}
        values = {identity: value for value, identity in enumerate(categories, 1)}
        images = {int(each["id"]): each for each in found["images"]}
        if not len(found["categories"]) == len(values) <= MAX_LABEL:
            raise ValueError("two categories have one id, or there are too many")
        names = {file: name for name, file in files.items()}
        listed: dict[str, list[Instance]] = {
            names[str(each["file_name"])]: []
            for each in images.values()
            if str(each["file_name"]) in names
        }
        for each in found["annotations"]:
            image = images[int(each["image_id"])]
            if (file := str(image["file_name"])) in names:
                shape = int(image["height"]), int(image["width"])
                outline = _outline(each["segmentation"], shape)
                value = values[int(each["category_id"])]
                listed[names[file]].append(Instance(value, *outline, shape))
    except ODD as error:
        raise DataError(
            f"{path} holds no instance annotations of COCO ({type(error).__name__}: {error}); give "
            "instances_*.json as it is, or panoptic_*.json with its masks"
        ) from error
    if not listed:
        raise DataError(
            f"{path} lists none of the images, such as {next(iter(names))}; give the folder that "
            "its file_name is relative to"
        )
    return {value: categories[identity] for identity, value in values.items()}, listed


def _outline(segmentation: Any, shape: tuple[int, int]) -> tuple[list[list[float]], list[int]]:
    """Polygons, or runs; ValueError if it is neither, or empty."""
    if isinstance(segmentation, Mapping):
        counts = segmentation["counts"]
        runs = _unpacked(counts) if isinstance(counts, str) else [int(each) for each in counts]
        if tuple(segmentation["size"]) != shape or min(runs) < 0 or sum(runs) != math.prod(shape):
            raise ValueError("run lengths do not fit their image")
        return [], runs
    polygons = [[float(each) for each in polygon] for polygon in segmentation]
    if not polygons or any(len(each) < 6 or len(each) % 2 for each in polygons):
        raise ValueError("a segmentation is no list of polygons of three corners or more")
    if not all(math.isfinite(each) for polygon in polygons for each in polygon):
        raise ValueError("a corner is not finite")
    return polygons, []


def _unpacked(text: str) -> list[int]:
    """Run lengths that COCO's API has packed into a text.

    Each is a number in groups of 5 bits, the lowest first, a sixth bit marking that another group
    follows; from the fourth on, it is the difference to the last but one.
    """
    runs = list[int]()
    number = shift = 0
    for character in text.encode():
        group = character - 48
        if shift > MOST_BITS:
            raise ValueError("a run length has no end")
        number |= (group & 31) << shift
        shift += 5
        if not group & 32:
            number -= (group & 16) << (shift - 4) if group & 16 else 0
            runs.append(number + (runs[-2] if len(runs) > 2 else 0))
            number = shift = 0
    return runs


def painted(
    instances: Sequence[Instance], shape: tuple[int, int], side: int, image: str
) -> UInt16[np.ndarray, "s s"]:
    """The values of instances at the centers of side×side pixels, larger ones behind smaller ones.

    Args:
        instances: of one image.
        shape: height and width of the image.
        side: that of the result.
        image: its name, for the message.

    Raises:
        DataError: the annotations are of an image of another size.
    """
    result: UInt16[np.ndarray, "s s"] = np.zeros((side, side), np.uint16)
    if wrong := [each.shape for each in instances if each.shape != shape]:
        raise DataError(
            f"{image} has {shape[0]}x{shape[1]} pixels (height x width), its annotations are of "
            f"{wrong[0][0]}x{wrong[0][1]}; give the images that belong to them"
        )
    masks = [(_inside(each, side), each.value) for each in instances]
    for mask, value in sorted(masks, key=lambda pair: -int(pair[0].sum())):
        result[mask] = value
    return result


def centers(shape: tuple[int, int], side: int) -> tuple[Any, Any]:
    """The rows and columns of an image at the centers of side×side pixels."""
    rows, columns = ((2 * np.arange(side) + 1) * length // (2 * side) for length in shape)
    return rows, columns


def _inside(instance: Instance, side: int) -> Bool[np.ndarray, "s s"]:
    from matplotlib.path import Path as Outline

    rows, columns = centers(instance.shape, side)
    if instance.runs:  # a place lies in the run that ends behind it; every second one lies inside
        ends = np.array([*accumulate(instance.runs)])
        places = columns * instance.shape[0] + rows[:, None]
        return np.asarray(np.searchsorted(ends, places, side="right") % 2 == 1)
    points = np.stack(np.meshgrid(columns + 0.5, rows + 0.5), axis=-1).reshape(-1, 2)
    corners = [np.reshape(polygon, (-1, 2)) for polygon in instance.polygons]
    parts = [Outline(each).contains_points(points) for each in corners]
    return np.asarray(np.logical_or.reduce(parts).reshape(side, side))
