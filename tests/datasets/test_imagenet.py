"""ImageNet and ImageNetV2: labels equal to an independent reading, and whole sets or none."""

import io
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import imagenet as torchvision_imagenet

from advlens.datasets import Transform, imagenet, load_data, read_image
from advlens.errors import AdvlensError, DataError, SettingsError
from tiny_imagenet import (
    WNIDS,
    archive,
    class_folders,
    devkit,
    jpeg,
    meta,
    truth,
    validation_images,
    write,
)

SMALL = Transform(size=8, resize=8)
COUNT = 12


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imagenet, "VALIDATION_IMAGES", COUNT)
    monkeypatch.setattr(imagenet, "V2_IMAGES", 1000)


@pytest.fixture
def tarred(tmp_path: Path) -> Path:
    """The two archives as they are downloaded."""
    devkit(tmp_path, COUNT)
    images = dict(reversed(validation_images(COUNT).items()))  # the archive's order is not to count
    archive(tmp_path / "ILSVRC2012_img_val.tar", images)
    return tmp_path


def load(root: Path, kind: str = "imagenet", **options: object):
    return load_data(f"{kind}:{root}", transform=SMALL, **options)


# class folders


def test_class_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imagenet, "VALIDATION_IMAGES", 1000)
    class_folders(tmp_path / "val", list(WNIDS))
    data = load(tmp_path)
    assert data.labels.tolist() == [WNIDS.index(name.split("/")[0]) for name in data.files]
    assert data.labels.tolist() == list(range(1000))
    assert (data.synsets, data.name) == (WNIDS, "ImageNet val")
    assert data.classes[281] == "tabby"
    assert len(set(data.classes)) == 1000
    assert data.classes[134] == "crane (n02012849)"  # two classes are cranes
    (tmp_path / "val").rename(tmp_path / "train")
    assert load(tmp_path, split="train").name == "ImageNet train"
    shutil.rmtree(tmp_path / "train" / WNIDS[7])
    with pytest.raises(DataError, match=f"lacks 1 of the 1000 class folders.*{WNIDS[7]}"):
        load(tmp_path, split="train")
    class_folders(tmp_path / "train", [WNIDS[7], "n99999999"])
    with pytest.raises(DataError, match="n99999999 is not a class of ImageNet"):
        load(tmp_path, split="train")


def test_incomplete_validation_folders(tmp_path: Path) -> None:
    class_folders(tmp_path / "val", list(WNIDS))
    with pytest.raises(DataError, match="holds 1000 images, not the 12"):
        load(tmp_path)


def test_training_images_are_not_made_up(tarred: Path) -> None:
    with pytest.raises(DataError, match="holds no train/<wnid>/"):
        load(tarred, split="train")


# images under their own names


def naive(root: Path) -> list[str]:
    """The wnid of each image as SciPy and a few lines say."""
    from scipy.io import loadmat

    with tarfile.open(root / "ILSVRC2012_devkit_t12.tar.gz") as tar:
        folder = "ILSVRC2012_devkit_t12/data"
        rows = loadmat(io.BytesIO(tar.extractfile(f"{folder}/meta.mat").read()), squeeze_me=True)
        lines = tar.extractfile(f"{folder}/ILSVRC2012_validation_ground_truth.txt").read().split()
    wnids = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in rows["synsets"]}
    return [wnids[int(line)] for line in lines]


def test_archive(tarred: Path) -> None:
    data = load(tarred)
    assert data.files == sorted(validation_images(COUNT))
    assert [data.synsets[label] for label in data.labels] == naive(tarred)
    for i, content in enumerate(validation_images(COUNT).values()):
        expected = read_image(Path("x"), SMALL, io.BytesIO(content))
        assert torch.equal(data.images([i])[0], expected)
    assert {path.name for path in tarred.iterdir()} == {
        "ILSVRC2012_devkit_t12.tar.gz",
        "ILSVRC2012_img_val.tar",
    }


