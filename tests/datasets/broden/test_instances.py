"""COCO's annotations of instances in the Broden layout."""

import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from advlens.datasets import build_broden
from advlens.errors import DataError, RunError
from dissection.dissection_by_hand import rows_of

BOX = {"height": 8, "width": 8}
INSTANCES = {
    "categories": [{"id": 0, "name": "person"}, {"id": 90, "name": "kite"}],
    "images": [
        {"id": 7, "file_name": "a/7.png", **BOX},
        {"id": 8, "file_name": "8.jpg", **BOX},
        {"id": 9, "file_name": "elsewhere.jpg", **BOX},
    ],
    "annotations": [
        {"image_id": 7, "category_id": 90, "segmentation": [[0, 4, 4, 4, 4, 8, 0, 8]]},
        {"image_id": 7, "category_id": 0, "segmentation": [[0, 0, 8, 0, 8, 8, 0, 8]]},
        {"image_id": 9, "category_id": 0, "segmentation": [[0, 0, 8, 0, 8, 8]]},
    ],
}
LOWER_LEFT = [4, 4, 4, 4, 4, 4, 4, 4, 32]
"""Pixels outside and inside it in turn, down the columns of 8×8."""
PACKED = "44400000l0"
"""The same, as pycocotools packs it."""


@pytest.mark.parametrize("counts", [None, LOWER_LEFT, PACKED])
def test_instances_of_coco(tmp_path: Path, counts: list[int] | str | None) -> None:
    """A small kite before a large person; an image without objects has labels; others have none."""
    (tmp_path / "images" / "a").mkdir(parents=True)
    for name in ("a/7.png", "8.jpg", "unlisted.jpg"):
        Image.new("RGB", (8, 8), "red").save(tmp_path / "images" / name)
    table, found = tmp_path / "instances.json", copy.deepcopy(INSTANCES)
    if counts is not None:
        found["annotations"][0]["segmentation"] = {"size": [8, 8], "counts": counts}
    table.write_text(json.dumps(found))
    sources = (tmp_path / "images", None, table)
    made = build_broden(*sources, tmp_path / "set", size=8, label_size=8)
    numbers = {row["name"]: int(row["number"]) for row in rows_of(made / "label.csv")}
    labels = np.asarray(Image.open(made / "images" / "a" / "7_object.png"))[..., 0]
    expected = np.full((8, 8), numbers["person"])
    expected[4:, :4] = numbers["kite"]
    np.testing.assert_array_equal(labels, expected)
    cells = {row["image"]: row["object"] for row in rows_of(made / "index.csv")}
    assert cells == {"a/7.jpg": "a/7_object.png", "8.jpg": "8_object.png", "unlisted.jpg": ""}
    assert not np.asarray(Image.open(made / "images" / "8_object.png")).any()
    assert build_broden(*sources, made, size=8, label_size=8) == made
    found["annotations"][1]["segmentation"] = [[0, 0, 8, 0, 8, 8]]
    table.write_text(json.dumps(found))
    with pytest.raises(RunError, match="was not made from these"):
        build_broden(*sources, made, size=8, label_size=8)


WRONG_INSTANCES = {
    "no polygon": (("annotations", 0, "segmentation"), []),
    "two corners": (("annotations", 0, "segmentation"), [[0, 0, 8, 8]]),
    "odd": (("annotations", 0, "segmentation"), [[0, 0, 8, 8, 1, 1, 1]]),
    "not finite": (("annotations", 0, "segmentation"), [[0, 0, 8, 8, 1, math.nan]]),
    "of another size": (("images", 0, "height"), 9),
    "too short": (("annotations", 0, "segmentation"), {"size": [8, 8], "counts": [4, 9]}),
    "runs of another size": (("annotations", 0, "segmentation"), {"size": [4, 16], "counts": [64]}),
    "negative": (("annotations", 0, "segmentation"), {"size": [8, 8], "counts": [-1, 65]}),
    "damaged text": (("annotations", 0, "segmentation"), {"size": [8, 8], "counts": "zz"}),
    "endless text": (("annotations", 0, "segmentation"), {"size": [8, 8], "counts": "o" * 10**6}),
    "infinite run": (("annotations", 0, "segmentation"), {"size": [8, 8], "counts": [math.inf]}),
    "huge corner": (("annotations", 0, "segmentation"), [[0, 0, 8, 8, 1, 10**400]]),
    "unknown category": (("annotations", 0, "category_id"), 5),
    "unknown image": (("annotations", 0, "image_id"), 5),
    "one id twice": (("categories", 0, "id"), 90),
    "no image": (("images", 0, "file_name"), "7.png"),
    "another form": (("annotations", 0), {"segments_info": []}),
}


@pytest.mark.parametrize(("place", "value"), WRONG_INSTANCES.values(), ids=WRONG_INSTANCES)
def test_wrong_instances(tmp_path: Path, place: tuple[Any, ...], value: object) -> None:
    (tmp_path / "images" / "a").mkdir(parents=True)
    Image.new("RGB", (8, 8), "red").save(tmp_path / "images" / "a" / "7.png")
    table, found = tmp_path / "instances.json", copy.deepcopy(INSTANCES)
    inner = found
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    table.write_text(json.dumps(found))
    with pytest.raises(DataError, match=r"instances|belong"):
        build_broden(tmp_path / "images", None, table, tmp_path / "set", size=8, label_size=8)
    assert not (tmp_path / "set").exists()
