"""One's own data set: every label where its mask has it; the flags of `advlens data broden`."""

import hashlib
import json
import math
import os
import re
import shutil
import signal
import zipfile
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from advlens.cli import main
from advlens.datasets import BrodenData, build_broden, read_rgb
from advlens.datasets.broden import building, fetching
from advlens.datasets.broden.colors import FOCAL, color_index
from advlens.datasets.broden.sources import nearest
from advlens.errors import DataError, RunError, SettingsError
from dissection.dissection_by_hand import labels_of, rows_of
from tiny_broden import save_label_map, write_tiny_broden
from tiny_imagenet import Edit, cases, content, gone, linked, picture, png, replaced
from together import FORKSERVER

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
CHANGES: dict[str, Edit] = {
    "image": lambda made: shutil.copy(made / "images/d.png", made / "images/e.png"),
    "pixel": lambda made: Image.new("RGB", (20, 20), (191, 0, 50)).save(made / "images/d.png"),
    "mask": lambda made: (made / "masks/part/c.png").unlink(),
    "label": content("labels.csv", LABELS.replace(",cat,", ",cow,")),
    "whole": content("whole.csv", WHOLE.replace("dog", "cat")),
}


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
            if category == "part":
                save_label_map(mask, values)
            else:
                depth = np.uint8 if category == "object" else np.uint16
                Image.fromarray(values.astype(depth)).save(mask)
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
    sources = [made / name for name in ("images", "masks", "labels.csv")]
    options = {"whole": made / "whole.csv", "size": 32, "label_size": 16, **options}
    return build_broden(*sources, made / to, **options)


