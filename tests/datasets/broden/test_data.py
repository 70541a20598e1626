"""Labels of every pixel: against a second reading by plain loops, and recounted on real images."""

import csv
import hashlib
import itertools
import os
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from advlens.datasets import BrodenData, Concept, Transform, load_data, read_rgb
from advlens.datasets.broden import data as module
from advlens.datasets.broden.data import read_label_map
from advlens.errors import DataError, SettingsError
from tiny_broden import CATEGORIES, save_label_map, write_tiny_broden


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_broden(tmp_path_factory.mktemp("data") / "tiny", images=30)


@pytest.fixture(scope="module")
def data(folder: Path) -> BrodenData:
    data = load_data(f"broden:{folder}", transform=Transform(size=32, resize=None))
    assert isinstance(data, BrodenData)
    return data


def by_loops(folder: Path, categories: tuple[str, ...]) -> list[tuple[dict, list[bool]]]:
    """For each image the labels of each pixel as a set, and the categories it carries."""
    result = []
    with open(folder / "index.csv", newline="") as file:
        for row in csv.DictReader(file):
            sh, sw = int(row["sh"]), int(row["sw"])
            pixels: dict[tuple[int, int], set[int]] = {
                place: set() for place in itertools.product(range(sh), range(sw))
            }
            carries = []
            for category in categories:
                items = [item for item in row[category].split(";") if item not in ("", "0")]
                carries.append(items != [])
                for item in items:
                    if item.isdigit():
                        for labels in pixels.values():
                            labels.add(int(item))
                        continue
                    image = Image.open(folder / "images" / item)
                    for (y, x), labels in pixels.items():
                        red, green, _ = image.getpixel((x, y))
                        if red + 256 * green:
                            labels.add(red + 256 * green)
            result.append((pixels, carries))
    return result


def test_annotations_equal_a_second_reading(folder: Path, data: BrodenData) -> None:
    found = data.annotations(range(len(data)))
    assert found.maps.dtype == found.whole.dtype == torch.int32
    assert found.maps.shape == (30, 5, 16, 16)
    seen = set()
    for i, (pixels, carries) in enumerate(by_loops(folder, data.categories)):
        assert found.carries[i].tolist() == carries
        whole = [label for label in found.whole[i].tolist() if label]
        for (y, x), labels in pixels.items():
            ours = whole + [label for label in found.maps[i, :, y, x].tolist() if label]
            assert len(ours) == len(set(ours))  # none twice at a pixel
            assert set(ours) == labels
            seen |= labels
    assert seen == {concept.number for concept in data.concepts}
    assert max(seen) == 300


def test_what_it_says_of_itself(folder: Path, data: BrodenData) -> None:
    assert (data.name, data.classes, data.synsets) == ("broden:tiny", ("unlabeled",), None)
    assert data.labels.tolist() == [0] * 30
    assert data.categories == CATEGORIES
    assert (data.label_count, data.label_shape, data.image_shape) == (301, (16, 16), (3, 32, 32))
    numbers = [concept.number for concept in data.concepts]
    assert numbers == [*range(1, 11), 300]
    assert data.concepts[-1] == Concept(300, "lamp", "object", ("object",))


def test_primary_category(folder: Path, data: BrodenData, tmp_path: Path) -> None:
    """That of the largest coverage; of equal ones the first."""
    coverage = {}
    for category in ("part", "material"):
        with open(folder / f"c_{category}.csv", newline="") as file:
            rows = {row["name"]: float(row["coverage"]) for row in csv.DictReader(file)}
        coverage[category] = rows["hair"]
    assert data.concepts[4].category == max(coverage, key=coverage.get)
    copy = write_tiny_broden(tmp_path / "copy", images=30)
    for first, second in [("1e2", "1.5e2"), ("7", "7.0"), ("0.5", "0.25")]:
        for category, value in [("part", first), ("material", second)]:
            lines = (copy / f"c_{category}.csv").read_text().splitlines()
            lines = [line.split(",") for line in lines]
            for line in lines:
                line[4] = value if line[2] == "hair" else line[4]
            (copy / f"c_{category}.csv").write_text("\n".join(map(",".join, lines)))
        expected = "material" if float(second) > float(first) else "part"
        assert BrodenData(copy).concepts[4] == Concept(5, "hair", expected, ("part", "material"))


