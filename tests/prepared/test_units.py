"""prepared.units: where units are read, found a second time by hooks on the model itself."""

import copy
import weakref
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from prepared_networks import NETWORKS, SLOW, UNTRACEABLE, build
from test_hidden_units import build as hidden
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.models.resnet import Bottleneck

from advlens.errors import ModelError
from advlens.models.resnet import BasicBlock
from advlens.prepared import live_features, prepare


def outputs(model: nn.Module, images: torch.Tensor) -> dict[str, list[torch.Tensor]]:
    """A copy of every output of every module of the model in evaluation mode."""
    kept: dict[str, list[torch.Tensor]] = {}

    def keep(name):
        return lambda module, inputs, output: kept.setdefault(name, []).append(output.clone())

    handles = [m.register_forward_hook(keep(name)) for name, m in model.named_modules()]
    with torch.no_grad():
        model.eval()(images)
    for handle in handles:
        handle.remove()
    return kept


def resnet_units(model: nn.Module, images: torch.Tensor, block=BasicBlock, shortcut="shortcut"):
    """Maps of each convolution: a block's last one is read behind its sum and ReLU."""
    kept = outputs(model, images)
    expected = {"conv1": F.relu(kept["bn1"][0])}
    for name, module in model.named_modules():
        if isinstance(module, block):
            last = 3 if hasattr(module, "conv3") else 2
            for number in range(1, last):
                expected[f"{name}.conv{number}"] = F.relu(kept[f"{name}.bn{number}"][0])
            expected[f"{name}.conv{last}"] = kept[name][0]
            if f"{name}.{shortcut}.0" in kept:
                expected[f"{name}.{shortcut}.0"] = F.relu(kept[f"{name}.{shortcut}.1"][0])
    return expected


def vgg_units(model: nn.Module, images: torch.Tensor):
    kept = outputs(model, images)
    return {"0": F.relu(kept["2"][0]), "4": F.relu(kept["6"][0])}


def functional_units(model: nn.Module, images: torch.Tensor):
    kept = outputs(model, images)
    first = F.relu(kept["bn1"][0])
    second = F.relu(kept["bn2"][0] + first)
    return {"conv1": first, "conv2": second, "conv3": F.relu(F.gelu(kept["conv3"][0]))}


def two_units(model: nn.Module, images: torch.Tensor):
    kept = outputs(model, images)
    return {"conv1": F.relu(kept["bn1"][0]), "conv2": F.relu(kept["conv2"][0])}


def shared_units(model: nn.Module, images: torch.Tensor):
    kept = outputs(model, images)
    first, second = (F.relu(maps) for maps in kept["bn"])
    return {"conv1": first, "conv2": second, "twice": F.relu(kept["twice"][1])}


EXPECTED = {
    **dict.fromkeys(("resnet, pad", "resnet, projection"), resnet_units),
    **dict.fromkeys(("vgg", "leaky", "norm subclass"), vgg_units),
    "classifier": lambda m, x: resnet_units(m.network, (x - m.mean) / m.std),
    **{"functional": functional_units, "results ignored": two_units},
    "control flow": lambda m, x: two_units(m, x) | {"never": torch.zeros(4, 8, 12, 12)},
    "shared layers": shared_units,
    "bottlenecks": lambda m, x: resnet_units(m, x, Bottleneck, "downsample"),
}
BEHIND = [("layer1.0.conv1", "layer1.0.conv2"), ("representation", "linear")]