# an older torchvision extracts without the filter that Python 3.13 asks for
@pytest.mark.filterwarnings("ignore:Python 3.14 will, by default, filter:DeprecationWarning")
def test_archive_equals_torchvision(tarred: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = load(tarred)
    found = {name: ours.synsets[label] for name, label in zip(ours.files, ours.labels, strict=True)}
    monkeypatch.setattr(torchvision_imagenet, "_verify_archive", lambda *_: None)
    theirs = torchvision_imagenet.ImageNet(str(tarred), split="val")
    assert found == {Path(path).name: theirs.wnids[label] for path, label in theirs.samples}
    monkeypatch.undo()


@pytest.mark.parametrize("place", ["val", ".", "ILSVRC/Data/CLS-LOC/val"])
@pytest.mark.parametrize("labels", ["archive", "devkit", "data", "kaggle"])
def test_flat_folder(tarred: Path, place: str, labels: str) -> None:
    expected = load(tarred)
    pixels = expected.images(range(COUNT))
    (tarred / "ILSVRC2012_img_val.tar").unlink()
    for name, content in validation_images(COUNT).items():
        write(tarred / place / name, content)
    wnids = naive(tarred)
    if labels != "archive":
        (tarred / "ILSVRC2012_devkit_t12.tar.gz").unlink()
    if labels == "kaggle":
        lines = [f"ILSVRC2012_val_{i:08},{w} 1 2 3 4 {w} 5 6 7 8 " for i, w in enumerate(wnids, 1)]
        text = "\r\n".join(["ImageId,PredictionString", *reversed(lines)])
        write(tarred / "LOC_val_solution.csv", text.encode())
    elif labels != "archive":
        base = tarred / ("ILSVRC2012_devkit_t12" if labels == "devkit" else ".") / "data"
        write(base / "meta.mat", meta())
        write(base / "ILSVRC2012_validation_ground_truth.txt", truth(COUNT))
    data = load(tarred)
    assert data.files == expected.files
    assert torch.equal(data.labels, expected.labels)
    assert torch.equal(data.images(range(COUNT)), pixels)


@pytest.mark.parametrize("kind", ["image", "folder"])
def test_links_that_leave(
    tarred: Path, tmp_path_factory: pytest.TempPathFactory, kind: str
) -> None:
    outside = tmp_path_factory.mktemp("outside")
    inside = tarred / "val" if kind == "image" else outside
    for name, content in validation_images(COUNT).items():
        write(inside / name, content)
    if kind == "image":
        path = tarred / "val" / "ILSVRC2012_val_00000007.JPEG"
        path.rename(outside / path.name)
        path.symlink_to(outside / path.name)
    else:
        (tarred / "val").symlink_to(outside)
    with pytest.raises(DataError, match="is a link that leads out of"):
        load(tarred)


def test_fingerprint_of_an_archive(tarred: Path) -> None:
    first = load(tarred).fingerprint()
    assert load(tarred).fingerprint() == first
    images = validation_images(COUNT)
    name = sorted(images)[3]
    images[name] = images[name][:-3] + b"\0\0\0"
    archive(tarred / "ILSVRC2012_img_val.tar", images)
    assert load(tarred).fingerprint() != first


def test_damaged_image_in_an_archive(tarred: Path) -> None:
    images = validation_images(COUNT)
    images["ILSVRC2012_val_00000005.JPEG"] = images["ILSVRC2012_val_00000005.JPEG"][:150]
    archive(tarred / "ILSVRC2012_img_val.tar", images)
    data = load(tarred)
    with pytest.raises(DataError, match=r"ILSVRC2012_img_val\.tar/ILSVRC2012_val_00000005\.JPEG"):
        data.images([4])
    assert list(data.damaged()) == [4]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("no labels", "need labels; put ILSVRC2012_devkit_t12.tar.gz or LOC_val_solution.csv"),
        ("nothing", "holds no validation images of ImageNet; it needs val with"),
        ("image missing", "holds 11 images ILSVRC2012_val_<number>.JPEG, but there are labels for"),
        ("image 13", "holds 12 images .*, but there are labels for 12, from number 1 on"),
        ("label missing", "holds 12 images .*, but there are labels for 11"),
        ("label 0", "cannot read the labels of ImageNet's devkit in .*: 0;"),
        ("label x", "cannot read the labels of ImageNet's devkit in .*invalid literal"),
        ("internal node", "names the class 'n00001741', which ImageNet lacks"),
        ("truncated tar", "img_val.tar"),
        ("truncated devkit", "cannot read the archive .*devkit"),
        ("devkit without meta", "does not hold data/meta.mat and"),
        ("devkit twice", "holds data/meta.mat twice or not as a file"),
        ("devkit of links", "holds data/meta.mat twice or not as a file"),
        ("devkit bomb", "holds more than .* bytes, so it is not ImageNet's devkit"),
        ("devkit is none", "cannot read the archive"),
        ("image twice", "see its member 13, 'ILSVRC2012_val_00000001.JPEG'"),
        ("kaggle twice", "'ILSVRC2012_val_00000001' is unknown or occurs twice"),
        ("kaggle header", "cannot read the labels in .*LOC_val_solution.csv"),
        ("kaggle gap", "has 1 labels, but not of images 1 to 1"),
        ("kaggle empty", "cannot read the labels in .*LOC_val_solution.csv"),
    ],
)
def test_what_is_refused(
    tarred: Path, change: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, kit = validation_images(COUNT), tarred / "ILSVRC2012_devkit_t12.tar.gz"
    tar = tarred / "ILSVRC2012_img_val.tar"
    folder = "ILSVRC2012_devkit_t12/data"
    files = {
        f"{folder}/meta.mat": meta(),
        f"{folder}/ILSVRC2012_validation_ground_truth.txt": truth(COUNT),
    }
    labels = list(files)[1]
    lines = files[labels].split()
    if change in ("no labels", "nothing"):
        kit.unlink()
        if change == "nothing":
            tar.unlink()
    elif change in ("image missing", "image 13"):
        content = images.pop("ILSVRC2012_val_00000003.JPEG")
        if change == "image 13":
            images["ILSVRC2012_val_00000013.JPEG"] = content
        archive(tar, images)
    elif change == "image twice":
        with tarfile.open(tar, "a") as file:
            info = tarfile.TarInfo("ILSVRC2012_val_00000001.JPEG")
            file.addfile(info, io.BytesIO())
    elif change == "truncated tar":
        tar.write_bytes(tar.read_bytes()[: 512 + 300])
    elif change == "truncated devkit":
        kit.write_bytes(kit.read_bytes()[:-5000])
    elif change == "devkit is none":
        kit.write_bytes(b"<html>not found</html>")
    elif change == "devkit bomb":
        from advlens.datasets import devkit as module

        monkeypatch.setattr(module, "MAX_UNPACKED", 3_000_000)
        archive(kit, {"zeros": bytes(9_000_000), **files}, "w:gz")
        assert kit.stat().st_size < 1_000_000
    elif change in ("devkit twice", "devkit of links"):
        with tarfile.open(kit, "w:gz") as file:
            for kind in (tarfile.REGTYPE, tarfile.SYMTYPE)[change.endswith("links") :]:
                for name in (f"{folder}/meta.mat",) * 2:
                    info = tarfile.TarInfo(name)
                    info.type, info.linkname = kind, "/etc/hostname"
                    file.addfile(info, io.BytesIO())
    elif change.startswith("kaggle"):
        row = "ILSVRC2012_val_00000001,n01440764 1 2 3 4"
        text = {
            "kaggle twice": f"ImageId,PredictionString\n{row}\n{row}\n",
            "kaggle header": f"{row}\n",
            "kaggle gap": f"ImageId,PredictionString\n{row.replace('1,', '2,')}\n",
            "kaggle empty": "ImageId,PredictionString\nILSVRC2012_val_00000001,\n",
        }[change]
        write(tarred / "LOC_val_solution.csv", text.encode())
    else:
        changed = {
            "label missing": lines[1:],
            "label 0": [b"0", *lines[1:]],
            "label x": [b"x", *lines[1:]],
            "internal node": [b"1002", *lines[1:]],
        }
        files[labels] = b"\n".join(changed.get(change, lines))
        if change == "devkit without meta":
            del files[f"{folder}/meta.mat"]
        archive(kit, files, "w:gz")
    before = sorted(tarred.rglob("*"))
    with pytest.raises(DataError, match=message) as error:
        load(tarred)
    assert str(tarred) in str(error.value)
    assert "\n" not in str(error.value)
    assert sorted(tarred.rglob("*")) == before  # nothing is unpacked


def test_names_in_an_archive_lead_nowhere(tarred: Path) -> None:
    members = {"../escaped": b"x", "/tmp/escaped": b"x", **validation_images(COUNT)}
    path = archive(tarred / "ILSVRC2012_img_val.tar", members)
    with tarfile.open(path, "a") as tar:
        for number, kind in enumerate((tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE)):
            info = tarfile.TarInfo(f"link{number}.JPEG")
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
    data = load(tarred)
    assert len(data.images(range(COUNT))) == COUNT
    assert not (tarred.parent / "escaped").exists()


# ImageNetV2


def test_v2_counts_classes_by_number(tmp_path: Path) -> None:
    top = tmp_path / "imagenetv2-top-images-format-val"
    class_folders(top, [str(i) for i in range(1000)], "jpeg")
    for root in (top, tmp_path):
        data = load(root, "imagenet-v2")
        assert data.labels.tolist() == [int(name.split("/")[0]) for name in data.files]
        assert [name.split("/")[0] for name in data.files][:12] == [str(i) for i in range(12)]
        assert (data.synsets, data.name) == (WNIDS, f"ImageNetV2 {top.name}")
    with pytest.raises(SettingsError, match="test images only"):
        load(top, "imagenet-v2", split="train")
    write(top / "3" / "more.jpeg", jpeg(3))
    with pytest.raises(DataError, match="holds 1001 images, not the 1000"):
        load(top, "imagenet-v2")
    shutil.rmtree(top / "3")
    with pytest.raises(DataError, match=r"lacks 1 of the 1000 class folders of .*first 3"):
        load(top, "imagenet-v2")
    (top / "003").mkdir()
    with pytest.raises(AdvlensError, match="first 3"):
        load(top, "imagenet-v2")


def test_odd_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Modes, suffixes and sizes as ImageNet has them; some of its JPEG files are PNG, or CMYK."""
    monkeypatch.setattr(imagenet, "VALIDATION_IMAGES", 1000)
    class_folders(tmp_path / "val", list(WNIDS))
    pixels = np.random.default_rng(0).integers(256, size=(9, 7, 4), dtype=np.uint8)
    rgb = Image.fromarray(pixels[..., :3])
    rotated = Image.Exif()
    rotated[0x0112] = 6
    odd = {
        "CMYK": (Image.fromarray(pixels, mode="CMYK"), "JPEG", {}),
        "gray": (rgb.convert("L"), "JPEG", {}),
        "palette": (rgb.quantize(16), "PNG", {}),
        "16": (Image.fromarray(pixels[..., 0].astype(np.uint16) * 257), "PNG", {}),
        "EXIF": (rgb, "JPEG", {"exif": rotated}),
        "pixel": (rgb.resize((1, 1)), "PNG", {}),
    }
    for i, (image, form, options) in enumerate(odd.values()):
        path = tmp_path / "val" / WNIDS[i] / f"{i}.JPEG"
        path.unlink()
        image.save(path, form, **options)
    empty = tmp_path / "val" / WNIDS[6] / "6.JPEG"
    empty.unlink()
    empty.touch()
    data = load(tmp_path)
    assert data.damaged(range(20)).keys() == {6}
    found = data.images(range(6))
    assert torch.equal(found[1, 0], found[1, 1])
    upright = rgb.resize((8, 10), Image.Resampling.BILINEAR)  # the orientation is not applied
    assert abs(found[4].float().mean() - np.asarray(upright).mean()) < 8
    assert (found[5] == found[5, :, :1, :1]).all()
