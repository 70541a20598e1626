"""Damaged and hostile data sets: one sentence each, and nothing is read outside the folder."""

import csv
import os
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from advlens.datasets import BrodenData
from advlens.datasets.broden import layout
from advlens.datasets.broden.data import read_label_map
from advlens.errors import DataError
from tiny_broden import CATEGORIES, write_tiny_broden
from tiny_imagenet import Edit, cases, content, gone, linked, picture, png, replaced

OPENED: list[str] | None = None
MAP, IMAGE, OTHER = "images/a/0_color_1.png", "images/a/0.jpg", "images/a/1.jpg"
FUZZ = settings(
    max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)


def _heard(event: str, args: tuple) -> None:
    if OPENED is not None and event in ("open", "os.scandir", "os.listdir"):
        OPENED.append(os.path.realpath(args[0]) if isinstance(args[0], str | bytes) else "")


sys.addaudithook(_heard)


@pytest.fixture
def opened():
    """The real paths of all that is opened during the test, by any library."""
    global OPENED
    OPENED = []
    yield OPENED
    OPENED = None


def outside(folder: Path, opened: list[str]) -> list[str]:
    """What was opened outside a folder; Python may import what it needs."""
    paths = [path for path in opened if not path.endswith((".py", ".pyc", ".so"))]
    return [path for path in paths if not f"{path}/".startswith(f"{folder}/")]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of six images, beside files that nobody may read."""
    root = tmp_path_factory.mktemp("template")
    (root / "outside" / "a").mkdir(parents=True)
    Image.new("RGB", (32, 32)).save(root / "outside" / "secret.jpg")
    Image.new("RGB", (16, 16)).save(root / "outside" / "secret.png")
    write_tiny_broden(root / "set", images=6)
    return root


@pytest.fixture
def folder(template: Path, tmp_path: Path) -> Path:
    shutil.copytree(template, tmp_path, dirs_exist_ok=True)
    return tmp_path / "set"


def put(table: str, line: int, column: str, value: str) -> Edit:
    """Another value in a table, whose line 2 is the first after the header."""

    def edit(folder: Path) -> None:
        with open(folder / table, encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))
        value_here = value.replace("OUTSIDE", str(folder.parent / "outside"))
        rows[line - 1][rows[0].index(column)] = value_here
        with open(folder / table, "w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)

    return edit


def put_words(words: str) -> Edit:
    table, line, column, *value = words.split(" ")
    return put(table, int(line), column, " ".join(value))


def more(table: str, text: str) -> Edit:
    return lambda folder: content(table, (folder / table).read_text() + text)(folder)


PUT = r"""
index.csv 1 material stuff   | index.csv has 0 columns named 'material' instead of one; fix
index.csv 1 part object      | 2 columns named 'object'
index.csv 1 sh height        | 0 columns named 'sh'
c_object.csv 2 name cat      | c_object.csv line 2: label 3 \('cat'\) is not in label.csv under this
c_object.csv 2 number 33     | c_object.csv line 2: label 33
label.csv 4 name             | label.csv line 4: label 3 has no printable name
index.csv 3 ih               | index.csv line 3: ih is '', not a whole number
index.csv 3 iw 0             | index.csv line 3: iw is '0', not a whole number
index.csv 3 sh -16           | index.csv line 3: sh is '-16', not a whole number
index.csv 3 sw 16.0          | index.csv line 3: sw is '16.0', not a whole number
index.csv 3 ih ²             | index.csv line 3: ih is '²', not a whole number
index.csv 3 sh 17            | index.csv line 3: label maps have 17x16 pixels, earlier ones 16x16
index.csv 3 scene 77         | index.csv line 3: no category lists label 77; add it
index.csv 2 object a/0_object_1.png;77 | index.csv line 2: no category lists label 77
index.csv 3 scene 65536      | index.csv line 3: label is '65536'
index.csv 3 image            | index.csv line 3: '' is not a printable path
index.csv 3 image a          | index.csv line 3: there is no file
index.csv 3 image .          | index.csv line 3: .* leads out
"""
MORE = r"""
index.csv a/1.jpg,train,32   | line 8 has 3 values
label.csv 77,a,b,1,1,,,      | line 13 has 8 values
index.csv "a/1.jpg           | cannot read the table .*index
label.csv 3,cup,,1,1,        | line 13: label 3 .*twice
label.csv 44,dog,,1,1,       | line 13: label 44 .*twice
c_object.csv 9,3,person,1,1  | c_object.csv line 5: label 3 .*twice
category.csv part,1,1,1,1    | category.csv line 8: .*'part' occurs twice
category.csv ,1,1,1,1        | category.csv line 8
category.csv /../../outside/secret,1,1,1,1 | leads out of
category.csv part/../c_part,1,1,1,1 | 0 columns named 'part/../c_part'
"""
TABLES = ("index.csv", "label.csv", "category.csv")
HEADER = ",".join(["image,split,ih,iw,sh,sw", *CATEGORIES])
LONG, SECRET = "9" * 5000, "../../../outside/secret"
NUMBERS = ["", "0", "-1", "1.5", "65536", "1_0", "٣", LONG, "1e2", " 3", "nan"]
NO_NUMBER = "label.csv line 4: number is .*not a whole number from 1 to 65535"
AMOUNTS = ["", "-1", "nan", "inf", "1e999", "0x1p3", "1,5"]
EMPTY = b"number,name,coverage\n"
BIG = [("index.csv", 3, column, "9000000") for column in ("ih", "iw")]
NO_AMOUNT = "c_object.csv line 2: coverage is .*not a number"
PATHS = {
    "leads out of": [
        *["../../outside/secret.png", "a/../../../outside/secret.png", "OUTSIDE/secret.png"],
        *["//OUTSIDE/secret.png", "../index.csv", "..", "/etc/passwd"],
    ],
    "not a printable path": ["a/1.jpg\0.png", "a/\u202e1.png", "a/1\n.png"],
    "there is no file": ["~/secret.png", "a\\1.png", "file:///etc/passwd", "a/" + LONG, "ａ/1.jpg"],
}
NO_FILE = "index.csv line 3: there is no file .*/images/a/1"
HOSTILE: dict[str, tuple[Edit, str]] = {
    **{f"put {words}": (put_words(words), message) for words, message in cases(PUT)},
    **{f"more {w}": (more(*f"{w}\n".split(" ", 1)), message) for w, message in cases(MORE)},
    **{f"number {x[:9]!r}": (put("label.csv", 4, "number", x), NO_NUMBER) for x in NUMBERS},
    **{f"amount {x!r}": (put("c_object.csv", 2, "coverage", x), NO_AMOUNT) for x in AMOUNTS},
    **{
        f"{column} {path[:40]!r}": (
            put("index.csv", 3, column, path),
            f"index.csv line [34]: .*{message}",  # the line where a row ends
        )
        for column in ("image", "texture")
        for message, paths in PATHS.items()
        for path in paths
    },
    **{f"no {name}": (gone(name), f"no file .*{name}") for name in (*TABLES, "c_part.csv")},
    "no images": (gone("images"), "images"),
    "empty index": (content("index.csv", b""), "index.csv has 0 columns"),
    "no rows": (content("index.csv", HEADER.encode() + b"\n\n"), "index.csv names no image"),
    "no category": (content("category.csv", b"name,first\n"), "category.csv names no category"),
    "no label": (lambda f: [content(p.name, EMPTY)(f) for p in f.glob("c_*")], "list no label"),
    "bad name": (put("label.csv", 4, "name", "\u202ea"), "line 4: label 3 has no printable name"),
    "latin-1": (content("label.csv", b"number,name\n1,\xe9\n"), "cannot read the table .*label"),
    "a huge value": (more("index.csv", "x" * 200_000), "cannot read the table"),
    "a table that is a folder": (replaced("label.csv", os.mkdir), "no file .*label.csv"),
    "a table that is a pipe": (replaced("label.csv", os.mkfifo), "no file .*label.csv"),
    "a table that leads out": (linked("label.csv", "../outside/secret.jpg"), "csv' leads out of"),
    "label of too many digits": (put("index.csv", 3, "scene", LONG), "index.csv line 3: label is"),
    "bomb by the row": (lambda f: [put(*BIG[i])(f) for i in (0, 1)], "above 25000000 pixels"),
    "no image": (gone(OTHER), NO_FILE + ".jpg"),
    "no map": (gone("images/a/1_color_1.png"), NO_FILE + "_color_1.png"),
    "image that is a pipe": (replaced(OTHER, os.mkfifo), NO_FILE),
    "image that leads in circles": (linked(OTHER, "1.jpg"), NO_FILE),
    "image linked out": (linked(IMAGE, f"{SECRET}.jpg"), "line 2: .*leads out of .*copy its"),
    "map linked out": (linked(MAP, f"{SECRET}.png"), "line 2: .*leads out of .*copy its target"),
    "folder linked out": (linked("images/a", "../../outside/a"), "line 2: 'a/0.* leads out of"),
    "images linked out": (linked("images", "../outside"), "'images' leads out of"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_damage_that_opening_finds(folder: Path, opened: list[str], case: str) -> None:
    edit, message = HOSTILE[case]
    edit(folder)
    opened.clear()
    with pytest.raises(DataError, match=message) as error:
        BrodenData(folder)
    assert outside(folder, opened) == []
    assert len(str(error.value)) < 1000
    assert "\n" not in str(error.value)


BOMB = png(60_000, 60_000, 8, 2, b"0" * 99)
NO_PNG = "is not a PNG file"
PIXELS: dict[str, tuple[Edit, str]] = {
    "gray map": (picture(MAP, "L"), "0_color_1.png is a PNG of color type 0 and 8 bits, not RGB"),
    "palette": (picture(MAP, "P"), "color type 3"),
    "map with alpha": (picture(MAP, "RGBA"), "color type 6"),
    "map of 16 bits": (content(MAP, png(16, 16, 16, 2, bytes(1552))), "color type 2 and 16 bits"),
    "JPEG map": (picture(MAP, form="JPEG"), NO_PNG),
    "GIF map": (picture(MAP, form="GIF"), NO_PNG),
    "empty map": (content(MAP, b""), NO_PNG),
    "text for a map": (content(MAP, b"a" * 99), NO_PNG),
    "truncated map": (content(MAP, png(16, 16, 8, 2, bytes(784))[:50]), "read the label map"),
    "map without pixels": (content(MAP, png(16, 16, 8, 2)), "cannot read the label map"),
    "larger map": (picture(MAP, side=17), "has 17x16 pixels .*, not 16x16 as index.csv says"),
    "bomb for a map": (content(MAP, BOMB), "60000x60000 pixels, more than 25000000"),
    "map of blue pixels": (picture(MAP, color=(1, 0, 1)), "has blue pixels"),
    "unknown label": (picture(MAP, color=(43, 1, 0)), "0_color_1.png holds label 299, which no"),
    "removed map": (gone(MAP), "no file .*0_color_1.png"),
    "map linked out since": (linked(MAP, f"{SECRET}.png"), "leads out of"),
    "map that became a pipe": (replaced(MAP, os.mkfifo), "no file .*0_color_1.png"),
    "image of another size": (picture(IMAGE), "0.jpg has 16x16 pixels .*, not 32x32 as"),
    "damaged image": (content(IMAGE, b"x"), "cannot read the image"),
    "bomb for an image": (content(IMAGE, BOMB), "60000x60000|decompression bomb"),
    "image linked out since": (linked(IMAGE, f"{SECRET}.jpg"), "leads out of"),
    "folder linked out since": (linked("images/a", "../../outside"), "leads out of"),
}


@pytest.mark.parametrize("case", PIXELS)
def test_damage_that_reading_finds(folder: Path, opened: list[str], case: str) -> None:
    edit, message = PIXELS[case]
    data = BrodenData(folder)
    edit(folder)
    opened.clear()
    with pytest.raises(DataError, match=message):
        data.annotations([1, 0]), data.images([1, 0])
    with pytest.raises(DataError, match=message):
        list(data.annotation_batches([[0], [1]])), list(data.batches(1))
    assert outside(folder, opened) == []


def test_a_whole_set_is_read_and_nothing_else(folder: Path, opened: list[str]) -> None:
    data, tables = BrodenData(folder), {path for path in opened if path.endswith(".csv")}
    assert tables == {str(path) for path in folder.glob("*.csv")}
    assert not [path for path in opened if path.endswith((".jpg", ".png"))]  # not before its time
    opened.clear()
    data.annotations(range(6)), data.images(range(6))
    files = {str(path) for path in folder.rglob("*.*") if path.suffix != ".csv"}
    assert {path for path in opened if Path(path).suffix} == files
    assert outside(folder, opened) == []


def test_links_within_byte_order_marks_and_empty_lines_are_no_damage(folder, monkeypatch):
    expected = BrodenData(folder).images(range(6))
    (folder / "images/b").symlink_to("a")
    (folder / "images/c.jpg").symlink_to("a/2.jpg")
    for line, name in ((3, "b/1.jpg"), (4, "c.jpg")):
        put("index.csv", line, "image", name)(folder)
    assert torch.equal(BrodenData(folder).images(range(6)), expected)
    for path in folder.glob("*.csv"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_text().replace("\n", "\r\n\r\n").encode())
    assert len(BrodenData(folder)) == 6
    monkeypatch.setattr(layout, "MAX_TABLE_BYTES", 99)
    with pytest.raises(DataError, match=r"category\.csv has .* bytes, too many"):
        BrodenData(folder)


@FUZZ
@given(
    column=st.sampled_from(["image", "ih", "sw", "color", "object", "scene"]),
    value=st.one_of(
        st.text(max_size=30),
        st.text(alphabet="./;a0123456789\\\0~", max_size=30),
        st.sampled_from(["../../outside/secret.png", "a/0.jpg", "3;4", "a/0_color_1.png;0;3"]),
    ),
)
def test_any_value(folder: Path, opened: list[str], column: str, value: str) -> None:
    """A value of any kind is read as what it says or refused; nothing outside is opened."""
    before = (folder / "index.csv").read_bytes()
    put("index.csv", 3, column, value)(folder)
    opened.clear()
    try:
        data = BrodenData(folder)
        row = data.rows[1]
        said = {"image": [row.image], "ih": [str(row.image_shape[0])], "sw": ["16"]}
        items = [*row.maps, *map(str, row.whole)]
        for item in said.get(column, value.split(";")):
            assert item in value or re.sub("^0*", "", item) in (*items, "")
        data.annotations([1]), data.images([1])
    except DataError:
        pass
    finally:
        (folder / "index.csv").write_bytes(before)
    assert outside(folder, opened) == []


@FUZZ
@given(place=st.integers(0, 10_000), value=st.integers(1, 255), cut=st.booleans())
def test_any_damage_to_a_map(folder: Path, place: int, value: int, cut: bool) -> None:
    data = (folder / MAP).read_bytes()
    place %= len(data)
    damaged = bytes([data[place] ^ value]) + (b"" if cut else data[place + 1 :])
    content("images/a/damaged.png", data[:place] + damaged)(folder)
    try:
        labels = read_label_map(folder / "images/a/damaged.png", (16, 16))
    except DataError:
        pass
    else:
        assert labels.shape == (16, 16)
        assert 0 <= labels.min() <= labels.max() <= 65535
