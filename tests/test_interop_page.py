"""The code of docs/interop.md runs as it stands, and does what the page says."""

import re
import shlex
import warnings
from pathlib import Path

import pytest
import torch

from advlens.cli.parsing import parse

PAGE = Path(__file__).resolve().parents[1] / "docs" / "interop.md"


def blocks(language):
    text = PAGE.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def test_the_commands_are_understood():
    commands = [b.replace("\\\n", " ") for b in blocks("console")]
    ours = [c.removeprefix("$ ") for c in commands if c.startswith("$ advlens")]
    assert len(ours) == 3
    for line in ours:
        parse(shlex.split(line)[1:])


def test_the_code_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the libraries
        for place, block in enumerate(blocks("python")):
            exec(compile(block, f"{PAGE.name}, block {place + 1}", "exec"), names)
    images, labels, attacked = names["images"], names["labels"], names["attacked"]
    assert (attacked - images).abs().max() <= 8 / 255 + 1e-6
    small, large = names["clipped"]
    for radius, found in ((2 / 255, small), (8 / 255, large)):
        assert 0 < (found - images).abs().max() <= radius + 1e-6
    assert torch.equal(names["success"][1], names["model"](large).argmax(dim=1) != labels)
    torch.testing.assert_close(large, attacked, atol=1e-5, rtol=0)
    assert (names["values"].shape, names["best"]["attack"]) == (images.shape, "natural")
    assert names["frame"]["top1"].max() == pytest.approx(names["best"]["top1"])
    assert "captum:DeepLift" in capsys.readouterr().out
