"""Labels and color names of every pixel: derived a second time, and on real images."""

import hashlib
import itertools
import re
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from advlens.datasets import Annotations, BrodenData, Concept, Transform, load_data, read_rgb
from advlens.datasets.broden import data as module
from advlens.datasets.broden.colors import FOCAL, color_index, lab
from advlens.datasets.broden.data import read_label_map
from advlens.errors import DataError
from dissection.dissection_by_hand import labels_of, rows_of
from tiny_broden import CATEGORIES, save_label_map, write_tiny_broden

N = 14
PRIMARIES = np.array([[0.64, 0.30, 0.15], [0.33, 0.60, 0.06], [0.03, 0.10, 0.79]])
WHITE = np.array([0.3127 / 0.3290, 1.0, (1 - 0.3127 - 0.3290) / 0.3290])
TO_XYZ = PRIMARIES @ np.diag(np.linalg.solve(PRIMARIES, WHITE))
FOCI = [(value >> 16, value >> 8 & 255, value & 255) for value in FOCAL.values()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_broden(tmp_path_factory.mktemp("data") / "tiny", images=N)


@pytest.fixture(scope="module")
def data(folder: Path) -> BrodenData:
    data = load_data(f"broden:{folder}", transform=Transform(size=32, resize=None))
    assert isinstance(data, BrodenData)
    return data


def equal(one: Annotations, other: Annotations) -> bool:
    names = ("maps", "whole", "carries")
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in names)


def test_annotations_equal_a_second_reading(folder: Path, data: BrodenData) -> None:
    found = data.annotations(range(len(data)))
    assert found.maps.dtype == found.whole.dtype == torch.int32
    assert found.maps.shape == (N, 5, 16, 16)
    seen: set[int] = set()
    for i, row in enumerate(rows_of(folder / "index.csv")):
        carried, carries = labels_of(folder, row, data.categories)
        assert found.carries[i].tolist() == carries
        whole = [label for label in found.whole[i].tolist() if label]
        for y, x in itertools.product(range(16), range(16)):
            ours = whole + [label for label in found.maps[i, :, y, x].tolist() if label]
            assert sorted(ours) == np.flatnonzero(carried[:, y, x]).tolist()  # none twice
            seen |= {*ours}
    assert (seen, max(seen)) == ({concept.number for concept in data.concepts}, 300)


def test_what_it_says_of_itself_and_of_a_subset(folder, data):
    assert (data.name, data.classes, data.synsets) == ("broden:tiny", ("unlabeled",), None)
    assert (data.labels.tolist(), data.categories) == ([0] * N, CATEGORIES)
    assert (data.label_count, data.label_shape, data.image_shape) == (301, (16, 16), (3, 32, 32))
    assert [concept.number for concept in data.concepts] == [*range(1, 11), 300]
    assert data.concepts[-1] == Concept(300, "lamp", "object", ("object",))
    part = data.subset(9, seed=4)
    assert isinstance(part, BrodenData)
    ids = part.positions.tolist()
    assert (len(part), len(data), ids) == (9, N, sorted({*ids}))
    assert torch.equal(part.images(range(9)), data.images(ids))
    assert equal(part.annotations(range(9)), data.annotations(ids))
    assert (part.concepts, part.label_count) == (data.concepts, 301)
    assert part.labels.tolist() == [0] * 9
    assert part.subset(4, seed=0).images([0]).shape == (1, 3, 32, 32)


def test_primary_category(folder, data, tmp_path):
    """That of the largest coverage; of equal ones the first."""
    coverage = {}
    for category in ("part", "material"):
        (line,) = (row for row in rows_of(folder / f"c_{category}.csv") if row["name"] == "hair")
        coverage[category] = float(line["coverage"])
    assert data.concepts[4].category == max(coverage, key=coverage.get)
    copy = write_tiny_broden(tmp_path / "copy")
    for first, second in [("1e2", "1.5e2"), ("7", "7.0"), ("0.5", "0.25")]:
        for category, value in [("part", first), ("material", second)]:
            path = copy / f"c_{category}.csv"
            path.write_text(re.sub(r"(,hair,\d+),.*", rf"\1,{value}", path.read_text()))
        expected = "material" if float(second) > float(first) else "part"
        assert BrodenData(copy).concepts[4] == Concept(5, "hair", expected, ("part", "material"))


