"""Damaged and hostile data sets: one sentence each, and nothing is read outside the folder."""

import csv
import os
import re
import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from advlens.datasets import BrodenData
from advlens.datasets.broden import layout
from advlens.datasets.broden.data import read_label_map
from advlens.errors import DataError
from tiny_broden import save_label_map, write_tiny_broden

OPENED: list[str] | None = None


def _heard(event: str, args: tuple) -> None:
    if OPENED is not None and event in ("open", "os.scandir", "os.listdir"):
        OPENED.append(os.path.realpath(args[0]) if isinstance(args[0], str | bytes) else "")


sys.addaudithook(_heard)


@pytest.fixture
def opened() -> Iterator[list[str]]:
    """The real paths of all that is opened during the test, by any library."""
    global OPENED
    OPENED = []
    yield OPENED
    OPENED = None


def outside(folder: Path, opened: list[str]) -> list[str]:
    """What was opened outside a folder; Python may import what it needs."""
    code = (".py", ".pyc", ".so")
    return [
        path
        for path in opened
        if not f"{path}/".startswith(f"{folder}/") and not path.endswith(code)
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data set of six images, beside files that nobody may read."""
    secrets = tmp_path / "outside"
    (secrets / "a").mkdir(parents=True)
    pixels = np.zeros((32, 32, 3), np.uint8)
    Image.fromarray(pixels).save(secrets / "secret.jpg")
    Image.fromarray(pixels[:16, :16]).save(secrets / "secret.png")
    return write_tiny_broden(tmp_path / "set", images=6)


def change(folder: Path, line: int, column: str, value: str, table: str = "index.csv") -> None:
    """Set one value of a table; line 2 is the first after the header."""
    path = folder / table
    with open(path, newline="") as file:
        rows = list(csv.reader(file))
    rows[line - 1][rows[0].index(column)] = value
    with open(path, "w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


def append(folder: Path, table: str, text: str) -> None:
    with open(folder / table, "a", encoding="utf-8", newline="") as file:
        file.write(text)


def relink(path: Path, target: str) -> None:
    path.unlink()
    path.symlink_to(target)


def png(width: int, height: int, bits: int, color: int, data: bytes = b"") -> bytes:
    """A PNG file of any header."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + check

    header = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(data))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + chunk(b"IEND", b"")


