"""One's own data set: every label where its mask has it, every number counted again."""

import csv
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from advlens.datasets import BrodenData, build_broden, read_rgb
from advlens.datasets.broden.colors import FOCAL, color_index
from advlens.datasets.broden.sources import nearest
from advlens.errors import DataError, RunError, SettingsError
from tiny_broden import save_label_map

LABELS = """\
value,name,category
1,dog,object
2,cat,object
255,,object
300,lamp,part
7,fur,part
40000,fur,material
9,wood,material
3,cup,dishes
0,plate,dishes
"""
WHOLE = """\
image,category,name
a/0.png,scene,street-s
b/2.jpeg,scene,street-s
b/2.jpeg,texture,dotted
b/2.jpeg,texture,striped
a/1.jpg,object,dog
"""
SIZES = {"a/0.png": (40, 30), "a/1.jpg": (24, 24), "b/2.jpeg": (16, 50), "c.PNG": (9, 8)}
NAMES = [*(f"{os.path.splitext(name)[0]}.jpg" for name in SIZES), "d.jpg"]


def masks_of(i: int, width: int, height: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(i)
    values = {"object": [0, 1, 2, 255], "part": [0, 300, 7], "material": [0, 40000, 9]}
    return {c: random.choice(some, size=(height, width)) for c, some in values.items()}


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """Images of many shapes, masks in every form, tables."""
    for i, (name, (width, height)) in enumerate(SIZES.items()):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(i).integers(256, size=(3, 3, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((width, height), Image.Resampling.NEAREST).save(path)
        for category, values in masks_of(i, width, height).items():
            mask = tmp_path / "masks" / category / f"{os.path.splitext(name)[0]}.png"
            mask.parent.mkdir(parents=True, exist_ok=True)
            if category == "object":
                Image.fromarray(values.astype(np.uint8)).save(mask)
            elif category == "material":
                Image.fromarray(values.astype(np.uint16)).save(mask)  # 16 bits
            else:
                save_label_map(mask, values)
    plates = np.zeros((30, 40), np.uint8)
    plates[3:9] = 3
    image = Image.fromarray(plates, "P")
    image.putpalette([9] * 768)  # what the indices look like does not matter
    (tmp_path / "masks" / "dishes" / "a").mkdir(parents=True)
    image.save(tmp_path / "masks" / "dishes" / "a" / "0.png", bits=2)
    Image.new("RGB", (20, 20), (190, 0, 50)).save(tmp_path / "images" / "d.png")
    (tmp_path / "images" / "notes.txt").write_text("none")
    (tmp_path / "labels.csv").write_text(LABELS)
    (tmp_path / "whole.csv").write_text(WHOLE)
    return tmp_path


def build(made: Path, to: str = "set", **options: object) -> Path:
    return build_broden(
        made / "images",
        made / "masks",
        made / "labels.csv",
        made / to,
        **{"whole": made / "whole.csv", "size": 32, "label_size": 16, **options},
    )


def test_labels_lie_where_the_masks_have_them(made: Path) -> None:
    data = BrodenData(build(made))
    assert sorted(row.image for row in data.rows) == sorted(NAMES)
    assert (data.image_shape, data.label_shape) == ((3, 32, 32), (16, 16))
    names = {0: None} | {concept.number: concept.name for concept in data.concepts}
    meaning = {
        (category, int(value)): name or None
        for value, name, category in list(csv.reader(LABELS.splitlines()))[1:]
    }
    for i, row in enumerate(data.rows):
        found = data.annotations([i])
        j = NAMES.index(row.image)
        name = [*SIZES, "d.png"][j]
        width, height = SIZES.get(name, (20, 20))
        masks = masks_of(j, width, height) if name in SIZES else {}
        if name == "a/0.png":
            masks["dishes"] = np.where((np.arange(30) // 3 - 1) // 2 == 0, 3, 0)[:, None] + [0] * 40
        whole = {line.split(",")[2] for line in WHOLE.splitlines() if line.startswith(name)}
        assert {names[n] for n in found.whole[0].tolist()} - {None} == whole
        image = read_rgb(made / "images" / name).resize((16, 16), Image.Resampling.BICUBIC)
        colors = color_index(np.asarray(image))
        for y in range(16):
            for x in range(16):
                sy, sx = int((y + 0.5) * height / 16), int((x + 0.5) * width / 16)
                expected = {meaning.get((c, int(m[sy, sx]))) for c, m in masks.items()}
                expected.add(list(FOCAL)[colors[y, x]])
                ours = {names[n] for n in found.maps[0, :, y, x].tolist()}
                assert ours - {None} == expected - {None} - whole
        carried = {c for c, has in zip(data.categories, found.carries[0], strict=True) if has}
        labeled = {line.split(",")[1] for line in WHOLE.splitlines() if line.startswith(name)}
        assert carried == {"color", *masks, *labeled}


def tables(folder: Path) -> dict[str, list[dict]]:
    """As NetDissect-Lite's loader takes them apart."""

    def decode(row: dict[str, str]) -> dict:
        result: dict = {}
        for key, value in row.items():
            if key == "category":
                pairs = [re.match(r"^([^(]*)\(([^)]*)\)$", f).groups() for f in value.split(";")]
                result[key] = {c: int(n) for c, n in pairs}
            elif key in ("name", "image", "split", "syns"):
                result[key] = value
            elif re.match(r"^\d+$", value):
                result[key] = int(value)
            elif re.match(r"^\d+\.\d*$", value):
                result[key] = float(value)
            else:
                items = [s for s in value.split(";") if s]
                result[key] = [int(s) if re.match(r"^\d+$", s) else s for s in items]
        return result

    result = {}
    for path in folder.glob("*.csv"):
        with open(path, newline="") as file:
            result[path.stem] = [decode(row) for row in csv.DictReader(file)]
    return result


def test_tables_are_counted_again(made: Path) -> None:
    folder = build(made)
    found = tables(folder)
    categories = [row["name"] for row in found["category"]]
    present: dict[tuple[str, int], list[float]] = {}
    for row in found["index"]:
        assert (row["ih"], row["iw"], row["sh"], row["sw"]) == (32, 32, 16, 16)
        with Image.open(folder / "images" / row["image"]) as image:
            assert (image.size, image.format, image.mode) == ((32, 32), "JPEG", "RGB")
        for category in categories:
            layers = []
            for item in row[category] if isinstance(row[category], list) else [row[category]]:
                if isinstance(item, int):
                    layers.append(np.full((16, 16), item))
                    continue
                with Image.open(folder / "images" / item) as image:
                    assert (image.size, image.format, image.mode) == ((16, 16), "PNG", "RGB")
                    rgb = np.asarray(image).astype(int)
                layers.append(rgb[..., 0] + 256 * rgb[..., 1])
            for number in range(1, 200):
                share = (
                    np.any([layer == number for layer in layers], axis=0).mean() if layers else 0
                )
                if share:
                    present.setdefault((category, number), []).append(share)
    numbers = [row["number"] for row in found["label"]]
    assert numbers == list(range(1, len(numbers) + 1))
    frequencies = [row["frequency"] for row in found["label"]]
    assert frequencies == sorted(frequencies, reverse=True)
    names = {row["number"]: row["name"] for row in found["label"]}
    assert len(set(names.values())) == len(names)
    assert {"dog", "lamp", "fur", "plate", "street-s", "striped", "red-c"} < set(names.values())
    for row in found["label"]:
        own = {c: shares for (c, n), shares in present.items() if n == row["number"]}
        assert row["category"] == {c: len(shares) for c, shares in own.items()}
        assert row["frequency"] == sum(map(len, own.values()))
        assert row["coverage"] == pytest.approx(sum(map(sum, own.values())), abs=1e-6)
    assert [row["name"] for row in found["label"] if len(row["category"]) == 2] == ["fur"]
    firsts = []
    for row in found["category"]:
        codes = found[f"c_{row['name']}"]
        assert [code["code"] for code in codes] == list(range(1, len(codes) + 1))
        own = {n: shares for (c, n), shares in present.items() if c == row["name"]}
        assert {code["number"]: code["frequency"] for code in codes} == {
            n: len(shares) for n, shares in own.items()
        }
        for code in codes:
            assert code["coverage"] == pytest.approx(sum(own[code["number"]]), abs=1e-6)
            assert code["name"] == names[code["number"]]
        total = sum(map(len, own.values()))
        expected = (min(own), max(own), len(own), total)
        assert (row["first"], row["last"], row["count"], row["frequency"]) == expected
        firsts.append(row["first"])
    assert firsts == sorted(firsts)


def test_order_and_split(made: Path) -> None:
    for i in range(60):
        Image.new("RGB", (8, 8), (i, i, i)).save(made / "images" / f"x{i}.png")
    rows = tables(build(made))["index"]
    places = [int(hashlib.md5(row["image"].encode()).hexdigest(), 16) / 2**128 for row in rows]
    assert places == sorted(places)
    assert [row["split"] for row in rows] == ["train" if p <= 0.8 else "val" for p in places]
    assert {row["split"] for row in rows} == {"train", "val"}


def test_images_alone(made: Path) -> None:
    data = BrodenData(build_broden(made / "images", None, None, made / "set"))
    assert data.categories == ("color",)
    assert (data.image_shape, data.label_shape) == ((3, 224, 224), (112, 112))
    red = next(concept.number for concept in data.concepts if concept.name == "red-c")
    i = [row.image for row in data.rows].index("d.jpg")
    assert (data.annotations([i]).maps == red).all()
    assert data.images([i])[0].float().mean(dim=(1, 2)).tolist() == pytest.approx(
        [190, 0, 50], abs=3
    )


def test_the_same_again(made: Path) -> None:
    folder = build(made)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert build(made) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    again = build(made, "other")
    files = sorted(path.relative_to(folder) for path in folder.rglob("*.*"))
    assert [path.read_bytes() for path in map(folder.joinpath, files)] == [
        path.read_bytes() for path in map(again.joinpath, files)
    ]
    assert not list(made.glob(".*"))


CHANGES: dict[str, Callable[[Path], object]] = {
    "image": lambda made: shutil.copy(made / "images/d.png", made / "images/e.png"),
    "pixel": lambda made: Image.new("RGB", (20, 20), (191, 0, 50)).save(made / "images/d.png"),
    "mask": lambda made: (made / "masks/part/c.png").unlink(),
    "label": lambda made: (made / "labels.csv").write_text(LABELS.replace(",cat,", ",cow,")),
    "whole": lambda made: (made / "whole.csv").write_text(WHOLE.replace("dog", "cat")),
}


@pytest.mark.parametrize("case", CHANGES)
def test_another_set_is_not_overwritten(made: Path, case: str) -> None:
    folder = build(made)
    CHANGES[case](made)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    with pytest.raises(RunError, match=r"set exists and was not made from these"):
        build(made)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    with pytest.raises(RunError, match="exists"):
        build(made, size=33)


def test_a_folder_of_something_else(made: Path) -> None:
    (made / "set").mkdir()
    (made / "set" / "mine").write_text("mine")
    with pytest.raises(RunError, match="set exists"):
        build(made)
    assert [path.name for path in (made / "set").iterdir()] == ["mine"]
    (made / "set" / "mine").unlink()
    assert len(BrodenData(build(made))) == 5  # an empty folder is no harm


@pytest.mark.parametrize("to", ["images", "images/set", "masks/object/set"])
def test_not_into_what_is_read(made: Path, to: str) -> None:
    with pytest.raises(SettingsError, match="is read; choose another"):
        build(made, to)


@pytest.mark.parametrize("option", ["size", "label_size"])
def test_sizes(made: Path, option: str) -> None:
    with pytest.raises(SettingsError, match="at least 1 pixel"):
        build(made, **{option: 0})


def test_after_one_that_was_killed(made: Path) -> None:
    run = """
import os, signal, sys
from pathlib import Path
from advlens.datasets.broden import building
building._renumber = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
made = Path(sys.argv[1])
building.build_broden(made / "images", None, None, made / "set", size=32, label_size=16)
"""
    killed = subprocess.run([sys.executable, "-c", run, str(made)], timeout=60, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert (made / ".set.partial" / "images").is_dir()
    assert not (made / "set").exists()
    assert len(BrodenData(build(made))) == 5
    assert not list(made.glob(".*"))


def gray(path: Path, *, size: tuple[int, int] = (40, 30), **options: object) -> None:
    Image.new("L", size, 1).save(path, **options)


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "no images": (lambda m: shutil.rmtree(m / "images"), "images"),
    "empty images": (
        lambda m: (shutil.rmtree(m / "images"), (m / "images").mkdir()),
        "holds no image",
    ),
    "no masks": (lambda m: shutil.rmtree(m / "masks"), "masks"),
    "empty masks": (
        lambda m: (shutil.rmtree(m / "masks"), (m / "masks").mkdir()),
        "holds no masks",
    ),
    "no table": (lambda m: (m / "labels.csv").unlink(), "no file .*labels.csv"),
    "no column": (
        lambda m: (m / "labels.csv").write_text("number,name,category\n"),
        "0 columns named 'value'",
    ),
    "bad value": (
        lambda m: (m / "labels.csv").write_text("value,name,category\n70000,a,b\n"),
        "labels.csv line 2: value is '70000'",
    ),
    "value twice": (
        lambda m: (m / "labels.csv").write_text(LABELS + "1,cow,object\n"),
        "labels.csv line 11: value 1 of object occurs twice",
    ),
    **{
        f"category {name!r}": (
            lambda m, name=name: (m / "labels.csv").write_text(LABELS + f"1,cow,{name}\n"),
            "labels.csv line 11: .* cannot be a category",
        )
        for name in ["", "color", "image", "sh", "../x", "a b", "a_b", "a/b", "ä", "x\u202ey"]
    },
    "unprintable name": (
        lambda m: (m / "labels.csv").write_text(LABELS + "5,co\u202ew,object\n"),
        "labels.csv line 11",
    ),
    "two names": (
        lambda m: shutil.copy(m / "images/d.png", m / "images/d.jpg"),
        "d.png and d.jpg cannot both|rename the file",
    ),
    "semicolon": (
        lambda m: shutil.copy(m / "images/d.png", m / "images/d;e.png"),
        "d;e.png .*rename the file",
    ),
    "control character": (
        lambda m: shutil.copy(m / "images/d.png", m / "images/d\ne.png"),
        "not a printable path",
    ),
    "damaged image": (lambda m: (m / "images/d.png").write_bytes(b"x"), "cannot read the image"),
    "image linked out": (
        lambda m: (m / "images/e.png").symlink_to(m / "masks/object/c.png"),
        "leads out of",
    ),
    "mask without an image": (
        lambda m: gray(m / "masks/object/e.png"),
        "the mask .*e.png belongs to no image and category",
    ),
    "mask of an unlisted category": (
        lambda m: ((m / "masks/stuff").mkdir(), gray(m / "masks/stuff/d.png")),
        "the mask .*stuff/d.png belongs to no image and category",
    ),
    "JPEG mask": (lambda m: gray(m / "masks/object/d.jpg"), "the mask .*d.jpg belongs to no image"),
    "mask of another size": (
        lambda m: gray(m / "masks/object/d.png", size=(20, 21)),
        "has 21x20 pixels .*, its image 20x20",
    ),
    "mask with alpha": (
        lambda m: Image.new("RGBA", (20, 20)).save(m / "masks/object/d.png"),
        "the mask .*d.png is a PNG of color type 6",
    ),
    "mask of one bit": (
        lambda m: Image.new("1", (20, 20)).save(m / "masks/object/d.png"),
        "the mask .*d.png is a PNG of color type 0 and 1 bits",
    ),
    "mask that is a picture": (
        lambda m: Image.new("RGB", (20, 20), (1, 2, 3)).save(m / "masks/object/d.png"),
        "the mask .*d.png is a picture",
    ),
    "mask that is no PNG": (
        lambda m: (m / "masks/object/d.png").write_bytes(b"x" * 99),
        "the mask .*d.png is not a PNG",
    ),
    "truncated mask": (
        lambda m: (m / "masks/object/c.png").write_bytes(
            (m / "masks/object/c.png").read_bytes()[:50]
        ),
        "cannot read the mask .*c.png",
    ),
    "unlisted value": (
        lambda m: Image.new("L", (20, 20), 77).save(m / "masks/object/d.png"),
        "the mask .*d.png holds value 77, which the table of labels does not list",
    ),
    "whole: no such image": (
        lambda m: (m / "whole.csv").write_text(WHOLE + "e.png,scene,x\n"),
        "whole.csv line 7: there is no image 'e.png'",
    ),
    "whole: no name": (
        lambda m: (m / "whole.csv").write_text(WHOLE + "d.png,scene,\n"),
        "whole.csv line 7",
    ),
    "whole: twice": (
        lambda m: (m / "whole.csv").write_text(WHOLE + "a/1.jpg,object,dog\n"),
        "whole.csv line 7: a/1.jpg has dog twice",
    ),
    "whole: color": (
        lambda m: (m / "whole.csv").write_text(WHOLE + "d.png,color,red-c\n"),
        "whole.csv line 7: 'color' cannot be a category",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_damage(made: Path, case: str) -> None:
    change, message = BAD[case]
    change(made)
    with pytest.raises(DataError, match=message):
        build(made)
    assert not (made / "set").exists()
    assert not (made / ".set.partial").exists()


def test_masks_and_table_go_together(made: Path) -> None:
    for masks, labels in [(made / "masks", None), (None, made / "labels.csv")]:
        with pytest.raises(DataError, match="give both"):
            build_broden(made / "images", masks, labels, made / "set")


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40))
def test_nearest(height: int, width: int, side: int) -> None:
    values = np.arange(height * width, dtype=np.uint16).reshape(height, width)
    centers = [Fraction(2 * i + 1, 2 * side) for i in range(side)]
    expected = [[values[int(y * height), int(x * width)] for x in centers] for y in centers]
    assert nearest(values, side).tolist() == expected