@pytest.mark.parametrize("categories", [("texture",), ("part", "color"), CATEGORIES[::-1]])
def test_any_categories(tmp_path, categories):
    folder = write_tiny_broden(tmp_path / "some", categories=categories)
    data = BrodenData(folder)
    assert data.categories == tuple(row["name"] for row in rows_of(folder / "category.csv"))
    found = data.annotations(range(12))
    assert found.carries.shape == (12, len(categories))
    for i, row in enumerate(rows_of(folder / "index.csv")):
        carried, carries = labels_of(folder, row, data.categories)
        assert found.carries[i].tolist() == carries
        labels = {*np.flatnonzero(carried.any(axis=(1, 2))).tolist()}
        assert {*found.maps[i].unique().tolist(), *found.whole[i].tolist()} - {0} == labels


def test_a_category_less(folder, tmp_path):
    """A line that is taken out of category.csv takes the category out of the set."""
    copy = write_tiny_broden(tmp_path / "copy")
    lines = (copy / "category.csv").read_text().splitlines()
    (copy / "category.csv").write_text("\n".join(lines[:1] + lines[2:]))
    data = BrodenData(copy)
    assert data.categories == CATEGORIES[1:]
    assert [concept.number for concept in data.concepts] == [*range(3, 11), 300]


def test_padding_and_batches(data):
    """Few ids need few maps; the labels are those of the full batch."""
    everything = data.annotations(range(N))
    for i in (0, 7, 11):
        one = data.annotations([i])
        depth, some = one.maps.shape[1], one.whole.shape[1]
        assert depth == len(data.rows[i].maps)
        assert torch.equal(everything.maps[i, :depth], one.maps[0])
        assert not everything.maps[i, depth:].any()
        assert torch.equal(everything.whole[i, :some], one.whole[0])
        assert not everything.whole[i, some:].any()
    none = data.annotations([])
    assert (none.maps.shape, none.whole.shape) == ((0, 0, 16, 16), (0, 0))
    assert none.carries.shape == (0, 6)
    batches = [[3, 1], [], range(4, N), [1]]
    for ids, one in zip(batches, data.annotation_batches(batches), strict=True):
        assert equal(one, data.annotations(ids))
    for ids in ([N], [-1], [0, 99]):
        with pytest.raises(DataError, match="ids are 0 to 13"):
            data.annotations(ids)
        with pytest.raises(DataError, match="ids are 0 to 13"):
            data.annotation_batches([[0], ids])  # at once, not at the second batch


def test_reading_is_lazy_and_bounded(data, monkeypatch):
    monkeypatch.setattr(module, "WORKERS", 1)
    read, original = [], BrodenData._maps
    monkeypatch.setattr(BrodenData, "_maps", lambda self, i: (read.append(i), original(self, i))[1])
    threads = threading.active_count()
    batches = data.annotation_batches([[i] for i in range(N)])
    assert read == []
    next(batches)
    assert len(read) <= 5
    batches.close()
    assert threading.active_count() == threads
    assert len(read) <= 6


def test_images_are_squeezed_whole(folder, data, tmp_path):
    images = [image for batch in data.batches(8) for image in (batch.images * 255).round()]
    for i, image in enumerate(images):
        expected = Image.open(folder / "images" / "a" / f"{i}.jpg").convert("RGB")
        assert np.array_equal(image.permute(1, 2, 0), expected)  # untouched
    small = BrodenData(folder, size=20)
    assert small.image_shape == (3, 20, 20)
    image = read_rgb(folder / "images/a/3.jpg").resize((20, 20), Image.Resampling.BILINEAR)
    assert np.array_equal(small.images([3])[0].permute(1, 2, 0), np.asarray(image))
    assert torch.equal(small.annotations([3]).maps, data.annotations([3]).maps)
    folder, image = write_tiny_broden(tmp_path / "wide"), Image.new("RGB", (40, 24))
    image.paste((255, 255, 255), (0, 0, 20, 24))
    image.save(folder / "images" / "a" / "0.jpg", quality=95)
    index = folder / "index.csv"
    index.write_text(index.read_text().replace("a/0.jpg,train,32,32", "a/0.jpg,train,24,40"))
    data = BrodenData(folder)
    assert data.image_shape == (3, 24, 24)  # by the height of the first
    squeezed = data.images([0])[0].float()
    assert squeezed[:, :, :11].mean() > 240
    assert squeezed[:, :, 13:].mean() < 15


