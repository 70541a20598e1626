"""`advlens data broden` and `broden-from`: flags and what is printed."""

import hashlib
import re
import zipfile

import numpy as np
import pytest
from PIL import Image

from advlens.cli import main
from advlens.datasets import BrodenData
from advlens.datasets.broden import fetching
from tiny_broden import write_tiny_broden
from tiny_imagenet import cases


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