@pytest.mark.parametrize("name", EXPECTED)
def test_units_are_where_hooks_on_the_model_find_them(name):
    model, images = build(name)
    expected = EXPECTED[name](model, images)
    model.eval()
    copied = prepare(model)
    with torch.no_grad():
        logits, responses = copied.record(images)
        torch.testing.assert_close(logits, model(images), rtol=1e-4, atol=1e-4)
        assert set(responses) == set(expected) == set(copied.layers)
        for layer, maps in expected.items():
            assert copied.layers[layer] == maps.shape[1]
            values = maps.flatten(2).amax(dim=2)
            torch.testing.assert_close(responses[layer], values, rtol=1e-4, atol=1e-4)
            assert (values > 0).any() or layer == "never"
            if layer != "never":
                found = copied.features(images, layer)
                torch.testing.assert_close(found, maps, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "network",
    [
        partial(build, "resnet, projection"),
        partial(build, "functional"),
        partial(hidden, "timm vit, gates of two layers"),
    ],
)
def test_programs_have_the_units_of_their_modules(network):
    model, images = copy.deepcopy(network())
    model.eval()
    program = torch.export.export(model, (images,)).module()
    own, copied = prepare(model, images), prepare(program, images)
    assert (copied.layers, copied.last, copied.folded) == (own.layers, own.last, True)
    assert copied.last_linear == own.last_linear
    with torch.no_grad():
        for parameter in (*model.parameters(), *program.parameters()):
            parameter.mul_(1.1)
    for each, source in ((own, model), (copied, program)):
        each.update(source)
    torch.testing.assert_close(copied.record(images), own.record(images))
    assert [copied.fields(name) for name in own.layers] == [own.fields(name) for name in own.layers]


def test_convolutions_without_a_weight_of_their_own_have_no_units_in_a_program():
    model, images = build("weight norm")
    copied = prepare(torch.export.export(model.eval(), (images,)).module(), images)
    assert list(copied.layers) == ["4"]
    assert "1 convolution " in copied.notes[-1]
    core = torch.export.export(model, (images,)).run_decompositions().module()
    assert prepare(core, images).layers == {}


def test_the_order_and_the_last_of_the_layers():
    blocks = ("layer1.0", "layer2.0", "layer2.1")
    expected = ["conv1", *(f"{block}.conv{n}" for block in blocks for n in (1, 2))]
    assert list(prepare(build("classifier")[0]).layers) == expected
    # In the second network, a projection shortcut is called after the last 3×3 convolution
    for name, layer in (("vgg", "4"), ("resnet, projection", "layer2.0.conv2")):
        model, images = build(name)
        copied = prepare(model)
        assert torch.equal(copied.features(images), copied.features(images, layer))


def test_unknown_layers_are_named_beside_those_that_there_are():
    model, images = build("vgg")
    with pytest.raises(ModelError, match="no convolution named 'layer9'; there are: 0, 4"):
        prepare(model).features(images, "layer9")
    model, images = build("control flow")
    with pytest.raises(ModelError, match="the layer never is not run on these images"):
        prepare(model).features(images, "never")
    model, _ = build("classifier")
    with pytest.raises(ModelError, match=r"no convolution named 'network.conv1'; there are: conv1"):
        live_features(model, "network.conv1")
    convolutions = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    with pytest.raises(ModelError, match="no linear layer, so no representation"):
        live_features(convolutions, "representation")
    with pytest.raises(ModelError, match="no linear layer, so no representation"):
        prepare(convolutions).representation(torch.rand(3, 3, 16, 16))
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    copied, images = prepare(model), torch.rand(2, 3, 2, 2)
    assert copied.layers == {}
    logits, responses = copied.record(images)
    assert responses == {}
    torch.testing.assert_close(logits, model(images))
    with pytest.raises(ModelError, match="there are: none"):
        copied.features(images)
    for layer in (None, "conv1"):
        with pytest.raises(ModelError, match="Sequential has no convolution to take features from"):
            live_features(model, layer)


class Counted(nn.Flatten):
    passes = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        type(self).passes += 1
        return super().forward(x)


def test_features_compute_nothing_behind_their_layer():
    Counted.__module__ = "torch.nn.counted"  # which keeps it whole in the graph
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), Counted())
    images = torch.rand(2, 3, 8, 8)
    copied = prepare(model, images)
    assert copied.folded
    before = Counted.passes
    assert copied.features(images).shape == (2, 4, 4, 4)
    assert Counted.passes == before
    copied(images)
    assert Counted.passes == before + 1