def test_fingerprint(tmp_path, folder, data, monkeypatch):
    copy, fingerprint = shutil.copytree(folder, tmp_path / "copy"), data.fingerprint()
    assert BrodenData(copy).fingerprint() == fingerprint
    assert BrodenData(copy, size=20).fingerprint() != fingerprint
    assert data.subset(N, seed=0).fingerprint() == fingerprint
    assert data.subset(N - 1, seed=0).fingerprint() != fingerprint  # not the whole set's, kept
    (other,) = set(data.concepts[4].listed) - {data.concepts[4].category}
    prints = {fingerprint}
    for names, old, new in [
        ("images/a/4.jpg", rb"$", b"\0"),
        ("images/a/4_color_1.png", rb"$", b"\0"),
        (f"c_{other}.csv", rb"\n.*,hair,.*", b""),  # the category of hair stays
        ("index.csv", rb",10;9\n", b",9\n"),
        ("label.csv c_object.csv", rb"lamp", b"lump"),
    ]:
        for path in map(copy.joinpath, names.split()):
            path.write_bytes(re.sub(old, new, path.read_bytes(), count=1))
        prints.add(BrodenData(copy).fingerprint())
    assert len(prints) == 6
    monkeypatch.setattr(BrodenData, "_hash", None)
    assert data.fingerprint() == fingerprint  # all is read once


def test_label_map(tmp_path):
    expected = np.arange(65536).reshape(128, 512)
    save_label_map(tmp_path / "every.png", expected)
    found = read_label_map(tmp_path / "every.png", (128, 512))
    assert found.dtype == np.int32
    assert np.array_equal(found, expected)


def test_recount_of_real_images(shared_data):
    """Every frequency and coverage of the small real set, from what the reader gives."""
    folder = shared_data / "mini-broden"
    data = load_data(f"broden:{folder}")
    assert isinstance(data, BrodenData)
    assert (len(data), data.label_shape, data.label_count) == (1200, (112, 112), 69)
    frequency, area = np.zeros(69, int), np.zeros(69, int)
    batches = [range(start, start + 100) for start in range(0, 1200, 100)]
    for one in data.annotation_batches(batches):
        for maps, whole in zip(one.maps, one.whole, strict=True):
            count = torch.bincount(maps.flatten(), minlength=69).numpy()
            count[whole.numpy()] += 112 * 112
            frequency, area = frequency + (count > 0), area + count
    for category in data.categories:
        for row in rows_of(folder / f"c_{category}.csv"):
            number = int(row["number"])
            assert data.concepts[number - 1] == Concept(number, row["name"], category, (category,))
            assert frequency[number] == int(row["frequency"])
            assert area[number] / 112**2 == pytest.approx(float(row["coverage"]), abs=1e-6)
    hashes = [hashlib.md5(row.image.encode()).hexdigest() for row in data.rows]
    assert hashes == sorted(hashes)  # the order of the rows


def lab_by_hand(red: int, green: int, blue: int) -> tuple[float, float, float]:
    """CIE 1976 L*a*b* of an sRGB color, from the primaries' chromaticities and D65."""
    linear = [
        value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
        for value in (red / 255, green / 255, blue / 255)
    ]
    xyz = TO_XYZ @ linear / WHITE
    f = [v ** (1 / 3) if v > 216 / 24389 else (24389 / 27 * v + 16) / 116 for v in xyz]
    return 116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])


@settings(deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, 255)] * 3), min_size=1, max_size=9))
def test_lab_and_the_nearest_color(pixels):
    for pixel, values in zip(pixels, lab(np.array(pixels, np.uint8)), strict=True):
        assert values == pytest.approx(lab_by_hand(*pixel), abs=0.02)
    focal = [lab_by_hand(*focus) for focus in FOCI]
    for pixel, index in zip(pixels, color_index(np.array([pixels], np.uint8))[0], strict=True):
        distances = [np.linalg.norm(np.subtract(lab_by_hand(*pixel), other)) for other in focal]
        assert distances[index] < min(distances) + 0.05


def test_focal_colors_are_themselves() -> None:
    assert color_index(np.array([FOCI], np.uint8)).tolist() == [[*range(11)]]


def test_real_images(shared_data: Path) -> None:
    """The maps were computed by this rule from the photographs; these are their JPEG copies."""
    data = BrodenData(shared_data / "mini-broden")
    numbers = {concept.name: concept.number for concept in data.concepts}
    number, agreement = np.array([numbers[name] for name in FOCAL]), []
    for row in data.rows[::20]:
        image = read_rgb(data.root / "images" / row.image)
        small = image.resize((112, 112), Image.Resampling.BICUBIC)
        theirs = read_label_map(data.root / "images" / row.maps[0], (112, 112))
        agreement.append((number[color_index(np.asarray(small))] == theirs).mean())
    assert np.mean(agreement) > 0.97
    assert min(agreement) > 0.85
