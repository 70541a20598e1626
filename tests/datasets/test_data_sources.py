"""Datasets, tables and functions of users as image sets."""

import gzip
import importlib
import io
import itertools
import json
import struct
import sys
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset

from advlens import Classifier
from advlens.datasets import (
    FILES,
    ArrayData,
    DatasetData,
    Transform,
    load_data,
    read_image,
)
from advlens.errors import DataError, SettingsError
from advlens.settings.data import DATA, check_data
from advlens.workflows.training import load_images
from tiny_imagenet import jpeg, write

SMALL = Transform(size=8, resize=8)
GRAY = torch.arange(64, dtype=torch.uint8).view(1, 8, 8)
RGB = torch.stack([torch.full((3, 8, 8), 40 * i, dtype=torch.uint8) for i in range(4)])


class Items(Dataset[Any]):
    """A Dataset of some images with labels 0, 1, 0, 1, …, and what else it is to have."""

    def __init__(self, images: Sequence[Any] = RGB, labels: Any = None, **more: Any) -> None:
        self.items = list(zip(images, labels or [i % 2 for i in range(len(images))], strict=True))
        vars(self).update(more)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> Any:
        image, label = self.items[i]
        if isinstance(image, Exception):
            raise image
        return image() if callable(image) else image, label


PIL = [Image.new("L", (20, 10), 9 * i) for i in range(4)]
READ = {  # the images of a Dataset → pixels of the first and the last
    "uint8": (RGB, RGB[[0, 3]]),
    "[0, 1]": (RGB / 255, RGB[[0, 3]]),
    "gray": ([GRAY, GRAY // 2], torch.stack([GRAY, GRAY // 2]).expand(2, 3, 8, 8)),
    "PIL": (PIL, torch.stack([torch.full((3, 8, 8), 9 * i, dtype=torch.uint8) for i in (0, 3)])),
}


@pytest.mark.parametrize("images", READ)
def test_images_of_a_dataset(images: str) -> None:
    given, expected = READ[images]
    data = DatasetData(Items(given), transform=SMALL)
    assert torch.equal(data.images([0, len(given) - 1]), expected)
    assert data.labels.tolist() == [i % 2 for i in range(len(given))]


@pytest.mark.parametrize(
    ("more", "classes", "synsets"),
    [
        ({"classes": ["cat", "dog"]}, ("cat", "dog"), None),
        ({"classes": ["cat", "dog"], "targets": torch.tensor([0, 1, 0, 1])}, ("cat", "dog"), None),
        ({"targets": [1] * 4, "target_transform": int}, ("0", "1"), None),  # before the transform
        (
            {"classes": [("cat", "puss"), ("dog",)], "wnids": ["n02121620", "n02084071"]},
            ("cat", "dog"),
            ("n02121620", "n02084071"),
        ),
    ],
)
def test_classes_of_a_dataset(more: Any, classes: Any, synsets: Any) -> None:
    data = DatasetData(Items(**more))
    assert (data.classes, data.synsets, data.labels.tolist()) == (classes, synsets, [0, 1, 0, 1])


def test_a_label_without_a_name_is_an_output_of_the_model() -> None:
    data = DatasetData(Items(labels=[0, 3, 1, 0]))
    named = data.aligned(("ox", "ox", "emu", "cat", "dog"), None)  # as ImageNet has two cranes
    assert (named.classes[3], named.labels.tolist()) == ("cat", [0, 3, 1, 0])
    few = data.subset(2, seed=0).aligned(None, None).fitted("model", (7,))
    assert (len(few.classes), few.labels.max() < 7) == (7, True)
    for call in (lambda: data.fitted("model", (3,)), lambda: data.aligned(("a", "b", "c"), None)):
        with pytest.raises(DataError, match=r"3 classes|returns"):
            call()
    assert few.aligned(few.classes, None).numbered is False  # its classes have been settled


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (3, "without a length"),
        (Items([]), "no images"),
        (Items([RGB[0] / 100 * -1 - 1]), "undo the normalization"),
        (Items([RGB[0].numpy()]), "from_numpy"),
        (Items([RGB[0].permute(1, 2, 0)]), "permute"),
        (Items([lambda: torch.rand(3, 8, 8)] * 2), "another image each time"),
        (Items([ValueError("torn")]), "torn"),
        (Items([RGB[0].to("meta")]), "no values"),
        (Items([RGB[0].float().to("meta")]), "no values"),
        (Items([RGB[0].to_sparse()]), "to_dense"),
        (Items([torch.nested.nested_tensor([RGB[0]], layout=torch.jagged)]), "unbind"),
        (Items([(RGB[0] / 255).to(torch.float8_e4m3fn)]), "float"),
        (Items([torch.rand(3, 0, 8)]), "at least one image"),
        (Items(labels=[0, 1, -1, 0]), "image 2 .* label -1"),
        (Items(labels=[0, 10**12, 1, 10**30]), "image 1 .* label 1000"),
        (Items(labels=[0, torch.tensor(1, device="meta"), 0, 0]), "image 1 .*Tensor"),
        (Items(targets=torch.zeros(4, device="meta", dtype=int), labels=[0, 1, 0, -1]), "image 3"),
        (Items(labels=[0, 0.5, 0, 0]), "image 1 .*float"),
        (Items(labels=[0, torch.eye(2)[0], 0, 0]), "image 1 .*Tensor"),
        (Items(targets=[0, 0, 0, 0]), "agree"),
        (Items(classes=["cat"]), "0 to 0 for 1 classes"),
    ],
)
def test_what_is_no_image_set(dataset: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        DatasetData(dataset)


def test_an_item_that_differs_later() -> None:
    torn = [*RGB, ValueError("torn"), RGB[0, :, :4]]
    data = DatasetData(Items(torn, targets=[0, 1, 0, 1, 0, 0]))
    with pytest.raises(DataError, match=r"image 5 .* said to have 0"):
        data.images([5])
    data = DatasetData(Items(torn, targets=[0, 1, 0, 1, 0, 1]))
    assert list(data.damaged(range(5))) == [4]
    for look in (data.damaged, lambda: data.images([5])):  # before a run, and in it
        with pytest.raises(DataError, match="the same size"):
            look()


def test_another_image_gives_another_fingerprint() -> None:
    prints = {
        DatasetData(dataset).fingerprint()
        for dataset in (Items(), Items(), Items(RGB + 1), Items(labels=[1] * 4))
    }
    assert len(prints) == 3


def test_a_function_gives_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("lab_of_tests")
    array = ArrayData(RGB, name="a", classes=("x",), synsets=None, labels=torch.zeros(4).long())
    vars(module).update(items=Items, array=lambda: array)
    monkeypatch.setitem(sys.modules, "lab_of_tests", module)
    assert torch.equal(load_data("lab_of_tests:items").images(range(4)), RGB)
    assert load_data("lab_of_tests:array") is array
    for spec in ("lab_of_tests:none", "fold:none"):
        with pytest.raises(DataError, match=r"none.*must name a function|perhaps you meant folder"):
            load_data(spec)


def idx(values: torch.Tensor) -> bytes:
    """A file of MNIST: its magic number, its sides, its bytes."""
    return struct.pack(f">{1 + values.ndim}I", 0x800 + values.ndim, *values.shape) + bytes(
        values.flatten().tolist()
    )


def as_mnist(folder: Path) -> None:
    for part, shift in (("t10k", 0), ("train", 1)):
        raw = folder / "MNIST" / "raw" / part
        write(raw.with_name(f"{part}-images-idx3-ubyte"), idx(RGB[:, 0] + shift))
        write(raw.with_name(f"{part}-labels-idx1-ubyte"), idx(torch.tensor([3, 1, 4, 1]) + shift))


def as_food101(folder: Path) -> None:
    food = folder / "food-101"
    for part, names in (("test", "1 2"), ("train", "3")):
        listed = {kind: [f"{kind}/{name}" for name in names.split()] for kind in ("pie", "egg")}
        write(food / "meta" / f"{part}.json", json.dumps(listed).encode())
        for name in (*listed["pie"], *listed["egg"]):
            write(food / "images" / f"{name}.jpg", jpeg(sum(name.encode()), 12, 10))


TORCHVISION = {  # how it lies, its test labels, its training labels, some of its classes
    "MNIST": (as_mnist, [3, 1, 4, 1], [4, 2, 5, 2], ("0 - zero", "1 - one")),
    "Food101": (as_food101, [1, 1, 0, 0], [1, 0], ("egg", "pie")),
}


@pytest.mark.parametrize("name", TORCHVISION)
def test_datasets_of_torchvision(tmp_path: Path, name: str) -> None:
    make, tested, trained, classes = TORCHVISION[name]
    make(tmp_path)
    data = load_data(f"torchvision:{name}@{tmp_path}", transform=SMALL)
    assert (data.labels.tolist(), data.classes[:2]) == (tested, classes)
    training = load_data(f"torchvision:{name}@{tmp_path}", split="train", transform=SMALL)
    assert training.labels.tolist() == trained
    beside = data.training.labels.tolist() if data.training else None
    assert beside == (trained if name == "MNIST" else None)
    expected = RGB[1] if name == "MNIST" else None
    if name == "Food101":
        expected = read_image(tmp_path / "food-101" / "images" / "pie" / "2.jpg", SMALL)
    assert torch.equal(data.images([1])[0], expected)


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("Food1001@{}", SettingsError, "perhaps you meant Food101"),
        ("Food101", SettingsError, "@DIR"),
        ("Food101@{}/none", DataError, "cannot open torchvision's Food101 in .*download=True"),
        ("EMNIST@{}", DataError, "split"),
        ("DTD@{}/none", DataError, "cannot open .*not found"),
    ],
)
def test_what_torchvision_cannot_open(tmp_path: Path, spec: str, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        load_data(f"torchvision:{spec.format(tmp_path)}")


def shard(path: Path, files: dict[str, bytes | str]) -> None:
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            member, data = tarfile.TarInfo(name), content if isinstance(content, bytes) else b""
            data = data or str(content).encode()
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


PHOTO = jpeg(5, 12, 10)
SHARDS = {
    "b-1.tar": {"x.1.txt": "", "7.jpg": jpeg(3), "7.cls": "2", ".x": "", "7.seg.png": "none"},
    "b-0.tar": {
        "a/7.cls": "0\n",
        "a/7.JPEG": PHOTO,
        "a/7.json": "{}",
        "8.cls": "1",
        "8.png": PHOTO,
    },
}


@pytest.mark.parametrize("names", [None, ("ox", "emu", "cat")])
def test_webdataset_shards(tmp_path: Path, names: Sequence[str] | None) -> None:
    for name, files in SHARDS.items():
        given = {
            part: names[int(content)] if names and part.endswith("cls") else content
            for part, content in files.items()
            if part != "x.1.txt"
        }
        shard(tmp_path / "shards" / name, given)
    for place in ("shards", "shards/b-*.tar"):
        data = load_data(f"webdataset:{tmp_path}/{place}", transform=SMALL)
        assert [data.source(i) for i in range(3)] == [
            *("b-0.tar/a/7.JPEG", "b-0.tar/8.png", "b-1.tar/7.jpg")
        ]
        assert (data.numbered, [data.classes[i] for i in data.labels]) == (
            *(not names, list(names or "012")),
        )
        for i, content in enumerate((PHOTO, PHOTO, jpeg(3))):
            image = read_image(write(tmp_path / "x.jpg", content), SMALL)
            assert torch.equal(data.images([i])[0], image)
    (only,) = [load_data(f"webdataset:{tmp_path}/shards/b-1.tar", transform=SMALL)]
    assert len(only) == 1
    fingerprints = {data.fingerprint(), only.fingerprint()}
    shard(tmp_path / "shards" / "b-1.tar", {"7.jpg": jpeg(4), "7.cls": "2"})
    fingerprints.add(load_data(f"webdataset:{tmp_path}/shards/b-1.tar").fingerprint())
    assert len(fingerprints) == 3


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (SHARDS["b-1.tar"], "sample x "),
        ({"1.jpg": PHOTO}, "sample 1 .* jpg; it needs"),
        ({"1.jpg": PHOTO, "1.png": PHOTO, "1.cls": "1"}, "sample 1 .* jpg, png, cls"),
        ({".hidden": "", "readme": ""}, "no samples"),
        ({"1.jpg": PHOTO, "1.cls": b"\xff"}, "1.cls holds no class"),
        ({"1.jpg": PHOTO, "1.cls": " "}, "1.cls holds no class"),
        ({"1.jpg": PHOTO, "1.cls": "1" * 2**21}, "1.cls holds no class"),
        *(
            ({"1.jpg": PHOTO, "1.json": wrong}, "1.json holds no class")
            for wrong in ("[1]", "{}", '{"label": true}', '{"label": [1]}', "{", "1")
        ),
    ],
)
def test_shards_that_are_wrong(tmp_path: Path, files: Any, message: str) -> None:
    shard(tmp_path / "1.tar", files)
    with pytest.raises(DataError, match=message):
        load_data(f"webdataset:{tmp_path}")
    write(tmp_path / "1.tar", b"x" * 600)
    with pytest.raises(DataError, match=r"1\.tar"):
        load_data(f"webdataset:{tmp_path}")
    write(tmp_path / "1.tar", gzip.compress(b"x"))
    with pytest.raises(DataError, match=r"1\.tar is compressed"):
        load_data(f"webdataset:{tmp_path}/1.*")
    with pytest.raises(DataError, match="no shards"):
        load_data(f"webdataset:{tmp_path}/2.tar")