@pytest.mark.parametrize("categories", [("texture",), ("part", "color"), CATEGORIES[::-1]])
def test_any_categories(tmp_path: Path, categories: tuple[str, ...]) -> None:
    folder = write_tiny_broden(tmp_path / "some", categories=categories)
    data = BrodenData(folder)
    with open(folder / "category.csv", newline="") as file:
        assert data.categories == tuple(row["name"] for row in csv.DictReader(file))
    found = data.annotations(range(12))
    assert found.carries.shape == (12, len(categories))
    for i, (pixels, carries) in enumerate(by_loops(folder, data.categories)):
        assert found.carries[i].tolist() == carries
        labels = set().union(*pixels.values())
        assert {*found.maps[i].unique().tolist(), *found.whole[i].tolist()} - {0} == labels


def test_a_category_less(folder: Path, tmp_path: Path) -> None:
    """A line that is taken out of category.csv takes the category out of the set."""
    copy = write_tiny_broden(tmp_path / "copy")
    lines = (copy / "category.csv").read_text().splitlines()
    (copy / "category.csv").write_text("\n".join(lines[:1] + lines[2:]))
    data = BrodenData(copy)
    assert data.categories == CATEGORIES[1:]
    assert [concept.number for concept in data.concepts] == [*range(3, 11), 300]


def test_padding(data: BrodenData) -> None:
    """Few ids need few maps; the labels are those of the full batch."""
    everything = data.annotations(range(30))
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


def test_annotation_batches(data: BrodenData) -> None:
    batches = [[3, 1], [], range(4, 30), [1]]
    found = list(data.annotation_batches(batches))
    assert len(found) == 4
    for ids, one in zip(batches, found, strict=True):
        again = data.annotations(ids)
        assert torch.equal(one.maps, again.maps)
        assert torch.equal(one.whole, again.whole)
        assert torch.equal(one.carries, again.carries)


@pytest.mark.parametrize("ids", [[30], [-1], [0, 99]])
def test_ids_that_are_not_there(data: BrodenData, ids: list[int]) -> None:
    with pytest.raises(DataError, match="ids are 0 to 29"):
        data.annotations(ids)
    with pytest.raises(DataError, match="ids are 0 to 29"):
        data.annotation_batches([[0], ids])  # at once, not at the second batch


