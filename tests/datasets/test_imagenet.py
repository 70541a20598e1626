"""ImageNet and ImageNetV2: labels equal to an independent reading, and whole sets or none."""

import io
import shutil
import tarfile
from pathlib import Path

import pytest
import torch
from scipy.io import loadmat
from torchvision.datasets import imagenet as torchvision_imagenet

import tiny_imagenet as tiny
from advlens.datasets import FileData, Transform, imagenet, load_data, read_image
from advlens.datasets import devkit as devkit_module
from advlens.errors import AdvlensError, DataError, SettingsError
from tiny_imagenet import KIT, META, TRUTH, WNIDS, Edit, archive, content, devkit, linked, truth

SMALL = Transform(size=8, resize=8)
COUNT = 12
IMAGES = tiny.validation_images(COUNT)
LINES = truth(COUNT).split()
TAR, KIT_TAR, KAGGLE = "ILSVRC2012_img_val.tar", f"{KIT}.tar.gz", "LOC_val_solution.csv"
COLUMNS = "ImageId,PredictionString"
LINK = tarfile.SYMTYPE
FLAT = [("val", "archive"), (".", KIT), ("val", "."), ("ILSVRC/Data/CLS-LOC/val", "kaggle")]


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imagenet, "VALIDATION_IMAGES", COUNT)
    monkeypatch.setattr(imagenet, "V2_IMAGES", 1000)


@pytest.fixture
def tarred(tmp_path: Path) -> Path:
    root = tmp_path / "imagenet"
    devkit(root, {"readme.txt": b"ILSVRC2012\n", META: tiny.meta(), TRUTH: truth(COUNT)})
    archive(root / TAR, dict(reversed(IMAGES.items())))  # their order is not to count
    return root


def load(root: Path, kind: str = "imagenet", **options: object) -> FileData:
    return load_data(f"{kind}:{root}", transform=SMALL, **options)


def flat(folder: Path) -> None:
    for name, image in IMAGES.items():
        tiny.write(folder / name, image)


def add_empty(path: Path, mode: str, names: list[str], kind: bytes = tarfile.REGTYPE) -> None:
    """Members of some kind, which link to a file elsewhere if they are links."""
    with tarfile.open(path, mode) as tar:
        for name in names:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info, io.BytesIO())


def test_class_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.class_folders(tmp_path / "val", list(WNIDS))
    with pytest.raises(DataError, match="holds 1000 images, not the 12"):
        load(tmp_path)
    monkeypatch.setattr(imagenet, "VALIDATION_IMAGES", 1000)
    data = load(tmp_path)
    assert [name.split("/")[0] for name in data.files] == list(WNIDS)
    assert data.labels.tolist() == list(range(1000))
    assert (data.synsets, data.name) == (WNIDS, "ImageNet val")
    assert (data.classes[281], len(set(data.classes))) == ("tabby", 1000)
    assert data.classes[134] == "crane (n02012849)"  # two classes are cranes
    assert data.training is None
    shutil.copytree(tmp_path / "val", tmp_path / "train")
    kaggle = tmp_path / "competition" / "ILSVRC" / "Data" / "CLS-LOC"
    for folder, moved in ((tmp_path, kaggle), (tmp_path / "competition", tmp_path)):
        training = load(folder).training
        assert (training.name, len(training), training.synsets) == ("ImageNet train", 1000, WNIDS)
        moved.mkdir(parents=True, exist_ok=True)
        for split in ("val", "train"):
            (training.root.parent / split).rename(moved / split)
    shutil.rmtree(tmp_path / "val")
    assert load(tmp_path, split="train").name == "ImageNet train"
    shutil.rmtree(tmp_path / "train" / WNIDS[7])
    with pytest.raises(DataError, match=f"lacks 1 of the 1000 class folders.*{WNIDS[7]}"):
        load(tmp_path, split="train")
    tiny.class_folders(tmp_path / "train", [WNIDS[7], "n99999999"])
    with pytest.raises(DataError, match="n99999999 is not a class of ImageNet"):
        load(tmp_path, split="train")


def naive(root: Path) -> list[str]:
    """The wnid of each image as SciPy and a few lines say."""
    with tarfile.open(root / KIT_TAR) as tar:
        content, lines = (tar.extractfile(f"{KIT}/{name}").read() for name in (META, TRUTH))
    rows = loadmat(io.BytesIO(content), squeeze_me=True)["synsets"]
    wnids = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in rows}
    return [wnids[int(line)] for line in lines.split()]