def test_labels_in_json_and_images_of_two_suffixes(tmp_path: Path) -> None:
    files = {"1.json": '{"label": 2}', "1.input.png": PHOTO, "2.json": '{"label": "0", "a": 1}'}
    shard(tmp_path / "a" / "1.tar", {**files, "2.jpg": jpeg(3), "2.mask.png": PHOTO})
    data = load_data(f"webdataset:{tmp_path}/a", transform=SMALL)
    assert (data.numbered, data.labels.tolist()) == (True, [2, 0])
    image = read_image(write(tmp_path / "x.jpg", jpeg(3)), SMALL)
    assert torch.equal(data.images([1])[0], image)
    shard(tmp_path / "b" / "1.tar", {"1.cls": "0", "1.png": PHOTO})
    with pytest.raises(DataError, match="several folders"):
        load_data(f"webdataset:{tmp_path}/*/1.tar")


def hugging(folder: Path, **more: Any) -> str:
    """A dataset of four images to test on and two to train on."""
    pytest.importorskip("datasets.arrow_dataset")  # `datasets` alone would be the tests' own folder
    library = importlib.import_module("datasets")
    kinds = {"picture": library.Image(), "label": library.ClassLabel(names=["cat", "dog"])}
    parts = {}
    for part, images in (("validation", RGB), ("train", RGB[:2])):
        pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
        rows = {"picture": pictures, "label": [1, 0, 0, 1][: len(images)]}
        rows |= {name: value * len(images) for name, value in more.items()}
        features = library.Features(kinds | {name: library.Value("int64") for name in more})
        parts[part] = library.Dataset.from_dict(rows, features=features)
    library.DatasetDict(parts).save_to_disk(str(folder / "saved"))
    parts["validation"].save_to_disk(str(folder / "one"))
    (folder / "parquet").mkdir()
    parts["validation"].to_parquet(str(folder / "parquet" / "test-0.parquet"))
    return f"hf:{folder}"