def times(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def contents(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.*")}


def test_labels_lie_where_the_masks_have_them(made: Path) -> None:
    data = BrodenData(build(made))
    assert sorted(row.image for row in data.rows) == sorted(NAMES)
    assert (data.image_shape, data.label_shape) == ((3, 32, 32), (16, 16))
    names = {0: None} | {concept.number: concept.name for concept in data.concepts}
    lines = (line.split(",") for line in LABELS.splitlines()[1:])
    meaning = {(category, int(value)): name or None for value, name, category in lines}
    for i, row in enumerate(data.rows):
        found, j = data.annotations([i]), NAMES.index(row.image)
        name = [*SIZES, "d.png"][j]
        width, height = SIZES.get(name, (20, 20))
        masks = masks_of(j, width, height) if name in SIZES else {}
        if name == "a/0.png":
            masks["dishes"] = np.where((np.arange(30) // 3 - 1) // 2 == 0, 3, 0)[:, None] + [0] * 40
        said = [line.split(",") for line in WHOLE.splitlines() if line.startswith(name)]
        whole = {label for _, _, label in said}
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
        assert carried == {"color", *masks, *(category for _, category, _ in said)}


def shown(folder: Path, name: str) -> dict[str, list[set[str]]]:
    """The names of the labels in the upper and the lower half of an image, by category."""
    data = BrodenData(folder, size=8)
    i = [row.image for row in data.rows].index(name)
    maps, names = data.annotations([i]).maps[0], {c.number: c.name for c in data.concepts}
    found = [{names[n] for n in half.unique().tolist() if n} for half in maps.split(4, dim=1)]
    category = {c.name: c.category for c in data.concepts}
    kinds = {c for c in category.values() if c != "color"}
    return {c: [{n for n in half if category[n] == c} for half in found] for c in kinds}


def halves(upper: Any, lower: Any) -> Image.Image:
    return Image.fromarray(np.array([[upper] * 8] * 4 + [[lower] * 8] * 4, np.uint8))


def test_masks_as_ade20k_has_them(tmp_path: Path) -> None:
    """Masks lie in one folder, and its own table names their values."""
    for folder, image in (("images", halves([9] * 3, [90] * 3)), ("masks", halves(1, 0))):
        (tmp_path / folder).mkdir()
        image.save(tmp_path / folder / "ADE_val_1.png")
    table = tmp_path / "objectInfo150.txt"
    rows = "Idx\tRatio\tName\n1\t0.2\twall\n2\t0.1\tbuilding, edifice\n"
    table.write_text(rows)
    sources = (tmp_path / "images", tmp_path / "masks", table)
    made = build_broden(*sources, tmp_path / "set", size=8, label_size=8)
    assert shown(made, "ADE_val_1.jpg") == {"object": [{"wall"}, set()]}
    table.write_text(rows.replace("1\t0.2", "one\t0.2"))
    with pytest.raises(DataError, match="objectInfo150"):
        build_broden(*sources, tmp_path / "other")


COCO = {
    "categories": [
        {"id": 0, "name": "person", "isthing": 1},
        {"id": 200, "name": "rug-merged", "isthing": 0},
    ],
    "annotations": [
        {
            "file_name": "7.png",
            "segments_info": [{"id": 65536 + 2, "category_id": 200}, {"id": 256, "category_id": 0}],
        }
    ],
}


def test_panoptic_masks_of_coco(tmp_path: Path) -> None:
    """Segments are R + 256 G + 65536 B; things are objects, stuff is stuff, 0 is neither."""
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    halves([9] * 3, [90] * 3).save(tmp_path / "images" / "7.jpg")
    mask, table = tmp_path / "masks" / "7.png", tmp_path / "panoptic.json"
    table.write_text(json.dumps(COCO))
    sources = (tmp_path / "images", tmp_path / "masks", table)
    for place, lower, found in (
        ("set", [0, 1, 0], {"object": [set(), {"person"}], "stuff": [{"rug-merged"}, set()]}),
        ("void", [0, 0, 0], {"stuff": [{"rug-merged"}, set()]}),
    ):
        halves([2, 0, 1], lower).save(mask)
        made = build_broden(*sources, tmp_path / place, size=8, label_size=8)
        assert shown(made, "7.jpg") == found
    halves([2, 0, 1], [3, 0, 0]).save(mask)
    with pytest.raises(DataError, match=r"7\.png holds segment 3"):
        build_broden(*sources, tmp_path / "other")
    halves(0, 1).save(mask)
    with pytest.raises(DataError, match=r"7\.png is not RGB"):
        build_broden(*sources, tmp_path / "other")
    infinite = {**COCO, "categories": [{"id": math.inf}]}
    for wrong in (
        {},
        {**COCO, "annotations": []},
        {**COCO, "categories": [{"id": 1}]},
        infinite,
        [],
    ):
        table.write_text(json.dumps(wrong))
        with pytest.raises(DataError, match=r"panoptic|belongs to no image|among the annotations"):
            build_broden(*sources, tmp_path / "other")


def test_tables_are_counted_again(made: Path) -> None:
    folder = build(made)
    found = {path.stem: rows_of(path) for path in folder.glob("*.csv")}
    categories = [line["name"] for line in found["category"]]
    present: dict[tuple[str, int], list[float]] = {}
    for row in found["index"]:
        assert [row[name] for name in ("ih", "iw", "sh", "sw")] == ["32", "32", "16", "16"]
        items = [item for category in categories for item in row[category].split(";")]
        pictures = [(row["image"], "JPEG", 32), *((i, "PNG", 16) for i in items if "/" in i)]
        for name, form, side in pictures:
            with Image.open(folder / "images" / name) as image:
                assert (image.size, image.format, image.mode) == ((side, side), form, "RGB")
        for category in categories:
            carried, _ = labels_of(folder, row, [category])
            for number in carried.any(axis=(1, 2)).nonzero()[0].tolist():
                present.setdefault((category, number), []).append(carried[number].mean())
    assert [int(row["number"]) for row in found["label"]] == [*range(1, len(found["label"]) + 1)]
    frequencies = [int(row["frequency"]) for row in found["label"]]
    assert frequencies == sorted(frequencies, reverse=True)
    names = {int(row["number"]): row["name"] for row in found["label"]}
    assert len(set(names.values())) == len(names)
    assert {"dog", "lamp", "fur", "plate", "street-s", "striped", "red-c"} < set(names.values())
    for row in found["label"]:
        own = {c: shares for (c, n), shares in present.items() if n == int(row["number"])}
        assert set(row["category"].split(";")) == {f"{c}({len(s)})" for c, s in own.items()}
        assert int(row["frequency"]) == sum(map(len, own.values()))
        assert float(row["coverage"]) == pytest.approx(sum(map(sum, own.values())), abs=1e-6)
    assert [row["name"] for row in found["label"] if ";" in row["category"]] == ["fur"]
    firsts = [int(row["first"]) for row in found["category"]]
    assert firsts == sorted(firsts)
    for row in found["category"]:
        own = {n: shares for (c, n), shares in present.items() if c == row["name"]}
        most_first = sorted(own, key=lambda n: (-len(own[n]), n))
        listed = found[f"c_{row['name']}"]
        assert [
            [line[key] for key in ("code", "number", "name", "frequency")] for line in listed
        ] == [
            [str(code), str(n), names[n], str(len(own[n]))] for code, n in enumerate(most_first, 1)
        ]
        coverage = [float(line["coverage"]) for line in listed]
        assert coverage == pytest.approx([sum(own[n]) for n in most_first], abs=1e-6)
        expected = (min(own), max(own), len(own), sum(map(len, own.values())))
        assert tuple(int(row[k]) for k in ("first", "last", "count", "frequency")) == expected


def test_order_split_and_images_alone(made):
    data = BrodenData(build_broden(made / "images", None, None, made / "set"))
    assert data.categories == ("color",)
    assert (data.image_shape, data.label_shape) == ((3, 224, 224), (112, 112))
    red = next(concept.number for concept in data.concepts if concept.name == "red-c")
    i = [row.image for row in data.rows].index("d.jpg")
    assert (data.annotations([i]).maps == red).all()
    means = data.images([i])[0].float().mean(dim=(1, 2)).tolist()
    assert means == pytest.approx([190, 0, 50], abs=3)
    for i in range(60):
        Image.new("RGB", (8, 8), (i, i, i)).save(made / "images" / f"x{i}.png")
    rows = rows_of(build(made, "more") / "index.csv")
    places = [int(hashlib.md5(row["image"].encode()).hexdigest(), 16) / 2**128 for row in rows]
    assert places == sorted(places)
    assert [row["split"] for row in rows] == ["train" if p <= 0.8 else "val" for p in places]
    assert {row["split"] for row in rows} == {"train", "val"}


def test_the_same_again_also_after_one_that_was_killed(made: Path) -> None:
    process = FORKSERVER.Process(target=build_and_die, args=(made,))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert not (made / "set").exists()
    (made / ".set.partial" / "images" / "left.jpg").touch()
    folder = build(made)
    before = times(folder)
    assert build(made) == folder
    assert times(folder) == before
    assert contents(build(made, "other")) == contents(folder)
    assert not list(made.glob(".*"))


@pytest.mark.parametrize("case", CHANGES)
def test_another_set_is_not_overwritten(made: Path, case: str) -> None:
    folder = build(made)
    CHANGES[case](made)
    before = times(folder)
    with pytest.raises(RunError, match=r"set exists and was not made from these"):
        build(made)
    assert times(folder) == before


def test_another_folder_is_left_alone_and_those_that_are_read(made):
    (made / "set").mkdir()
    (made / "set" / "mine").write_text("mine")
    with pytest.raises(RunError, match="set exists"):
        build(made)
    assert [path.name for path in (made / "set").iterdir()] == ["mine"]
    (made / "set" / "mine").unlink()
    assert len(BrodenData(build(made))) == 5  # an empty folder is no harm
    for to in ("images", "images/set", "masks/object/set"):
        with pytest.raises(SettingsError, match="is read; choose another"):
            build(made, to)
    for masks, labels in [(made / "masks", None), (None, made / "labels.csv")]:
        with pytest.raises(DataError, match="give both"):
            build_broden(made / "images", masks, labels, made / "set")


@pytest.mark.parametrize("option", ["size", "label_size"])
def test_sizes(made: Path, option: str) -> None:
    with pytest.raises(SettingsError, match="at least 1 pixel"):
        build(made, **{option: 0})
    folder = build(made)
    with pytest.raises(RunError, match="set exists"):
        build(made, **{option: 33})
    assert build(made) == folder


def build_and_die(made: Path) -> None:
    building._renumber = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    build(made)


def square(mode: str, color: Any) -> Edit:
    return lambda made: Image.new(mode, (20, 20), color).save(made / MASK)


def copy(name: str) -> Edit:
    return lambda made: shutil.copy(made / "images/d.png", made / "images" / name)


def more(words: str) -> Edit:
    name, line = words.split(" ", 1)
    return content(name, f"{LABELS if name == 'labels.csv' else WHOLE}{line}\n")


LINES = """
labels.csv 70000,a,b         | labels.csv line 11: value is '70000'
labels.csv 1,cow,object      | labels.csv line 11: value 1 of object occurs twice
whole.csv e.png,scene,x      | whole.csv line 7: there is no image 'e.png'
whole.csv d.png,scene,       | whole.csv line 7: there is no image 'd.png', or its label has no name
whole.csv a/1.jpg,object,dog | whole.csv line 7: a/1.jpg has dog twice
whole.csv d.png,color,red-c  | whole.csv line 7: 'color' cannot be a category
"""
MASK = "masks/object/d.png"
BAD: dict[str, tuple[Edit, str]] = {
    **{words: (more(words), message) for words, message in cases(LINES)},
    **{
        f"category {name!r}": (more(f"labels.csv 1,cow,{name}"), "line 11: .* cannot be a category")
        for name in ["", "color", "image", "sh", "../x", "a b", "a_b", "a/b", "ä", "x\u202ey"]
    },
    "bad name": (more("labels.csv 5,co\u202ew,object"), "labels.csv line 11"),
    "no images": (gone("images"), "images"),
    "no masks": (gone("masks"), "masks"),
    "empty images": (replaced("images", os.mkdir), "holds no image"),
    "empty masks": (replaced("masks", os.mkdir), "holds no masks"),
    "no table": (gone("labels.csv"), "no file .*labels.csv"),
    "no column": (content("labels.csv", "number,name,category\n"), "0 columns named 'value'"),
    "two names": (copy("d.jpg"), "d.png and d.jpg cannot both|rename the file"),
    "semicolon": (copy("d;e.png"), "d;e.png .*rename the file"),
    "control character": (copy("d\ne.png"), "not a printable path"),
    "damaged image": (content("images/d.png", b"x"), "cannot read the image"),
    "image linked out": (linked("images/e.png", "../whole.csv"), "leads out of"),
    "mask of no image": (picture("masks/object/e.png"), "the mask .*e.png belongs to no image and"),
    "mask of no category": (lambda m: (m / "masks/part").rename(m / "masks/x"), "x/.* belongs to"),
    "JPEG mask": (picture("masks/object/d.jpg"), "the mask .*d.jpg belongs to no image and"),
    "mask of another size": (picture(MASK, "L"), "has 16x16 pixels .*, its image 20x20"),
    "mask with alpha": (picture(MASK, "RGBA"), "the mask .*d.png is a PNG of color type 6"),
    "mask of one bit": (picture(MASK, "1"), "the mask .*d.png is a PNG of color type 0 and 1 bits"),
    "picture for a mask": (square("RGB", (1, 2, 3)), "the mask .*d.png is a picture"),
    "mask that is no PNG": (content(MASK, b"x" * 99), "the mask .*d.png is not a PNG"),
    "truncated mask": (content(MASK, png(20, 20, 8, 0, bytes(420))[:50]), "cannot read the mask"),
    "unlisted value": (square("L", 77), "the mask .*d.png holds value 77, which the table"),
}


@pytest.mark.parametrize("case", BAD)
def test_damage(made: Path, case: str) -> None:
    change, message = BAD[case]
    change(made)
    with pytest.raises(DataError, match=message):
        build(made)
    assert not (made / "set").exists()
    assert not (made / ".set.partial").exists()


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40))
def test_nearest(height: int, width: int, side: int) -> None:
    values = np.arange(height * width, dtype=np.uint16).reshape(height, width)
    centers = [Fraction(2 * i + 1, 2 * side) for i in range(side)]
    ys, xs = ([int(center * length) for center in centers] for length in (height, width))
    assert nearest(values, side).tolist() == [[values[y, x] for x in xs] for y in ys]


def test_broden_from(tmp_path, capsys):
    for folder in ("images", "masks/object"):
        (tmp_path / folder).mkdir(parents=True)
    Image.new("RGB", (20, 20), (190, 0, 50)).save(tmp_path / "images/1.png")
    Image.fromarray(np.eye(20, dtype=np.uint8)).save(tmp_path / "masks/object/1.png")
    (tmp_path / "labels").write_text("value,name,category\n1,line,object\n")
    (tmp_path / "whole").write_text("image,category,name\n1.png,scene,desk-s\n")
    flags = [f"--{flag} {tmp_path / flag}" for flag in ("images", "masks", "labels", "whole")]
    words = f"data broden-from --to {tmp_path / 'set'} {' '.join(flags)}".split()
    assert main([*words, "--size", "20", "--label-size", "10"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'set'}\n"
    data = BrodenData(tmp_path / "set")
    assert (data.image_shape, data.label_shape) == ((3, 20, 20), (10, 10))
    assert {concept.name for concept in data.concepts} == {"red-c", "line", "desk-s"}
    assert main(words) == 1
    assert "was not made from these" in capsys.readouterr().err


def test_broden_from_an_archive(tmp_path, capsys, monkeypatch):
    made = write_tiny_broden(tmp_path / "made", images=2)
    for name in ("broden1_224", "broden1_384"):
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as archive:
            for path in sorted(made.rglob("*.*")):
                archive.write(path, f"{name}/{path.relative_to(made)}")
    archive = tmp_path / "broden1_224.zip"
    digest = hashlib.md5(archive.read_bytes()).hexdigest()
    words = ["data", "broden", "--to", str(tmp_path / "to"), "--archive"]
    assert main([*words, str(archive)]) == 1
    assert "MD5" in capsys.readouterr().err
    monkeypatch.setitem(fetching.MD5, 224, digest)
    assert main([*words, str(archive)]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'to' / 'broden1_224'}\n"
    assert main([*words, str(tmp_path / "broden1_384.zip"), "--resolution", "384"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("no hash of broden1_384.zip has been published; its SHA-256 is ")
    assert second == f"{tmp_path / 'to' / 'broden1_384'}"


WRONG = """
cifar10 --resolution 227             | --resolution does not go with cifar10
cifar10 --images x                   | --images does not go with cifar10
broden --masks x                     | --masks does not go with broden
broden --label-size 7                | --label-size does not go with broden
broden --resolution 225              | 225.*resolution
broden-from --images x --archive y   | --archive does not go with broden-from
broden-from --masks x --labels y     | needs --images
broden-from --images x --size 1.5    | size.*1.5
"""


@pytest.mark.parametrize(("words", "message"), cases(WRONG))
def test_wrong_use(tmp_path, capsys, words, message):
    assert main(["data", *words.split(), "--to", str(tmp_path / "to")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(message, line)
    assert list(tmp_path.iterdir()) == []