Edit = Callable[[Path], object]
INDEX = "index.csv line 3"
MAP = "images/a/0_color_1.png"
HOSTILE: dict[str, tuple[Edit, str]] = {
    # tables
    "no index": (lambda f: (f / "index.csv").unlink(), "no file .*index.csv"),
    "no labels": (lambda f: (f / "label.csv").unlink(), "no file .*label.csv"),
    "no categories": (lambda f: (f / "category.csv").unlink(), "no file .*category.csv"),
    "no codes": (lambda f: (f / "c_part.csv").unlink(), "no file .*c_part.csv"),
    "no images": (lambda f: (f / "images").rename(f / "pictures"), "images"),
    "empty index": (lambda f: (f / "index.csv").write_text(""), "index.csv has 0 columns"),
    "no rows": (
        lambda f: (f / "index.csv").write_text(
            (f / "index.csv").read_text().split("\n")[0] + "\n\n"
        ),
        "index.csv names no image",
    ),
    "no category's row": (
        lambda f: (f / "category.csv").write_text("name,first,last,count,frequency\n"),
        "category.csv names no category",
    ),
    "no column": (
        lambda f: change(f, 1, "material", "stuff"),
        "index.csv has 0 columns named 'material' instead of one; fix",
    ),
    "a column twice": (lambda f: change(f, 1, "part", "object"), "2 columns named 'object'"),
    "no size column": (lambda f: change(f, 1, "sh", "height"), "0 columns named 'sh'"),
    "short line": (lambda f: append(f, "index.csv", "a/1.jpg,train,32\n"), "line 8 has 3 values"),
    "long line": (lambda f: append(f, "label.csv", "77,a,b,1,1,,,\n"), "line 13 has 8 values"),
    "open quote": (lambda f: append(f, "index.csv", '"a/1.jpg'), "cannot read the table .*index"),
    "latin-1": (
        lambda f: (f / "label.csv").write_bytes(b"number,name\n1,\xe9\n"),
        "cannot read the table .*label.csv",
    ),
    "a huge value": (lambda f: append(f, "index.csv", "x" * 200_000), "cannot read the table"),
    "a table that is a folder": (
        lambda f: ((f / "label.csv").unlink(), (f / "label.csv").mkdir()),
        "no file .*label.csv",
    ),
    "a table that is a pipe": (
        lambda f: ((f / "label.csv").unlink(), os.mkfifo(f / "label.csv")),
        "no file .*label.csv",
    ),
    "a table that leads out": (
        lambda f: relink(f / "label.csv", "../outside/secret.jpg"),
        "'label.csv' leads out of",
    ),
    # concepts
    "no label": (
        lambda f: [
            path.write_text("code,number,name,frequency,coverage\n") for path in f.glob("c_*")
        ],
        "list no label",
    ),
    "number twice": (lambda f: append(f, "label.csv", "3,cup,,1,1,\n"), "line 13: label 3 .*twice"),
    "name twice": (lambda f: append(f, "label.csv", "44,dog,,1,1,\n"), "line 13: label 44 .*twice"),
    "number twice in a category": (
        lambda f: append(f, "c_object.csv", "9,3,person,1,1\n"),
        "c_object.csv line 5: label 3 .*twice",
    ),
    "category twice": (
        lambda f: append(f, "category.csv", "part,1,1,1,1\n"),
        "category.csv line 8: .*'part' occurs twice",
    ),
    "category without a name": (
        lambda f: append(f, "category.csv", ",1,1,1,1\n"),
        "category.csv line 8",
    ),
    "category that leads out": (
        lambda f: append(f, "category.csv", "/../../outside/secret,1,1,1,1\n"),
        "leads out of",
    ),
    "category that stays within": (
        lambda f: append(f, "category.csv", "part/../c_part,1,1,1,1\n"),
        "0 columns named 'part/../c_part'",
    ),
    "label of another name": (
        lambda f: change(f, 2, "name", "cat", "c_object.csv"),
        r"c_object.csv line 2: label 3 \('cat'\) is not in label.csv under this name",
    ),
    "label that label.csv lacks": (
        lambda f: change(f, 2, "number", "33", "c_object.csv"),
        "c_object.csv line 2: label 33",
    ),
    "label without a name": (
        lambda f: change(f, 4, "name", "", "label.csv"),
        "label.csv line 4: label 3 has no printable name",
    ),
    "label of control characters": (
        lambda f: change(f, 4, "name", "per\u202eson", "label.csv"),
        "label.csv line 4: label 3 has no printable name",
    ),
    **{
        f"number {text!r}": (
            lambda f, text=text: change(f, 4, "number", text, "label.csv"),
            "label.csv line 4: number is .*not a whole number from 1 to 65535",
        )
        for text in ["", "0", "-1", "1.5", "65536", "1_0", "٣", "9" * 5000, "1e2", " 3", "nan"]
    },
    **{
        f"coverage {text!r}": (
            lambda f, text=text: change(f, 2, "coverage", text, "c_object.csv"),
            "c_object.csv line 2: coverage is .*not a number",
        )
        for text in ["", "-1", "nan", "inf", "1e999", "0x1p3", "1,5"]
    },
    # rows
    **{
        f"{column} {text!r}": (
            lambda f, column=column, text=text: change(f, 3, column, text),
            f"{INDEX}: {column} is .*, not a whole number",
        )
        for column, text in [("ih", ""), ("iw", "0"), ("sh", "-16"), ("sw", "16.0"), ("ih", "²")]
    },
    "bomb by the row": (
        lambda f: (change(f, 3, "iw", "9000000"), change(f, 3, "ih", "9000000")),
        f"{INDEX}: .* above 25000000 pixels",
    ),
    "other map size": (
        lambda f: change(f, 3, "sh", "17"),
        f"{INDEX}: label maps have 17x16 pixels, earlier ones 16x16; resize",
    ),
    "unknown label": (
        lambda f: change(f, 3, "scene", "77"),
        f"{INDEX}: no category lists label 77; add it",
    ),
    "unknown label beside a map": (
        lambda f: change(f, 2, "object", "a/0_object_1.png;77"),
        "index.csv line 2: no category lists label 77",
    ),
    "label too large": (lambda f: change(f, 3, "scene", "65536"), f"{INDEX}: label is '65536'"),
    "label of too many digits": (lambda f: change(f, 3, "scene", "9" * 5000), f"{INDEX}: label is"),
    "missing map": (
        lambda f: (f / "images/a/1_color_1.png").unlink(),
        f"{INDEX}: there is no file .*/images/a/1_color_1.png",
    ),
    "missing image": (
        lambda f: (f / "images/a/1.jpg").unlink(),
        f"{INDEX}: there is no file .*/images/a/1.jpg",
    ),
    "image without a name": (
        lambda f: change(f, 3, "image", ""),
        f"{INDEX}: '' is not a printable",
    ),
    "image that is a folder": (lambda f: change(f, 3, "image", "a"), f"{INDEX}: there is no file"),
    "image that is the root": (lambda f: change(f, 3, "image", "."), f"{INDEX}: .* leads out"),
    "image that is a pipe": (
        lambda f: ((f / "images/a/1.jpg").unlink(), os.mkfifo(f / "images/a/1.jpg")),
        f"{INDEX}: there is no file",
    ),
    "image that leads in circles": (
        lambda f: relink(f / "images/a/1.jpg", "1.jpg"),
        f"{INDEX}: there is no file",
    ),
    **{
        f"{column} {path!r}": (
            lambda f, column=column, path=path: change(
                f, 3, column, path.replace("OUTSIDE", str(f.parent / "outside"))
            ),
            f"index.csv line [34]: .*({message})",  # the line where a row ends
        )
        for column in ("image", "color", "texture")
        for path, message in {
            "../../outside/secret.png": "leads out of",
            "a/../../../outside/secret.png": "leads out of",
            "OUTSIDE/secret.png": "leads out of",
            "//OUTSIDE/secret.png": "leads out of",
            "../index.csv": "leads out of",
            "..": "leads out of",
            "/etc/passwd": "leads out of",
            "a/1.jpg\0.png": "not a printable path",
            "a/\u202e1.png": "not a printable path",
            "a/1\n.png": "not a printable path",
            "~/secret.png": "there is no file",
            "a\\1.png": "there is no file",
            "file:///etc/passwd": "there is no file",
            "a/" + "x" * 5000 + ".png": "there is no file",
            "ａ/1.jpg": "there is no file",
        }.items()
    },
    **{
        f"{name} linked out": (
            lambda f, name=name: relink(
                f / "images" / "a" / name, f"../../../outside/secret{name[-4:]}"
            ),
            "index.csv line 2: .*leads out of .*copy its target",
        )
        for name in ("0.jpg", "0_color_1.png")
    },
    "folder linked out": (
        lambda f: (
            (f / "images/b").symlink_to("../../outside"),
            change(f, 3, "image", "b/secret.jpg"),
        ),
        f"{INDEX}: 'b/secret.jpg' leads out of",
    ),
    "images linked out": (
        lambda f: (
            (f / "images").rename(f / "pictures"),
            (f / "images").symlink_to("../outside"),
        ),
        "'images' leads out of",
    ),
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


PIXELS: dict[str, tuple[Edit, str]] = {
    "gray map": (
        lambda f: Image.new("L", (16, 16)).save(f / MAP),
        "0_color_1.png is a PNG of color type 0 and 8 bits, not RGB of 8",
    ),
    "palette": (lambda f: Image.new("P", (16, 16)).save(f / MAP), "color type 3"),
    "map with alpha": (lambda f: Image.new("RGBA", (16, 16)).save(f / MAP), "color type 6"),
    "map of 16 bits": (
        lambda f: (f / MAP).write_bytes(png(16, 16, 16, 2, bytes(16 * (1 + 16 * 6)))),
        "color type 2 and 16 bits",
    ),
    "JPEG map": (lambda f: Image.new("RGB", (16, 16)).save(f / MAP, "JPEG"), "is not a PNG file"),
    "GIF map": (lambda f: Image.new("RGB", (16, 16)).save(f / MAP, "GIF"), "is not a PNG file"),
    "empty map": (lambda f: (f / MAP).write_bytes(b""), "is not a PNG file"),
    "text for a map": (lambda f: (f / MAP).write_text("a" * 99), "is not a PNG file"),
    "truncated map": (
        lambda f: (f / MAP).write_bytes((f / MAP).read_bytes()[:60]),
        "cannot read the label map .*0_color_1.png",
    ),
    "map without pixels": (
        lambda f: (f / MAP).write_bytes(png(16, 16, 8, 2)),
        "cannot read the label map",
    ),
    "larger map": (
        lambda f: Image.new("RGB", (17, 16)).save(f / MAP),
        "has 16x17 pixels .*, not 16x16 as index.csv says; resize",
    ),
    "bomb for a map": (
        lambda f: (f / MAP).write_bytes(png(60_000, 60_000, 8, 2, b"0" * 99)),
        "60000x60000 pixels, more than 25000000",
    ),
    "map of blue pixels": (
        lambda f: Image.new("RGB", (16, 16), (1, 0, 1)).save(f / MAP),
        "has blue pixels",
    ),
    "unknown label": (
        lambda f: save_label_map(f / MAP, np.full((16, 16), 299)),
        "0_color_1.png holds label 299, which no category lists; add it to label.csv",
    ),
    "removed map": (lambda f: (f / MAP).unlink(), "no file .*0_color_1.png"),
    "map linked out since": (
        lambda f: relink(f / MAP, "../../../outside/secret.png"),
        "leads out of",
    ),
    "map that became a pipe": (
        lambda f: ((f / MAP).unlink(), os.mkfifo(f / MAP)),
        "no file .*0_color_1.png",
    ),
    "other image size": (
        lambda f: Image.new("RGB", (32, 30)).save(f / "images/a/0.jpg"),
        "0.jpg has 30x32 pixels .*, not 32x32 as index.csv says",
    ),
    "damaged image": (lambda f: (f / "images/a/0.jpg").write_bytes(b"x"), "cannot read the image"),
    "bomb for an image": (
        lambda f: (f / "images/a/0.jpg").write_bytes(png(60_000, 60_000, 8, 2, b"0" * 99)),
        "60000x60000|decompression bomb",
    ),
    "image linked out since": (
        lambda f: relink(f / "images/a/0.jpg", "../../../outside/secret.jpg"),
        "leads out of",
    ),
    "folder linked out since": (
        lambda f: (
            (f / "images/a").rename(f / "images/b"),
            (f / "images/a").symlink_to("../../outside"),
        ),
        "leads out of",
    ),
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
    data = BrodenData(folder)
    tables = {path for path in opened if path.endswith(".csv")}
    assert tables == {str(path) for path in folder.glob("*.csv")}
    assert not [path for path in opened if path.endswith((".jpg", ".png"))]  # not before its time
    opened.clear()
    data.annotations(range(6)), data.images(range(6))
    files = {str(path) for path in folder.rglob("*.*") if path.suffix != ".csv"}
    assert {path for path in opened if Path(path).suffix} == files
    assert outside(folder, opened) == []


def test_links_within_are_followed(folder: Path) -> None:
    (folder / "images/b").symlink_to("a")
    (folder / "images/c.jpg").symlink_to("a/2.jpg")
    change(folder, 3, "image", "b/1.jpg")
    change(folder, 4, "image", "c.jpg")
    expected = BrodenData(folder).images(range(6))
    assert (write_tiny_broden(folder.parent / "plain", images=6)).is_dir()
    assert (BrodenData(folder.parent / "plain").images(range(6)) == expected).all()


def test_large_tables_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "MAX_TABLE_BYTES", 99)
    with pytest.raises(DataError, match=r"category\.csv has .* bytes, too many"):
        BrodenData(folder)


def test_byte_order_mark_and_empty_lines(folder: Path) -> None:
    for path in folder.glob("*.csv"):
        text = path.read_text().replace("\n", "\r\n\r\n")
        path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert len(BrodenData(folder)) == 6


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
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
    with open(folder / "index.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    rows[2][rows[0].index(column)] = value
    with open(folder / "index.csv", "w", encoding="utf-8", errors="surrogatepass") as file:
        csv.writer(file).writerows(rows)
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


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(place=st.integers(0, 10_000), value=st.integers(1, 255), cut=st.booleans())
def test_any_damage_to_a_map(folder: Path, place: int, value: int, cut: bool) -> None:
    path = folder / MAP
    content = path.read_bytes()
    place %= len(content)
    damaged = bytes([content[place] ^ value]) + (b"" if cut else content[place + 1 :])
    other = path.with_name("damaged.png")
    other.write_bytes(content[:place] + damaged)
    try:
        labels = read_label_map(other, (16, 16))
    except DataError:
        pass
    else:
        assert labels.shape == (16, 16)
        assert 0 <= labels.min() <= labels.max() <= 65535