@pytest.mark.filterwarnings("ignore")  # theirs
def test_datasets_of_hugging_face(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    spec = hugging(tmp_path, other=[1])
    for place in ("saved", "one", "parquet"):
        data = load_data(f"{spec}/{place}", transform=SMALL)
        assert (data.classes, data.labels.tolist()) == (("cat", "dog"), [1, 0, 0, 1])
        assert torch.equal(data.images(range(4)), RGB)
    training = load_data(f"{spec}/saved", split="train", transform=SMALL)
    assert training.labels.tolist() == [1, 0]
    beside = [load_data(f"{spec}/{place}").training for place in ("saved", "one")]
    assert [each and each.labels.tolist() for each in beside] == [[1, 0], None]
    two = hugging(tmp_path / "two", fine=[3], coarse=[1])
    for column, labels in (("@fine", [3] * 4), ("@label", [1, 0, 0, 1]), ("", [1, 0, 0, 1])):
        chosen = load_data(f"{two}/saved{column}", transform=SMALL)
        assert chosen.labels.tolist() == labels
        assert chosen.training is not None
        assert chosen.training.labels.tolist() == labels[:2]
    for column in ("@none", "@picture"):
        with pytest.raises(DataError, match="columns picture, label, fine, coarse; give a column"):
            load_data(f"{two}/saved{column}")
    for wrong in (f"{spec}/parquet", f"{spec}/none", "hf:nobody/nothing"):
        with pytest.raises(DataError, match=r"none of train|cannot open"):
            load_data(wrong, split="train")


ROWS = [("a/1.jpg", "cat", "dog"), ("2.jpg", "dog", "ox"), ("a/1.jpg", "ox", "cat")]
NUMBERS = [("a/1.jpg", "2", "0"), ("2.jpg", "0", "4"), ("a/1.jpg", "10", "2")]
WNIDS = [("2.jpg", "n02121620", "n02084071")]
LABELED = {"names": (ROWS, [0, 1, 2], [1, 2, 0]), "numbers": (NUMBERS, [2, 0, 10], [0, 4, 2])}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name in ("a/1.jpg", "2.jpg"):
        write(tmp_path / name, jpeg(len(name), 12, 10))
    return tmp_path


def as_csv(path: Path, rows: Sequence[Sequence[Any]]) -> str:
    header = ("path", "label", "target")[: len(rows[0])]
    lines = (",".join(map(str, (*row, "more"))) for row in (header, *rows))
    write(path, "\n".join(lines).encode("utf-8-sig"))
    return f"csv:{path}"


def as_parquet(path: Path, rows: Sequence[Sequence[Any]]) -> str:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    columns = zip(*([int(x) if x.isdigit() else x for x in row] for row in rows), strict=True)
    parquet.write_table(pyarrow.table(dict(zip(DATA_COLUMNS, columns, strict=False))), path)
    return f"parquet:{path}"


DATA_COLUMNS = ("path", "label", "target")


@pytest.mark.parametrize("form", [as_csv, as_parquet])
@pytest.mark.parametrize("kind", LABELED)
def test_a_table_lists_images(photos: Path, kind: str, form: Callable[..., str]) -> None:
    rows, labels, targets = LABELED[kind]
    data = load_data(form(photos / "table", rows), transform=SMALL)
    assert (data.labels.tolist(), data.numbered) == (labels, kind == "numbers")
    assert data.targets is not None
    assert data.targets.tolist() == targets
    expected = [read_image(photos / row[0], SMALL) for row in rows]
    assert torch.equal(data.images(range(3)), torch.stack(expected))
    without = load_data(form(photos / "less", [row[:2] for row in rows[:2]]), transform=SMALL)
    assert (without.targets, without.labels.tolist()) == (None, labels[:2])
    classes = [f"c{i}" for i in range(11)] if data.numbered else ["dog", "ox", "x", "cat"]
    part = data.aligned(classes, None).part([2, 1])
    assert part.targets is not None
    names = [(classes[a], classes[b]) for a, b in zip(part.labels, part.targets, strict=True)]
    said = [row[1:] for row in (rows[2], rows[1])]
    assert names == ([(f"c{a}", f"c{b}") for a, b in said] if data.numbered else said)
    (batch,) = part.batches(2)
    assert torch.equal(batch.targets, part.targets)


def test_wnids_in_a_table_are_known(photos: Path) -> None:
    assert load_data(as_csv(photos / "t", WNIDS)).synsets == ("n02084071", "n02121620")


def test_other_targets_give_another_fingerprint(photos: Path) -> None:
    swapped = [(ROWS[0][0], "cat", "ox"), *ROWS[1:]]
    tables = [as_csv(photos / str(i), rows) for i, rows in enumerate((ROWS, ROWS, swapped))]
    sets = [load_data(table, transform=SMALL) for table in tables]
    sets += [data.part([0, 1]) for data in sets]
    assert [a.fingerprint() == b.fingerprint() for a, b in itertools.pairwise(sets)] == [
        *(True, False, False, True, False)
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has the columns none"),
        ("label,path\n", "lists no image"),
        ("path,class\n2.jpg,cat\n", "columns path, class"),
        ("path,label\n2.jpg\n", "line 2 .* no label"),
        ("path,label\n2.jpg,cat\n2.jpg, \n", "line 3 .* no label"),
        ("path,label,target\n2.jpg,cat,\n", "line 2 .* no target"),
        ("path,label,target\n2.jpg,cat,cat\n", "line 2 .* is the image's label"),
        ("path,label\n3.jpg,cat\n", "line 2 .*/3.jpg, which is no file"),
        ("path,label\na,cat\n", "/a, which is no file"),
        ("path,label\n2.jpg,100000\n", "class 100000"),
        *((f"path,label\n2.jpg,0\n2.jpg,{n}\n", f"label {n},") for n in ("-1", "1.0", "1e1", ".5")),
        ("path,label,label\n2.jpg,cat,dog\n", "column label twice"),
        ("path,label\n2.jpg,cat,dog\n", "line 2 .* more cells"),
        ('path,label\n2.jpg,"cat\n', "cannot read .*csv"),
        (b"path,label\n\xff,cat\n", "is not in UTF-8"),
    ],
)
def test_a_table_that_is_wrong(photos: Path, text: str | bytes, message: str) -> None:
    content = text.encode() if isinstance(text, str) else text
    write(photos / "t.csv", content)
    with pytest.raises(DataError, match=message.replace(".*csv", ".*t.csv")):
        load_data(f"csv:{photos / 't.csv'}")


