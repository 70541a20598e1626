"""inspection: what is said of a model and of converted weights."""

import pytest
import torch

from advlens.cli import main
from advlens.cli.models import convert, show_model
from advlens.models import load_model
from advlens.models.resnet import CifarResNet


def lines(text: str, key: str) -> list[str]:
    return [line[15:] for line in text.split("\n") if line.startswith(f"{key:<15}")]


def test_a_convolutional_network():
    text = show_model("cifar10-l2")
    assert lines(text, "parameters") == ["685,994"]
    assert lines(text, "weights") == [load_model("cifar10-l2").weights]
    assert lines(text, "image size") == ["32, cropped from a shorter side of 32, resized bilinear"]
    expected = "mean 0.4914, 0.4822, 0.4465; std 0.247, 0.2435, 0.2616"
    assert lines(text, "normalization") == [expected]
    assert lines(text, "classes")[0].startswith("airplane, automobile, bird")
    assert lines(text, "representation") == ["the 128 inputs of linear"]
    layers = lines(text, "layer")
    assert (len(layers), layers[0]) == (13, "conv1, 32 units: channels of a convolution")


def test_a_transformer():
    text = show_model("timm:vit_tiny_patch16_224:32")
    assert lines(text, "image size") == ["32, cropped from a shorter side of 35, resized bicubic"]
    assert lines(text, "weights") == ["random"]
    (classes,) = lines(text, "classes")
    assert classes.startswith("1000: tench, goldfish")
    assert classes.endswith("… toilet tissue")
    assert lines(text, "representation") == ["the 192 inputs of head"]
    layers = lines(text, "layer")
    assert layers[0] == "patch_embed.proj, 192 units: channels of a convolution"
    assert layers[1] == "blocks.0.mlp.fc1, 768 units: hidden units of an MLP"
    assert len(layers) == 13
    assert lines(text, "note") == []


OWN = """
import torch
from torch import nn

class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

    def forward(self, x):
        return self.linear((self.conv(x) if x.sum() > 0 else self.conv(-x)).mean(dim=(2, 3)))

def stack():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
"""


def test_other_networks(tmp_path, monkeypatch):
    (tmp_path / "inspected_networks.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    text = show_model("inspected_networks:Branching")
    assert lines(text, "classes") == ["unknown"]
    assert lines(text, "representation") == ["the input of the last linear layer to be run"]
    assert lines(text, "layer") == ["conv, 4 units: channels of a convolution"]
    (note,) = lines(text, "note")
    assert "cannot trace the forward of Branching" in note
    text = show_model("inspected_networks:stack")
    assert lines(text, "representation") == ["none: the model has no linear layer"]


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return CifarResNet((3, 3, 3), (16, 32, 64), "pad").eval()


@pytest.fixture
def checkpoint(network, tmp_path):
    """As the robustness library writes it."""
    state = {}
    for normalizer, model in (("normalizer", "model"), ("attacker.normalize", "attacker.model")):
        state |= {f"module.{normalizer}.new_mean": torch.full((3, 1, 1), 0.25)}
        state |= {f"module.{normalizer}.new_std": torch.full((3, 1, 1), 0.5)}
        state |= {f"module.{model}.{name}": t for name, t in network.state_dict().items()}
    path = tmp_path / "checkpoint.pt.best"
    torch.save({"model": state, "optimizer": {"state": {}}, "epoch": 3}, path)
    return path


def test_convert_says_what_was_read_dropped_and_found(network, checkpoint, tmp_path):
    out, twice = tmp_path / "converted.safetensors", tmp_path / "again.safetensors"
    text = convert(f"resnet20@{checkpoint}", out)
    assert lines(text, "read") == ["116 tensors, named model.… in the file"]
    assert lines(text, "dropped") == ["attacker.model.…, an equal copy"]
    normalizers = ("normalizer", "attacker.normalize")
    means, stds = ([f"module.{n}.new_{kind}" for n in normalizers] for kind in ("mean", "std"))
    assert lines(text, "found") == means + stds
    assert lines(text, "normalization") == ["mean 0.25, 0.25, 0.25; std 0.5, 0.5, 0.5"]
    assert lines(text, "written") == [str(out)]
    images = torch.rand(2, 3, 32, 32)
    expected = network((images - 0.25) / 0.5)
    for file in (checkpoint, out):
        assert torch.equal(load_model(f"resnet20@{file}")(images), expected)
    again = convert(f"resnet20@{out}", twice)
    assert lines(again, "read") == ["97 tensors"]
    assert lines(again, "dropped") == lines(again, "found") == []
    assert out.read_bytes() == twice.read_bytes()
    assert lines(convert("resnet20", twice), "read") == ["116 tensors"]  # of no file


X = "--out {tmp}/x.safetensors"
WRONG = {
    "convert resnet20": (2, "needs a file to write, as in: advlens models convert"),
    "convert resnet20 --out {tmp}/x.pt": (2, "needs a file to write"),
    f"show resnet20 {X}": (2, "only convert, needs a file to write"),
    f"convert {X}": (2, "needs a model"),
    f"convert resnet20@{{tmp}}/none {X}": (2, "none, which does not exist"),
    f"convert resnet14@{{file}} {X}": (1, "does not fit CifarResNet"),
    f"convert timm:nothing {X}": (2, "timm:nothing is not known"),
}


@pytest.mark.parametrize("words", WRONG)
def test_wrong_use_is_one_sentence_and_writes_nothing(words, checkpoint, tmp_path, capsys):
    (code, message), before = WRONG[words], sorted(tmp_path.iterdir())
    given = [word.format(tmp=tmp_path, file=checkpoint) for word in words.split()]
    assert main(["models", *given]) == code
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


def test_what_a_file_holds_beside_the_weights(tmp_path, capsys):
    path, out = tmp_path / "swa.pt", tmp_path / "swa.safetensors"
    averaged = torch.optim.swa_utils.AveragedModel(load_model("cifar10-l2").network).state_dict()
    torch.save({"state_dict": averaged | {"loss.weight": torch.ones(10)}}, path)
    words = ["models", "convert", f"resnet14@{path}", "--out", str(out)]
    assert main(words) == 1
    assert "loss.weight is not in the network; leave out" in capsys.readouterr().err
    assert main([*words, "--ignore-keys", "nothing", "loss.*"]) == 0
    text = capsys.readouterr().out
    assert lines(text, "dropped") == ["n_averaged, a counter"]
    assert lines(text, "written") == [str(out)]
    again, original = load_model(f"resnet14@{out}"), load_model("cifar10-l2")
    assert torch.equal(again.network.linear.weight, original.network.linear.weight)
    assert main(["models", "show", f"resnet14@{path}", "--ignore-keys", "loss.weight"]) == 0
    assert lines(capsys.readouterr().out, "name") == ["swa"]
    assert main(["models"]) == 0
    assert "\ntorchvision:vit_b_16\n" in capsys.readouterr().out
