"""models.zoo: every way to name a model."""

import hashlib
import os
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from advlens import CheckpointError, ModelError, SettingsError, load_data, load_model
from advlens.models import Classifier, imagenet_synsets, list_models, network_of, save_weights
from advlens.models.resnet import BasicBlock, CifarResNet

CIFAR = [name for name in list_models() if name.startswith("resnet")]
PACKAGED = [name for name in list_models() if name.startswith("cifar10-")]
FACTORIES = """
import os
from torch import nn
from advlens.models import Classifier

class fails:
    def __init__(self): raise KeyError("a fault of the user's")

class moves(nn.Identity):
    def __init__(self): super().__init__(); os.chdir("/")

network = lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
number = lambda: 7
classifier = lambda: Classifier(nn.Conv2d(3, 4, 3), name="own", classes=list("abcd"))
"""
FAILING = [
    ("fails", 'cannot build the model .*: KeyError: "a fault of the user\'s"; it must name'),
    ("number", "returned an object of type int, not a torch.nn.Module"),
    ("networks", "cannot build the model .*: AttributeError.*; perhaps you meant network$"),
]
UNKNOWN = {
    "no_such_module:factory": "",
    "torchvison:vgg16": "; perhaps you meant torchvision:vgg16",
    "tests/own_network.py:make": "; perhaps you meant tests.own_network:make",
}
NETWORKS = [
    ("cifar10-l2", "resnet14"),
    ("resnet20@x/y.safetensors", "resnet20"),
    ("a.b:c", "a.b:c"),
]


@pytest.mark.parametrize("name", CIFAR)
def test_cifar_networks(name):
    classifier = load_model(name)
    assert classifier.name == name
    assert not any(module.training for module in classifier.modules())
    assert classifier(torch.rand(2, 3, 32, 32)).shape == (2, 10)
    assert (classifier.image_size, classifier.resize, classifier.weights) == (32, 32, None)
    assert classifier.classes[0] == "airplane"
    assert len(classifier.classes) == len(classifier.synsets) == 10