def test_archive_whose_names_lead_nowhere(tarred):
    data = load(tarred)
    assert data.files == sorted(IMAGES)
    assert [data.synsets[label] for label in data.labels] == naive(tarred)
    contents = [read_image(Path("x"), SMALL, io.BytesIO(content)) for content in IMAGES.values()]
    assert torch.equal(data.images(range(COUNT)), torch.stack(contents))
    assert {path.name for path in tarred.iterdir()} == {KIT_TAR, TAR}
    with pytest.raises(DataError, match="holds no train/<wnid>/"):
        load(tarred, split="train")
    path = archive(tarred / TAR, {"../escaped": b"x", "/tmp/escaped": b"x", **IMAGES})
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE):
        add_empty(path, "a", [f"link{kind}.JPEG"], kind)
    assert len(load(tarred).images(range(COUNT))) == COUNT
    assert not (tarred.parent / "escaped").exists()


# an older torchvision extracts without the filter that Python 3.13 asks for
@pytest.mark.filterwarnings("ignore:Python 3.14 will, by default, filter:DeprecationWarning")
def test_archive_equals_torchvision(tarred: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = load(tarred)
    found = {name: ours.synsets[label] for name, label in zip(ours.files, ours.labels, strict=True)}
    monkeypatch.setattr(torchvision_imagenet, "_verify_archive", lambda *_: None)
    theirs = torchvision_imagenet.ImageNet(str(tarred), split="val")
    assert found == {Path(path).name: theirs.wnids[label] for path, label in theirs.samples}


@pytest.mark.parametrize(("place", "labels"), FLAT)
def test_flat_folder(tarred: Path, place: str, labels: str) -> None:
    expected = load(tarred)
    pixels = expected.images(range(COUNT))
    (tarred / TAR).unlink()
    flat(tarred / place)
    wnids = naive(tarred)
    if labels != "archive":
        (tarred / KIT_TAR).unlink()
    if labels == "kaggle":
        lines = [f"ILSVRC2012_val_{i:08},{w} 1 2 3 4 {w} 5 6 7 8 " for i, w in enumerate(wnids, 1)]
        tiny.write(tarred / KAGGLE, "\r\n".join([COLUMNS, *reversed(lines)]).encode())
    elif labels != "archive":
        tiny.write(tarred / labels / META, tiny.meta())
        tiny.write(tarred / labels / TRUTH, truth(COUNT))
    data = load(tarred)
    assert data.files == expected.files
    assert torch.equal(data.labels, expected.labels)
    assert torch.equal(data.images(range(COUNT)), pixels)


def test_changed_images_in_an_archive(tarred: Path) -> None:
    first = load(tarred).fingerprint()
    assert load(tarred).fingerprint() == first
    name = sorted(IMAGES)[4]
    archive(tarred / TAR, {**IMAGES, name: IMAGES[name][:-3] + b"\0\0\0"})
    assert load(tarred).fingerprint() != first
    archive(tarred / TAR, {**IMAGES, name: IMAGES[name][:150]})
    data = load(tarred)
    with pytest.raises(DataError, match=f"{TAR}/{name}"):
        data.images([4])
    assert list(data.damaged()) == [4]


def cut(name: str, end: int) -> Edit:
    return lambda root: tiny.write(root / name, (root / name).read_bytes()[:end])


def images(changed: dict[str, bytes]) -> Edit:
    return lambda root: archive(root / TAR, changed)


def labels(*lines: bytes) -> Edit:
    return lambda root: devkit(root, {META: tiny.meta(), TRUTH: b"\n".join(lines)})


def kaggle(*lines: str) -> Edit:
    return content(KAGGLE, "\n".join(lines))


def kit_of(names: list[str], kind: bytes = tarfile.REGTYPE) -> Edit:
    return lambda root: add_empty(root / KIT_TAR, "w:gz", names, kind)


ROW = "ILSVRC2012_val_00000001,n01440764 1 2 3 4"
UNREADABLE = f"cannot read the labels in .*{KAGGLE}"
REST = {name: content for name, content in IMAGES.items() if not name.endswith("03.JPEG")}
IMAGE_13 = {"ILSVRC2012_val_00000013.JPEG": tiny.jpeg(0)}
LAST, LEADS = "ILSVRC2012_val_00000012.JPEG", "is a link that leads out of"
REFUSED: dict[str, tuple[Edit, str]] = {
    "no labels": (tiny.gone(KIT_TAR), f"need labels; put {KIT_TAR} or {KAGGLE}"),
    "nothing": (tiny.gone(TAR), "holds no validation images of ImageNet; it needs"),
    "image missing": (images(REST), "holds 11 images ILSVRC2012_val_<number>.JPEG, but there are"),
    "image 13": (images(REST | IMAGE_13), "holds 12 images .* labels for 12, from number 1 on"),
    "image twice": (lambda r: add_empty(r / TAR, "a", [LAST]), f"see its member 13, '{LAST}'"),
    "image linked out": (linked(f"val/{next(iter(IMAGE_13))}", "/etc/hostname"), LEADS),
    "folder linked out": (linked("val", "../val"), LEADS),
    "label missing": (labels(*LINES[1:]), "holds 12 images .*, but there are labels for 11"),
    "label 0": (labels(b"0", *LINES[1:]), "cannot read the labels of ImageNet's devkit in .*: 0;"),
    "label x": (labels(b"x", *LINES[1:]), "labels of ImageNet's devkit in .*invalid literal"),
    "internal node": (labels(b"1002", *LINES[1:]), "the class 'n00001741', which ImageNet lacks"),
    "truncated tar": (cut(TAR, 512 + 300), TAR),
    "truncated devkit": (cut(KIT_TAR, -5000), "cannot read the archive .*devkit"),
    "devkit without meta": (lambda r: devkit(r, {TRUTH: truth(12)}), f"does not hold {META} and"),
    "devkit twice": (kit_of([f"{KIT}/{META}"] * 2), f"holds {META} twice or not as a file"),
    "devkit of links": (kit_of([f"{KIT}/{META}"], LINK), f"holds {META} twice or not as a file"),
    "devkit bomb": (lambda r: devkit(r, {"zeros": bytes(4_000_000)}), "more than 3000000 bytes"),
    "devkit is none": (content(KIT_TAR, "<html>"), "cannot read the archive"),
    "kaggle twice": (kaggle(COLUMNS, ROW, ROW), "'ILSVRC2012_val_00000001' is unknown or"),
    "kaggle header": (kaggle(ROW), UNREADABLE),
    "kaggle gap": (kaggle(COLUMNS, ROW.replace("1,", "2,")), "has 1 labels, but not of images 1"),
    "kaggle empty": (kaggle(COLUMNS, "ILSVRC2012_val_00000001,"), UNREADABLE),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(tarred: Path, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devkit_module, "MAX_UNPACKED", 3_000_000)
    if "linked" in case:
        flat((tarred if "image" in case else tarred.parent) / "val")
    edit, message = REFUSED[case]
    edit(tarred)
    before = sorted(tarred.rglob("*"))
    with pytest.raises(DataError, match=message) as error:
        load(tarred)
    assert str(tarred) in str(error.value)
    assert "\n" not in str(error.value)
    assert sorted(tarred.rglob("*")) == before  # nothing is unpacked


def test_v2_counts_classes_by_number(tmp_path: Path) -> None:
    top, numbers = tmp_path / "imagenetv2-top-images-format-val", [str(i) for i in range(1000)]
    tiny.class_folders(top, numbers, "jpeg")
    for root in (top, tmp_path):
        data = load(root, "imagenet-v2")
        assert data.labels.tolist() == list(range(1000))
        assert [name.split("/")[0] for name in data.files] == numbers
        assert (data.synsets, data.name) == (WNIDS, f"ImageNetV2 {top.name}")
    with pytest.raises(SettingsError, match="test images only"):
        load(top, "imagenet-v2", split="train")
    tiny.write(top / "3" / "more.jpeg", tiny.jpeg(3))
    with pytest.raises(DataError, match="holds 1001 images, not the 1000"):
        load(top, "imagenet-v2")
    shutil.rmtree(top / "3")
    with pytest.raises(DataError, match=r"lacks 1 of the 1000 class folders of .*first 3"):
        load(top, "imagenet-v2")
    (top / "003").mkdir()
    with pytest.raises(AdvlensError, match="first 3"):
        load(top, "imagenet-v2")