def test_reading_is_lazy_and_bounded(data: BrodenData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WORKERS", 1)
    read, original = [], BrodenData._maps
    monkeypatch.setattr(BrodenData, "_maps", lambda self, i: (read.append(i), original(self, i))[1])
    threads = threading.active_count()
    batches = data.annotation_batches([[i] for i in range(30)])
    assert read == []
    next(batches)
    assert len(read) <= 5
    batches.close()
    assert threading.active_count() == threads
    assert len(read) <= 6


# images


def test_images_are_squeezed_whole(folder: Path, data: BrodenData) -> None:
    names = [f"a/{i}.jpg" for i in range(30)]
    for i, name in enumerate(names):
        expected = np.asarray(Image.open(folder / "images" / name).convert("RGB"))
        assert np.array_equal(data.images([i])[0].permute(1, 2, 0), expected)  # untouched
    small = BrodenData(folder, size=20)
    assert small.image_shape == (3, 20, 20)
    image = read_rgb(folder / "images" / names[3]).resize((20, 20), Image.Resampling.BILINEAR)
    assert np.array_equal(small.images([3])[0].permute(1, 2, 0), np.asarray(image))
    assert torch.equal(small.annotations([3]).maps, data.annotations([3]).maps)


def test_images_that_are_not_square(tmp_path: Path) -> None:
    folder = write_tiny_broden(tmp_path / "wide")
    pixels = np.zeros((24, 40, 3), np.uint8)
    pixels[:, :20] = 255
    Image.fromarray(pixels).save(folder / "images" / "a" / "0.jpg", quality=95)
    index = folder / "index.csv"
    index.write_text(index.read_text().replace("a/0.jpg,train,32,32", "a/0.jpg,train,24,40"))
    data = BrodenData(folder)
    assert data.image_shape == (3, 24, 24)  # by the height of the first
    image = data.images([0])[0].float()
    assert image[:, :, :11].mean() > 240
    assert image[:, :, 13:].mean() < 15


def test_batches(data: BrodenData) -> None:
    (first, *_) = data.batches(8)
    assert (first.images.shape, first.labels.tolist()) == ((8, 3, 32, 32), [0] * 8)


# subsets


def test_subset(data: BrodenData) -> None:
    part = data.subset(9, seed=4)
    assert isinstance(part, BrodenData)
    ids = part.positions.tolist()
    assert (len(part), len(ids), ids) == (9, 9, sorted(set(ids)))
    assert ids == data.subset(9, seed=4).positions.tolist() != data.subset(9, 5).positions.tolist()
    assert set(ids) < set(data.subset(10, seed=4).positions.tolist())
    assert torch.equal(part.images(range(9)), data.images(ids))
    ours, theirs = part.annotations(range(9)), data.annotations(ids)
    assert torch.equal(ours.maps, theirs.maps)
    assert torch.equal(ours.whole, theirs.whole)
    assert (part.concepts, part.label_count) == (data.concepts, 301)
    assert part.labels.tolist() == [0] * 9
    assert len(data) == 30
    assert part.subset(4, seed=0).images([0]).shape == (1, 3, 32, 32)
    with pytest.raises(SettingsError):
        data.subset(31, seed=0)


def test_fingerprint(tmp_path: Path, folder: Path, data: BrodenData) -> None:
    copy = write_tiny_broden(tmp_path / "copy", images=30)
    fingerprint = data.fingerprint()
    assert BrodenData(copy).fingerprint() == fingerprint
    assert BrodenData(copy, size=20).fingerprint() != fingerprint
    assert data.subset(30, seed=0).fingerprint() == fingerprint
    assert data.subset(29, seed=0).fingerprint() != fingerprint
    seen = {fingerprint}
    edits = [
        ("images/a/4.jpg", lambda old: old + b"\0"),
        ("images/a/4_color_1.png", lambda old: old + b"\0"),
        ("index.csv", lambda old: old.replace(b",10;9\n", b",9\n", 1)),
        ("label.csv", lambda old: old.replace(b"lamp", b"lump")),
    ]
    for name, edit in edits:
        path = copy / name
        path.write_bytes(edit(path.read_bytes()))
        if name == "label.csv":
            (copy / "c_object.csv").write_bytes(edit((copy / "c_object.csv").read_bytes()))
        seen.add(BrodenData(copy).fingerprint())
    assert len(seen) == 5


# label maps


@settings(deadline=None)
@given(st.lists(st.integers(0, 65535), min_size=6, max_size=6))
def test_label_map(tmp_path_factory: pytest.TempPathFactory, labels: list[int]) -> None:
    path = tmp_path_factory.getbasetemp() / f"{os.getpid()}.png"
    expected = np.array(labels).reshape(2, 3)
    save_label_map(path, expected)
    found = read_label_map(path, (2, 3))
    assert found.dtype == np.int32
    assert np.array_equal(found, expected)


# real images


def test_recount_of_real_images(shared_data: Path) -> None:
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
        with open(folder / f"c_{category}.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        for row in rows:
            number = int(row["number"])
            assert data.concepts[number - 1] == Concept(number, row["name"], category, (category,))
            assert frequency[number] == int(row["frequency"])
            assert area[number] / 112**2 == pytest.approx(float(row["coverage"]), abs=1e-6)


def test_rows_of_real_images_are_in_the_order_of_their_md5(shared_data: Path) -> None:
    data = BrodenData(shared_data / "mini-broden")
    hashes = [hashlib.md5(row.image.encode()).hexdigest() for row in data.rows]
    assert hashes == sorted(hashes)


def test_fingerprints_are_read_once_and_tell_a_part_and_other_listings_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = BrodenData(write_tiny_broden(tmp_path / "tiny"))
    whole = data.fingerprint()
    assert data.subset(6, seed=0).fingerprint() != whole
    (hair,) = (concept for concept in data.concepts if concept.name == "hair")
    (other,) = set(hair.listed) - {hair.category}  # without it the category of hair stays
    listing = tmp_path / "tiny" / f"c_{other}.csv"
    lines = listing.read_text().splitlines(keepends=True)
    listing.write_text("".join(line for line in lines if ",hair," not in line))
    changed = BrodenData(tmp_path / "tiny")
    assert [c.category for c in changed.concepts] == [c.category for c in data.concepts]
    assert changed.fingerprint() != whole
    monkeypatch.setattr(BrodenData, "_hash", None)
    assert data.fingerprint() == whole