def test_seed_decides_random_weights_and_global_state_stays():
    before = torch.get_rng_state()
    first, same, other = (load_model("resnet14", seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    weights = [built.network.conv1.weight for built in (first, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.fixture(scope="module")
def sample():
    data = load_data("sample").subset(100, seed=0)
    return data.images(range(100)).float() / 255, data.labels


def accuracy(classifier, images, labels) -> float:
    with torch.no_grad():
        return (classifier(images).argmax(dim=1) == labels).float().mean().item()


@pytest.mark.parametrize("name", PACKAGED)
def test_packaged_models(name, sample):
    classifier = load_model(name)
    assert (classifier.name, len(classifier.weights)) == (name, 64)
    assert accuracy(classifier, *sample) > 0.7
    message = f"{name} has its own weights; for others give {network_of(name)}@x"
    with pytest.raises(SettingsError, match=message):
        load_model(f"{name}@x")


def test_weights_from_a_file(tmp_path):
    saved = load_model("resnet20", seed=5)
    saved.set_normalization((0.3, 0.3, 0.3), (0.2, 0.2, 0.2))
    path = tmp_path / "mine.safetensors"
    save_weights(saved, path)
    loaded, images = load_model(f"resnet20@{path}"), torch.rand(2, 3, 32, 32)
    assert torch.equal(loaded(images), saved.eval()(images))
    assert loaded.name == "mine"
    assert loaded.weights == hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(CheckpointError, match=r"mine.safetensors does not fit CifarResNet"):
        load_model(f"resnet14@{path}")
    with pytest.raises(CheckpointError, match="no weights file at"):
        load_model(f"resnet20@{tmp_path / 'none.pt'}")
    (tmp_path / "robust").mkdir()  # a training names all of its files alike
    for file in ("model", "best"):
        again = path.rename(tmp_path / "robust" / f"{file}.safetensors")
        assert load_model(f"resnet20@{again}").name == "robust"
        path = again


@pytest.mark.parametrize(("spec", "network"), NETWORKS)
def test_other_weights_of_the_same_network(spec, network):
    assert network_of(spec) == network


@pytest.mark.parametrize("depth", [20, 32, 56])
def test_public_weights_load(depth, shared_data):
    path = shared_data / "cifar10-models" / f"resnet{depth}.safetensors"
    classifier = load_model(f"resnet{depth}@{path}")
    assert classifier.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    assert classifier(torch.zeros(1, 3, 32, 32)).shape == (1, 10)


def test_public_resnet20_reaches_its_accuracy(shared_data):
    """91.73 % on all 10 000 test images; ± 3.5 points is three standard errors of 500."""
    if "ADVLENS_CIFAR10" not in os.environ:
        pytest.skip("ADVLENS_CIFAR10 does not name the folder of CIFAR-10's binary version")
    data = load_data(f"cifar10:{os.environ['ADVLENS_CIFAR10']}", split="test")
    classifier = load_model(f"resnet20@{shared_data / 'cifar10-models' / 'resnet20.safetensors'}")
    found = accuracy(classifier, data.images(range(500)).float() / 255, data.labels[:500])
    assert found == pytest.approx(0.9173, abs=0.035)


@pytest.fixture
def own_module(tmp_path, monkeypatch) -> str:
    name = f"zoo_factories_{abs(hash(tmp_path))}"
    (tmp_path / f"{name}.py").write_text(FACTORIES)
    monkeypatch.chdir(tmp_path)
    return name


def test_factory(own_module, tmp_path):
    path, classifier = list(sys.path), load_model(f"{own_module}:classifier")
    assert (classifier.name, classifier.classes) == ("own", tuple("abcd"))
    wrapped = load_model(f"{own_module}:network")
    assert isinstance(wrapped, Classifier)
    assert wrapped.name == "network"
    assert isinstance(wrapped.network, nn.Sequential)
    assert wrapped.mean.abs().max() == 0
    torch.save(classifier.network.state_dict(), tmp_path / "w.pt")
    assert load_model(f"{own_module}:classifier@{tmp_path / 'w.pt'}").name == "w"
    load_model(f"{own_module}:moves")
    assert sys.path == path


@pytest.mark.parametrize(("attribute", "message"), FAILING)
def test_factories_that_fail(attribute, message, own_module):
    before = list(sys.path)
    with pytest.raises(ModelError, match=message):
        load_model(f"{own_module}:{attribute}")
    assert sys.path == before


def test_unknown_names_and_imagenets():
    for spec, meant in UNKNOWN.items():
        with pytest.raises(ModelError, match=rf"ModuleNotFoundError.* from here{meant}$"):
            load_model(spec)
    with pytest.raises(SettingsError, match=r"no model named 'resnet19'; perhaps .*resnet18"):
        load_model("resnet19")
    with pytest.raises(SettingsError, match="no model named ''"):
        load_model("")
    synsets = imagenet_synsets()
    assert (len(set(synsets)), list(synsets)) == (1000, sorted(synsets))
    assert synsets[281] == "n02123045"  # tabby


def count(model) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(("blocks", "millions"), [(3, 0.27), (5, 0.46), (7, 0.66), (9, 0.85)])
def test_sizes_of_he_et_al_table_6(blocks, millions):
    network = CifarResNet((blocks,) * 3, (16, 32, 64), "pad")
    assert count(network) / 1e6 == pytest.approx(millions, abs=0.005)
    convolutions = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(convolutions) + 1 == 6 * blocks + 2


def test_resnet18_has_the_size_of_the_usual_cifar_variant():
    assert count(CifarResNet((2, 2, 2, 2), (64, 128, 256, 512), "projection")) == 11_173_962


def naive_normalization(x, norm):
    mean, variance = (v.view(1, -1, 1, 1) for v in (norm.running_mean, norm.running_var))
    weight, bias = (v.view(1, -1, 1, 1) for v in (norm.weight, norm.bias))
    return (x - mean) / torch.sqrt(variance + norm.eps) * weight + bias


@pytest.mark.parametrize("shortcut", ["pad", "projection"])
@pytest.mark.parametrize(("inputs", "outputs", "stride"), [(4, 4, 1), (4, 7, 2), (4, 6, 1)])
def test_block(shortcut, inputs, outputs, stride):
    torch.manual_seed(0)
    block = BasicBlock(inputs, outputs, stride, shortcut).double()
    x = torch.randn(2, inputs, 6, 6, dtype=torch.float64)
    block(x)  # moves the running statistics
    block.eval()
    with torch.no_grad():
        first = naive_normalization(F.conv2d(x, block.conv1.weight, None, stride, 1), block.bn1)
        second = F.conv2d(first.clamp(min=0), block.conv2.weight, None, 1, 1)
        second = naive_normalization(second, block.bn2)
        if shortcut == "projection" and (inputs, stride) != (outputs, 1):
            projection, norm = block.shortcut
            kept = torch.einsum("oi,nihw->nohw", projection.weight[:, :, 0, 0], x)
            kept = naive_normalization(kept[:, :, ::stride, ::stride], norm)
        else:
            kept, half = torch.zeros_like(second), (outputs - inputs) // 2
            kept[:, half : half + inputs] = x[:, :, ::stride, ::stride]
        torch.testing.assert_close(block(x), (second + kept).clamp(min=0))


def test_network_whose_every_parameter_gets_a_gradient():
    torch.manual_seed(0)
    network = CifarResNet((1, 2), (4, 8), "pad", classes=6).double().eval()
    x = torch.rand(3, 3, 16, 16, dtype=torch.float64)
    maps = F.relu(network.bn1(network.conv1(x)))
    maps = network.layer2[1](network.layer2[0](network.layer1[0](maps)))
    assert maps.shape == (3, 8, 8, 8)
    pooled = maps.detach().numpy().mean(axis=(2, 3))
    weight, bias = (p.detach().numpy() for p in network.linear.parameters())
    expected = pooled @ weight.T + bias
    np.testing.assert_allclose(network(x).detach().numpy(), expected, rtol=1e-9, atol=1e-12)
    network = CifarResNet((1, 1), (4, 8), "projection")
    network(torch.rand(4, 3, 8, 8)).square().sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in network.parameters())