@pytest.mark.parametrize(
    ("kind", "module", "extra"),
    [("parquet", "pyarrow", "parquet"), ("hf", "datasets.load", "huggingface")],
)
def test_a_library_that_is_missing(
    photos: Path, monkeypatch: pytest.MonkeyPatch, kind: str, module: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(SettingsError, match=rf"pip install 'advlens\[{extra}\]'"):
        load_data(f"{kind}:{photos / '2.jpg'}")


def test_every_kind_has_a_loader_and_a_row_in_the_documentation() -> None:
    assert DATA.keys() == FILES.keys()
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
    for kind, place in DATA.items():
        assert f"| `{kind}:{place}` |" in page


def test_a_table_in_place_of_a_folder_is_answered_with_its_kind(photos: Path) -> None:
    table = photos / "t.csv"
    for kind, answer in (("folder", f"or csv:{table}"), ("mnist", "is not known")):
        as_csv(table, ROWS)
        with pytest.raises(SettingsError, match=answer):
            check_data(f"{kind}:{table}")
    check_data(f"csv:{table}")


@pytest.mark.parametrize("spec", ["sample", "images:photos", "csv:t.csv", "lab_of_tests:items"])
def test_nothing_is_trained_on_test_images(spec: str) -> None:
    with pytest.raises(SettingsError, match=r"test images only|--test"):
        load_data(spec, split="train")


@pytest.mark.parametrize("form", [as_csv, as_parquet])
def test_data_of_one_part_are_trained_on_beside_others_to_test_on(
    photos: Path, form: Callable[..., str]
) -> None:
    classifier = Classifier(torch.nn.Flatten(), name="any", image_size=8, resize=10)
    spec = form(photos / "train", [("a/1.jpg", "ox"), ("2.jpg", "dog"), ("2.jpg", "emu")])
    other = form(photos / "test", [("a/1.jpg", "ox")])
    for same in (None, spec):
        with pytest.raises(SettingsError, match="--test"):
            load_images(spec, classifier, test=same)
    train, test = load_images(spec, classifier, test=other)
    assert (train.image_shape, test.image_shape) == ((3, 10, 10), (3, 8, 8))
    assert (train.labels.tolist(), test.labels.tolist()) == ([2, 0, 1], [2])  # of three classes
