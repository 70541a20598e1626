"""models.robustbench, with a stand-in for RobustBench that has the names of its zoo."""

import sys
from collections import OrderedDict
from enum import Enum
from functools import partial
from types import ModuleType
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from advlens import ModelError, SettingsError
from advlens.models import CIFAR10_CLASSES, imagenet_classes, load_model

REGISTERED = "own2022_s_imagenet_linf"
MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)


class Network(nn.Module):
    """A network that normalizes by its own constants, as most of the zoo's do."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, classes)
        self.register_buffer("mu", torch.tensor(MEAN).view(1, 3, 1, 1))
        self.register_buffer("sigma", torch.tensor(STD).view(1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv((x - self.mu) / self.sigma).relu().mean(dim=(2, 3)))


class Normalizer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


def normalized(**config: Any) -> nn.Module:
    """As the zoo wraps networks of torchvision and timm; ImageNet's files have the inner names."""
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AvgPool2d(30), nn.Flatten(), nn.Linear(4, 1000))
    if config:
        network.default_cfg = config
    return nn.Sequential(OrderedDict(normalize=Normalizer(), model=network))


def broken() -> nn.Module:
    raise RuntimeError("no such block")


@pytest.fixture
def _zoo(monkeypatch):
    data = Enum("data", {"a": "cifar10", "b": "cifar100", "c": "imagenet"})
    threat = Enum("threat", {"linf": "Linf", "l2": "L2"})
    many = {"model": Network, "gdrive_id": ["1", "2"]}
    module = ModuleType("robustbench.model_zoo.models")
    module.model_dicts = {
        data.a: {threat.linf: {"Own2020": {"model": Network, "gdrive_id": "1"}, "Many2021": many}},
        data.b: {threat.l2: {"Own2020": {"model": lambda: Network(100)}, "Bad": {"model": broken}}},
        data.c: {
            threat.linf: {
                "Plain": {"model": lambda: Network(1000), "preprocessing": "Res256Crop224"},
                "Large": {"model": lambda: Network(1000), "preprocessing": "BicubicRes249Crop224"},
                "Whole": {"model": lambda: Network(1000), "preprocessing": "Crop288"},
                "Squeezed": {"model": normalized, "preprocessing": "Res224"},
                "Odd": {"model": normalized, "preprocessing": "Pad224"},
                "Own2022-S": {"model": broken, "gdrive_id": None},
            }
        },
    }
    for name in ("robustbench", "robustbench.model_zoo"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "robustbench.model_zoo.models", module)
    own = partial(normalized, input_size=(3, 224, 224), crop_pct=0.95, interpolation="bicubic")
    monkeypatch.setattr(timm, "create_model", lambda name: {REGISTERED: own}[name]())
    monkeypatch.setattr(timm, "is_model", lambda name: name == REGISTERED)


@pytest.mark.usefixtures("_zoo")
@pytest.mark.parametrize("whole", [True, False])
def test_a_normalizer_around_a_network_becomes_its_mean_and_std(whole, tmp_path):
    torch.manual_seed(0)
    network, images = normalized().eval(), torch.rand(3, 3, 32, 32)
    if whole:
        network.normalize.mean.mul_(0.9)
    torch.save(
        {"state_dict": (network if whole else network.model).state_dict()}, tmp_path / "a.pt"
    )
    found = load_model(f"robustbench:imagenet/Linf/Squeezed@{tmp_path}/a.pt")
    torch.testing.assert_close(found(images), network(images))


@pytest.mark.usefixtures("_zoo")
@pytest.mark.parametrize("constants", [True, False])
@pytest.mark.parametrize("prefix", ["", "module.", "module.model."])
def test_a_file_of_the_zoo_gives_the_logits_of_its_network(prefix, constants, tmp_path):
    torch.manual_seed(0)
    network, images = Network().eval(), torch.rand(3, 3, 32, 32)
    if constants:
        network.mu.mul_(0.9)
    state = {
        f"{prefix}{name}": tensor
        for name, tensor in network.state_dict().items()
        if constants or name not in ("mu", "sigma")
    }
    (folder := tmp_path / "cifar10" / "Linf").mkdir(parents=True)
    torch.save({"state_dict": state}, folder / "Own2020.pt")
    found = load_model(f"robustbench:cifar10/Linf/Own2020@{folder}/Own2020.pt")
    torch.testing.assert_close(found(images), network(images))
    assert (found.name, found.classes, found.image_size) == ("Own2020", CIFAR10_CLASSES, 32)


@pytest.mark.usefixtures("_zoo")
def test_images_and_classes_are_those_of_the_zoo():
    found = load_model("robustbench:cifar100/L2/Own2020")
    assert (len(found.classes), found.classes[1], found.synsets[1]) == (
        100,
        "aquarium_fish",
        "n02512053",
    )
    sizes = {"Plain": (224, 256, "bilinear"), "Large": (224, 249, "bicubic")}
    sizes |= {"Squeezed": (224, 224, "bilinear"), "Own2022-S": (224, 235, "bicubic")}
    for name, expected in (sizes | {"Whole": (288, 288, "bilinear")}).items():
        found = load_model(f"robustbench:imagenet/Linf/{name}")
        assert (found.image_size, found.resize, found.interpolation) == expected
        assert found.classes == imagenet_classes()
        assert (len(found.notes), found.squeeze) == (name == "Whole", name == "Squeezed")


@pytest.mark.usefixtures("_zoo")
def test_what_the_zoo_lacks_is_said(monkeypatch):
    with pytest.raises(SettingsError, match="is not known; perhaps you meant cifar10/Linf/Own"):
        load_model("robustbench:cifar10/Linf/Own202")
    with pytest.raises(ModelError, match="Many2021 has several files of weights"):
        load_model("robustbench:cifar10/Linf/Many2021")
    with pytest.raises(ModelError, match=r"cannot build .*Bad: RuntimeError: no such block"):
        load_model("robustbench:cifar100/L2/Bad")
    with pytest.raises(ModelError, match=r"Pad224.* is not known"):
        load_model("robustbench:imagenet/Linf/Odd")
    monkeypatch.setitem(sys.modules, "robustbench.model_zoo.models", None)
    with pytest.raises(ModelError, match="needs RobustBench, which cannot be imported"):
        load_model("robustbench:cifar10/Linf/Own2020")