class PeakMemory(TorchDispatchMode):  # the most bytes that tensors made inside held at one time
    def __init__(self) -> None:
        super().__init__()
        self.held, self.peak = 0, 0

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        result = operator(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and not any(result is value for value in args):
            size = result.nbytes
            self.held += size
            self.peak = max(self.peak, self.held)
            weakref.finalize(result, self.release, size)
        return result

    def release(self, size: int) -> None:
        self.held -= size


class Deep(nn.Module):  # twelve layers of equal maps; traceable or not
    def __init__(self, traceable: bool):
        super().__init__()
        self.traceable, self.linear = traceable, nn.Linear(8, 5)
        layers = [nn.Sequential(nn.Conv2d(c, 8, 1), nn.BatchNorm2d(8)) for c in [3] + [8] * 11]
        self.layers = nn.ModuleList(layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.traceable and x.amax() > 2:
            return x
        for layer in self.layers:
            x = F.relu(layer(x))
        return self.linear(x.mean(dim=(2, 3)))


@pytest.mark.parametrize("traceable", [True, False])
def test_recording_keeps_no_maps(traceable):
    copied, images = prepare(Deep(traceable)), torch.rand(4, 3, 32, 32)
    assert copied.folded == traceable
    with torch.no_grad():
        copied.record(images)
        with PeakMemory() as bare:
            copied(images)
        with PeakMemory() as recording:
            _, responses = copied.record(images)
    maps = 4 * 8 * 32 * 32 * 4  # bytes of one layer's maps, of which there are twelve
    assert 2 * maps <= bare.peak <= 5 * maps
    assert recording.peak <= bare.peak + maps
    assert len(responses) == 12


@pytest.mark.parametrize("name", [n for n in NETWORKS if n not in SLOW])
def test_live_features(name):
    """Of every layer, of the last one, and what the last linear layer reads."""
    model, images = build(name)
    copied = prepare(model.eval(), images)
    *_, linear = (module for module in model.modules() if isinstance(module, nn.Linear))
    layers = ["conv1", "conv2"] if name in UNTRACEABLE else [None, *copied.layers]
    with torch.no_grad():
        for layer in (*layers, "representation"):
            logits, features = live_features(model, layer)(images)
            torch.testing.assert_close(logits, copied(images), rtol=1e-4, atol=1e-4)
            if layer == "representation":
                expected = copied.representation(images)
                torch.testing.assert_close(linear(expected), logits, rtol=1e-4, atol=1e-4)
            else:
                expected = copied.features(images, layer)
            torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-4)
    assert not any(m._forward_pre_hooks for m in copied.modules()) or name == "spectral norm"


def test_live_features_by_hooks_are_not_written_into():
    network, images = build("vgg")
    _, features = live_features(network, "4", traced=False)(images)
    features.square().mean().backward()
    assert features.shape == (4, 8, 8, 8)
    assert features.min() == 0
    assert network[0].weight.grad.abs().max() > 0
    assert network[-1].weight.grad is None
    _, representation = live_features(network, "representation", traced=False)(images)
    assert representation.shape == (4, 128)
    branching, images = build("control flow")
    with pytest.raises(ModelError, match="the layer never is not run on these images"):
        live_features(branching, "never")(images)
    model, images = ChangesItsRepresentation(), torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        logits, features = live_features(model, "representation")(images)
        torch.testing.assert_close(model.linear(features), logits)
    assert features.abs().min() > 0


@pytest.mark.parametrize(("layer", "behind"), BEHIND)
def test_live_features_are_the_model_itself(layer, behind):
    model, images = build("resnet, pad")
    steps, live = model.bn1.num_batches_tracked.item(), live_features(model.train(), layer)
    logits, features = live(images)
    assert model.bn1.num_batches_tracked.item() == steps + 1
    features.square().mean().backward()
    assert model.conv1.weight.grad.abs().max() > 0
    assert model.get_submodule(behind).weight.grad is None
    model.linear.bias.data += 1
    torch.testing.assert_close(live(images)[0], logits + 1)


class ChangesItsRepresentation(nn.Module):  # writes into what the linear layer has read
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled = self.conv(x).mean(dim=(2, 3))
        logits = self.linear(pooled)
        pooled.zero_()
        return logits
