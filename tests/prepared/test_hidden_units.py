"""Transformers, ConvNeXt, mixers and others, and the hidden units of their MLPs."""

import copy
from collections.abc import Callable
from functools import cache, partial

import pytest
import torch
import torch.nn.functional as F
from prepared_networks import logits_and_gradient
from torch import nn
from torchvision import models
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.efficientnet import MBConvConfig

from advlens import Classifier, ModelError
from advlens.prepared import live_features, prepare
from advlens.prepared.units import maps_of_hidden


def of_timm(name: str, **given) -> nn.Module:
    import timm  # takes a second: not in each process that collects this file

    return timm.create_model(name, **given)


def gated(**given) -> nn.Module:
    from timm.layers import SwiGLU

    return of_timm("vit_tiny_patch16_224", mlp_layer=SwiGLU, **given)


def mixer(**given) -> nn.Module:
    from timm.models.mlp_mixer import MlpMixer

    return MlpMixer(**given)


SMALL = {"image_size": 32, "patch_size": 8, "num_layers": 2, "num_heads": 2, "hidden_dim": 16}
VIT = {"img_size": 32, "depth": 2}
NARROW = {"embed_dim": 24, "num_heads": 2}
CONVNEXT = [CNBlockConfig(8, 16, 1), CNBlockConfig(16, None, 2)]
SWIN = {"patch_size": [4, 4], "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2]}
TIMM_SWIN = {"img_size": 32, "window_size": 4, "embed_dim": 12, "depths": (1, 1)}
MIXER = {"img_size": 32, "patch_size": 16, "num_blocks": 1, "embed_dim": 24}
MBCONVS = [MBConvConfig(1, 3, 1, 16, 8, 1), MBConvConfig(4, 3, 2, 8, 16, 2)]
DENSE = {"growth_rate": 8, "block_config": (2, 2), "num_init_features": 16}
NETWORKS: dict[str, tuple[Callable[..., nn.Module], list[str], dict[str, tuple]]] = {
    # what builds it for 5 classes, its layers of hidden units in order, the shape of some maps
    "torchvision vit": (
        partial(models.VisionTransformer, mlp_dim=24, **SMALL),
        [f"encoder.layers.encoder_layer_{n}.mlp.0" for n in range(2)],
        {"conv_proj": (16, 4, 4), "encoder.layers.encoder_layer_0.mlp.0": (24, 4, 4)},
    ),
    "timm vit_tiny_patch16_224": (
        partial(of_timm, "vit_tiny_patch16_224", **VIT),
        [f"blocks.{n}.mlp.fc1" for n in range(2)],
        {"patch_embed.proj": (192, 2, 2), "blocks.1.mlp.fc1": (768, 2, 2)},
    ),
    "timm vit with registers": (
        partial(of_timm, "vit_little_patch16_reg4_gap_256", **VIT),
        [f"blocks.{n}.mlp.fc1" for n in range(2)],
        {"blocks.1.mlp.fc1": (1792, 2, 2)},
    ),
    "torchvision convnext": (
        partial(models.ConvNeXt, block_setting=CONVNEXT),
        [f"features.{name}.block.3" for name in ("1.0", "3.0", "3.1")],
        {"features.0.0": (8, 8, 8), "features.3.1.block.3": (64, 4, 4)},
    ),
    "timm convnext": (
        partial(of_timm, "convnext_tiny", depths=(1, 1, 1, 1), dims=(8, 16, 16, 16)),
        [f"stages.{n}.blocks.0.mlp.fc1" for n in range(4)],
        {"stem.0": (8, 8, 8), "stages.1.blocks.0.mlp.fc1": (64, 4, 4)},
    ),
    "torchvision swin": (
        partial(models.SwinTransformer, window_size=[4, 4], **SWIN),
        [f"features.{n}.0.mlp.0" for n in (1, 3)],
        {"features.1.0.mlp.0": (32, 8, 8), "features.3.0.mlp.0": (64, 4, 4)},
    ),
    "timm swin, tokens in a line": (
        partial(of_timm, "swin_tiny_patch4_window7_224", **TIMM_SWIN, num_heads=(1, 2)),
        [f"layers.{n}.blocks.0.mlp.fc1" for n in range(2)],
        {"layers.0.blocks.0.mlp.fc1": (48, 8, 8), "layers.1.blocks.0.mlp.fc1": (96, 4, 4)},
    ),
    "timm mixer": (
        partial(mixer, **MIXER),
        [f"blocks.0.mlp_{kind}.fc1" for kind in ("tokens", "channels")],
        {"stem.proj": (24, 2, 2), "blocks.0.mlp_channels.fc1": (96, 2, 2)},
    ),
    "timm eva02, packed gates": (
        partial(of_timm, "eva02_tiny_patch14_224", patch_size=16, **VIT, **NARROW),
        [f"blocks.{n}.mlp.fc2" for n in range(2)],
        {"blocks.1.mlp.fc2": (64, 2, 2)},
    ),
    "timm vit, gates of two layers": (
        partial(gated, **VIT, **NARROW),
        [f"blocks.{n}.mlp.fc2" for n in range(2)],
        {"blocks.1.mlp.fc2": (96, 2, 2)},
    ),
    "timm vit, QuickGELU": (
        partial(of_timm, "vit_base_patch16_clip_quickgelu_224", **VIT, embed_dim=24, num_heads=2),
        [f"blocks.{n}.mlp.fc1" for n in range(2)],
        {"blocks.1.mlp.fc1": (96, 2, 2)},
    ),
    "mobilenet": (models.mobilenet_v3_small, [], {"features.0.0": (16, 16, 16)}),
    "mbconv": (partial(models.EfficientNet, MBCONVS, 0.2), [], {"features.0.0": (16, 16, 16)}),
    "densenet": (partial(models.DenseNet, **DENSE), [], {"features.conv0": (16, 16, 16)}),
    "timm resnet18": (partial(of_timm, "resnet18"), [], {"conv1": (64, 16, 16)}),
    "norm-act": (partial(of_timm, "mobilenetv3_small_050"), [], {"conv_stem": (16, 16, 16)}),
}
BEHIND = {"0": "1", "3": "4", "fc1": "act", "fc2": "norm"}
"""The last part of a layer's name, and that of the module behind its units."""
each_network = pytest.mark.parametrize("name", NETWORKS)
LAYOUTS = [
    ((2, 3, 4, 5), (2, 9, 6, 8), (2, 5, 3, 4)),  # rows × columns, merged by two
    ((2, 12, 5), (2, 9, 3, 4), (2, 5, 3, 4)),  # patches alone
    ((2, 13, 5), (2, 9, 3, 4), (2, 5, 3, 4)),  # and a class token
    ((2, 28, 5), (2, 9, 3, 4), (2, 5, 3, 4)),  # and sixteen more
    ((2, 29, 5), (2, 9, 3, 4), (2, 5, 1, 29)),  # too many others
    ((2, 12, 5), (2, 9, 6, 8), (2, 5, 3, 4)),  # patches merged by two
    ((2, 13, 5), (2, 9, 6, 8), (2, 5, 1, 13)),  # no grid of merged patches
    ((2, 12, 5), None, (2, 5, 1, 12)),
    ((2, 9, 4, 5), (2, 9, 6, 6), (2, 5, 1, 36)),  # windows × tokens
    ((8, 4, 5), (2, 9, 4, 4), (2, 5, 1, 16)),  # windows in the place of images
    ((2, 5), (2, 9, 4, 4), (2, 5, 1, 1)),
]


@cache
def build(name: str) -> tuple[nn.Module, torch.Tensor]:
    """A network in evaluation mode, no parameter zero or nearly so, and images for it."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        model = NETWORKS[name][0](num_classes=5).eval()
        for parameter in model.parameters():
            if parameter.abs().max() < 1e-3:
                parameter.normal_(std=0.5)
        return model, torch.rand(3, 3, 32, 32)


@each_network
def test_same_logits_and_input_gradients(name):
    model, images = build(name)
    model, images = copy.deepcopy(model).double(), images.double()
    copied = prepare(model)
    assert copied.folded
    (logits, gradient), (found, found_gradient) = (
        logits_and_gradient(network, images) for network in (model, copied)
    )
    assert logits.abs().max() > 1e-3
    assert gradient.abs().max() > 0
    torch.testing.assert_close(found, logits, rtol=1e-5, atol=1e-6)
    scale = float(gradient.abs().max())
    torch.testing.assert_close(found_gradient, gradient, rtol=0, atol=1e-8 * scale)


def by_hooks(model: nn.Module, images: torch.Tensor, layer: str) -> torch.Tensor:
    kept, (block, _, last) = [], layer.rpartition(".")
    module = model.get_submodule(f"{block}.{BEHIND[last]}")
    gated = last == "fc2"  # its input is made by two others
    hook = module.register_forward_hook(lambda m, i, o: kept.append(i[0] if gated else o))
    with torch.no_grad():
        model(images)
    hook.remove()
    (values,) = kept
    return values


@each_network
def test_units_and_records(name):
    """The place of hidden units by hand: row by row, the patches behind all other tokens."""
    model, images = build(name)
    _, hidden, shapes = NETWORKS[name]
    copied = prepare(model)
    linear = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear)}
    assert [layer for layer in copied.layers if layer in linear] == hidden
    assert not hidden or copied.last == hidden[-1]
    with torch.no_grad():
        logits, responses = copied.record(images)
        torch.testing.assert_close(logits, model(images), rtol=1e-3, atol=1e-4)
        assert list(responses) == list(copied.layers)
        for layer, units in copied.layers.items():
            assert responses[layer].shape == (3, units)
            assert responses[layer].min() >= 0
        for layer, shape in shapes.items():
            maps = copied.features(images, layer)
            assert maps.shape == (3, *shape)
            torch.testing.assert_close(maps.amax(dim=(2, 3)), responses[layer])
        found = copied.representation(images)
        assert found.ndim == 2
        assert found.shape[1] in {layer.in_features for layer in linear.values()}
    for layer in hidden:
        values = by_hooks(model, images, layer)
        assert copied.layers[layer] == values.shape[-1]
        if "mlp_tokens" in layer:  # these units look at all places at once
            with pytest.raises(ModelError, match=f"{layer} works on have no place in the image"):
                copied.features(images, layer)
            expected = values.amax(dim=1).clamp(min=0)
        else:
            maps = copied.features(images, layer)
            rows, columns = maps.shape[2:]
            for row in range(rows):
                for column in range(columns):
                    if values.ndim == 4:
                        there = values[:, row, column]
                    else:
                        there = values[:, values.shape[1] - (rows - row) * columns + column]
                    torch.testing.assert_close(maps[:, :, row, column], F.relu(there))
            expected = maps.amax(dim=(2, 3))
        torch.testing.assert_close(responses[layer], expected)


class Branching(nn.Module):
    """A network behind control flow, which no graph can follow."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.network(images) if images.sum() >= 0 else images


@pytest.mark.parametrize("name", [name for name, (_, hidden, _) in NETWORKS.items() if hidden])
def test_a_network_that_cannot_be_traced_has_the_same_hidden_units(name):
    model, images = build(name)
    traced, running = prepare(model, images), prepare(Branching(model), images)
    assert not running.traced
    hidden = [f"network.{layer}" for layer in NETWORKS[name][1]]
    linear = {n for n, m in running.named_modules() if isinstance(m, nn.Linear)}
    assert [layer for layer in running.layers if f"_copy.network.{layer}" in linear] == hidden
    assert running.last == hidden[-1]
    with torch.no_grad():
        (_, one), (_, other) = (copied.record(images) for copied in (traced, running))
    for layer in NETWORKS[name][1]:
        assert traced.layers[layer] == running.layers[f"network.{layer}"]
        torch.testing.assert_close(one[layer], other[f"network.{layer}"], rtol=1e-3, atol=1e-4)
        if "mlp_tokens" not in layer:
            maps = [
                each.features(images, n)
                for each, n in ((traced, layer), (running, f"network.{layer}"))
            ]
            torch.testing.assert_close(*maps, rtol=1e-3, atol=1e-4)


class TokensFirst(nn.Module):
    """Tokens × images × units, in which no image's tokens lie together."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.up, self.down = nn.Conv2d(3, 4, 4, 4), nn.Linear(4, 6), nn.Linear(6, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.embed(x).flatten(2).permute(2, 0, 1)
        return self.head((tokens + self.down(F.gelu(self.up(tokens)))).mean(dim=0))


@pytest.mark.parametrize("wrap", [lambda network: network, Branching])
def test_units_that_mix_images_are_left_out_and_a_patch_embedding_alone_is_told(wrap):
    torch.manual_seed(0)
    copied = prepare(wrap(TokensFirst()), torch.rand(3, 3, 12, 12))
    (layer,) = copied.layers
    assert layer.endswith("embed")
    assert copied.last == layer
    assert "tokens are not those of one image" in " ".join(copied.notes)
    assert f"the only units found in {'Branching' if wrap is Branching else 'Tokens'}" in (
        " ".join(copied.notes)
    )
    assert copied.record(torch.rand(2, 3, 12, 12))[1].keys() == {layer}


def test_other_tokens_than_patches_do_not_count():
    """The class token responds more than any patch."""
    model, images = copy.deepcopy(build("torchvision vit"))
    layer = "encoder.layers.encoder_layer_1.mlp.0"
    model.class_token.data.mul_(100)
    values = by_hooks(model, images, layer)
    assert (values[:, 0] > values[:, 1:].amax(dim=1)).any()
    found = prepare(model).record(images)[1][layer]
    torch.testing.assert_close(found, values[:, 1:].amax(dim=1).clamp(min=0))


def test_live_features_and_names_in_a_classifier():
    model, images = copy.deepcopy(build("torchvision vit"))
    logits, features = live_features(model)(images)
    torch.testing.assert_close(logits, model(images))
    assert features.shape == (3, 24, 4, 4)
    features.square().mean().backward()
    assert model.conv_proj.weight.grad.abs().max() > 0
    assert model.heads.head.weight.grad is None
    model, images = build("torchvision vit")
    copied = prepare(Classifier(model, name="v", mean=(0.5,) * 3, std=(0.2,) * 3))
    assert "encoder.layers.encoder_layer_0.mlp.0" in copied.layers
    assert copied.features(images).shape == (3, 24, 4, 4)
    assert copied.fields(copied.last) is None  # attention reaches everywhere


class Heads(nn.Module):
    """Linear layers that are none of an MLP between sums, and one that makes an offset."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.offset = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1))
        self.head = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5))
        self.register_buffer("places", torch.rand(8, 8, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.conv1(x) + self.offset(self.places).permute(2, 0, 1))
        x = x + self.conv2(x)
        return self.head(x.mean(dim=(2, 3)))


class Positions(nn.Module):
    """A positional encoding with a convolution, which sees only how large the images are."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.position = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(2, 4, 1)
        self.head = nn.Linear(4, 5)
        self.register_buffer("places", torch.rand(1, 2, 8, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        places = (self.places / x.shape[2] / x.size(3)).to(x.dtype)
        x = F.relu(self.conv(x) + self.position(places))
        return self.head(x.mean(dim=(2, 3)))


class Gated(nn.Module):
    """A squeeze-and-excitation gate of linear layers in a residual branch: one value an image."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 5)
        self.gate = nn.Sequential(nn.Linear(4, 2), nn.ReLU(), nn.Linear(2, 4), nn.Sigmoid())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        x = x + x * self.gate(x.mean(dim=(2, 3)))[:, :, None, None]
        return self.linear(x.mean(dim=(2, 3)))


def test_other_linear_layers_have_no_units_and_gates_maps_of_one_place():
    torch.manual_seed(0)
    model, images = Gated(), torch.rand(3, 3, 8, 8)
    copied = prepare(model)
    assert list(copied.layers) == ["conv", "gate.0", "gate.2"]
    assert copied.features(images, "gate.0").shape == (3, 2, 1, 1)
    expected = model.gate[:2](model.conv(images).mean(dim=(2, 3)))
    torch.testing.assert_close(copied.record(images)[1]["gate.0"], expected.detach())
    assert list(prepare(Heads()).layers) == ["conv1", "conv2"]
    assert list(prepare(Positions()).layers) == ["conv"]


@pytest.mark.parametrize(("shape", "patches", "expected"), LAYOUTS)
def test_layouts(shape, patches, expected):
    values = torch.rand(shape)
    maps = maps_of_hidden(values, patches)
    assert maps.shape == expected
    assert set(maps.flatten().tolist()) <= set(values.flatten().tolist())
