"""models.sources: torchvision, timm and Places365, as their own libraries describe them."""

import sys

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models import vgg

from advlens.errors import CheckpointError, ModelError, SettingsError
from advlens.models import imagenet_classes, list_models, load_model, places365_classes
from advlens.models.sources import torchvision_names


def test_all_classification_networks_of_torchvision_are_listed():
    names = torchvision_names()
    assert {"alexnet", "vit_b_16", "convnext_tiny", "swin_t", "resnext50_32x4d"} < set(names)
    assert not any("mask" in name or "quantized" in name or "raft" in name for name in names)
    assert {f"torchvision:{name}" for name in names} < set(list_models())


@pytest.mark.parametrize(
    ("name", "size", "resize", "interpolation"),
    [
        ("shufflenet_v2_x0_5", 224, 256, "bilinear"),
        ("efficientnet_b0", 224, 256, "bicubic"),
        ("swin_t", 224, 232, "bicubic"),
    ],
)
def test_torchvision_as_its_first_weights_describe_it(name, size, resize, interpolation):
    classifier = load_model(f"torchvision:{name}")
    images = next(iter(torchvision.models.get_model_weights(name))).transforms()
    assert (size, resize) == (images.crop_size[0], images.resize_size[0])
    found = classifier.image_size, classifier.resize, classifier.interpolation
    assert found == (size, resize, interpolation)
    assert classifier.name == name
    assert classifier.mean.flatten().tolist() == pytest.approx(images.mean)
    assert classifier.std.flatten().tolist() == pytest.approx(images.std)
    assert classifier.classes == imagenet_classes()


def test_timm_as_its_configuration_and_tags_describe_it():
    import timm

    classifier = load_model("timm:vit_tiny_patch16_224")
    cfg = timm.get_pretrained_cfg("vit_tiny_patch16_224")
    assert classifier.name == "vit_tiny_patch16_224"
    assert classifier.mean.flatten().tolist() == pytest.approx(cfg.mean) == [0.5] * 3
    assert classifier.std.flatten().tolist() == pytest.approx(cfg.std)
    assert classifier.image_size == cfg.input_size[1] == 224
    assert classifier.resize == int(224 / cfg.crop_pct) == 248
    assert classifier.interpolation == cfg.interpolation == "bicubic"
    assert (classifier.classes, len(classifier.synsets)) == (imagenet_classes(), 1000)
    assert classifier.weights is None
    plain, tagged = load_model("timm:resnet18"), load_model("timm:resnet18.tv_in1k")
    assert (plain.resize, tagged.resize) == (235, 256)
    assert tagged.interpolation == "bilinear"


@pytest.mark.parametrize(
    ("spec", "size", "resize", "classes"),
    [
        ("resnet20:64", 64, 64, 10),
        ("torchvision:shufflenet_v2_x0_5:112", 112, 128, 1000),
        ("timm:vit_tiny_patch16_224:32", 32, 35, 1000),
        ("timm:mobilenetv3_small_050:64", 64, 73, 1000),
        ("timm:vit_small_patch14_dinov2:28", 28, 28, 1000),  # has no classes of its own
        ("places365-resnet18:112", 112, 128, 365),
    ],
)
def test_other_sizes(spec, size, resize, classes):
    classifier = load_model(spec)
    assert (classifier.image_size, classifier.resize) == (size, resize)
    assert classifier(torch.rand(2, 3, size, size)).shape == (2, classes)


def asked(name, num_classes, **given):
    """Stands for a large network of torchvision, one that would normalize by itself."""
    network = nn.Identity()
    network.given, network.transform_input = given, True
    return network


ASKED = [
    *(("vit_b_16:32", {"image_size": 32}), ("vit_b_16", {"image_size": 224})),
    *(("maxvit_t:64", {"input_size": (64, 64)}), ("inception_v3", {"init_weights": True})),
]


@pytest.mark.parametrize(("spec", "given"), ASKED)
def test_what_torchvision_is_asked_for(spec, given, monkeypatch):
    monkeypatch.setattr(torchvision.models, "get_model", asked)
    classifier = load_model(f"torchvision:{spec}")
    assert classifier.network.given == given
    assert classifier.network.transform_input is False  # ours is enough
    assert classifier.mean.flatten().tolist() == [0.5, 0.5, 0.5]
    if spec == "inception_v3":
        assert (classifier.image_size, classifier.resize) == (299, 342)


@pytest.mark.parametrize("spec", ["torchvision:shufflenet_v2_x0_5", "timm:mobilenetv3_small_050"])
def test_as_many_classes_as_the_file_has(spec, tmp_path):
    import timm

    kind, name = spec.split(":")
    build = torchvision.models.get_model if kind == "torchvision" else timm.create_model
    network = build(name, num_classes=7)
    state = {f"module.{k}": v for k, v in network.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "seven.pt")
    classifier = load_model(f"{spec}:32@{tmp_path / 'seven.pt'}")
    images = torch.rand(2, 3, 32, 32)
    normalized = (images - classifier.mean) / classifier.std
    assert torch.equal(classifier(images), network.eval()(normalized))
    assert classifier(images).shape == (2, 7)
    assert (classifier.classes, classifier.synsets) == (None, None)
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="does not fit"):
        load_model(f"{spec}@{tmp_path / 'other.pt'}")


@pytest.fixture
def _small_vgg(monkeypatch) -> None:
    """torchvision's VGG-16 with an eighth of the channels and a narrow classifier."""
    channels = [size if size == "M" else size // 8 for size in vgg.cfgs["D"]]

    def narrow(name: str, num_classes: int) -> nn.Module:
        with torch.device("meta"):  # without values
            network = vgg.vgg16(num_classes=num_classes)
        network.features = vgg.make_layers(channels)
        for place, sizes in ((0, (64 * 49, 8)), (3, (8, 8)), (6, (8, num_classes))):
            network.classifier[place] = nn.Linear(*sizes)
        return network

    monkeypatch.setattr(torchvision.models, "get_model", narrow)


@pytest.mark.usefixtures("_small_vgg")
def test_places365_vgg16_in_both_forms_of_its_names(tmp_path):
    named, classes = load_model("places365-vgg16"), places365_classes()
    assert named.classes == classes == tuple(sorted(set(classes)))
    assert (len(classes), classes[0], classes[-1]) == (365, "airfield", "zen_garden")
    layers = [name for name, _ in named.network.features.named_children()]
    assert layers[:5] == ["conv1_1", "relu1_1", "conv1_2", "relu1_2", "pool1"]
    assert layers[-3:] == ["conv5_3", "relu5_3", "pool5"]
    assert isinstance(named.network.features.conv5_3, nn.Conv2d)
    assert isinstance(named.network.features.pool4, nn.MaxPool2d)
    assert named.network.classifier.fc8a.out_features == 365
    torch.save(named.network.state_dict(), tmp_path / "named.pth")
    names = torchvision.models.get_model("vgg16", num_classes=365).state_dict()
    numbered = dict(zip(names, named.network.state_dict().values(), strict=True))
    torch.save(numbered, tmp_path / "numbered.pth")
    images = torch.rand(1, 3, 32, 32)
    for form in ("named", "numbered"):
        again = load_model(f"places365-vgg16@{tmp_path / form}.pth")
        assert torch.equal(again(images), named(images))
        assert again.classes == classes


@pytest.mark.parametrize(
    ("bias", "weight"),
    [(4000, None), (4000, (4000, 1)), (400, (300, 512)), (0, (0, 512)), (100_001, (100_001, 512))],
    ids=["no weight", "a thin weight", "two numbers", "none", "too many"],
)
def test_weights_that_ask_for_classes_in_vain(bias, weight, tmp_path, monkeypatch):
    """Only the network of 1000 classes is built, and the file does not fit it."""
    built, build = [], torchvision.models.get_model
    monkeypatch.setattr(
        torchvision.models,
        "get_model",
        lambda name, **given: built.append(given["num_classes"]) or build(name, **given),
    )
    tensors = build("resnet18").state_dict() | {"fc.bias": torch.zeros(bias)}
    if weight is None:
        del tensors["fc.weight"]
    else:
        tensors["fc.weight"] = torch.zeros(weight, dtype=torch.int8)
    torch.save(tensors, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=r"fc.bias is \(\d+,\), the network's is \(1000,\)"):
        load_model(f"torchvision:resnet18@{tmp_path / 'w.pt'}")
    assert built == [1000]


def test_places365_wants_its_classes(tmp_path):
    torch.save(torchvision.models.resnet18(num_classes=10).state_dict(), tmp_path / "ten.pt")
    with pytest.raises(CheckpointError, match=r"fc.bias is \(10,\), the network's is \(365,\)"):
        load_model(f"places365-resnet18@{tmp_path / 'ten.pt'}")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("timm:resnet1", "timm:resnet1 is not known; perhaps you meant resnet18.*timm.list_models"),
        ("timm:resnet18.nope", r"timm:resnet18.nope is not known: Invalid pretrained tag \(nope\)"),
        ("timm:hf-hub:a/b", "timm:hf-hub:a/b is not known"),
        ("torchvision:resnet19", "resnet19 is not known; perhaps you meant resnet18.*advlens mode"),
        ("torchvision:fasterrcnn_resnet50_fpn", "is not known"),
        ("torchvision:shufflenet_v2_x0_5.nose", "has no part 'nose'; there are conv1, maxpool"),
        ("resnet20:0", "at least 1 pixel, as in resnet20:64"),
        ("places365-resnet19", "no model named 'places365-resnet19'; perhaps you meant places365"),
    ],
)
def test_unknown_names(spec, message):
    with pytest.raises(SettingsError, match=message):
        load_model(spec)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("timm:vit_small_patch14_dinov2@DEFAULT", "no classifier's weights.*give a file after @"),
        ("torchvision:maxvit_t:64", "cannot build torchvision:maxvit_t: ValueError: Input size"),
    ],
)
def test_what_cannot_be_built(spec, message, monkeypatch):
    import timm

    def small(name, *, create=timm.create_model, **given):
        cfg = timm.get_pretrained_cfg(name)
        return create("vit_tiny_patch16_224", pretrained_cfg=cfg, num_classes=2)

    monkeypatch.setattr(timm, "create_model", small)
    with pytest.raises(ModelError, match=message):
        load_model(spec)


def test_a_network_of_timm_whose_images_are_not_square(monkeypatch):
    import timm

    if "vit_base_patch16_sapiens2" not in timm.list_models():
        pytest.skip("an older timm")
    cfg = timm.get_pretrained_cfg("vit_base_patch16_sapiens2")
    small = timm.create_model("vit_tiny_patch16_224", pretrained_cfg=cfg, num_classes=2)
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: small)
    found = load_model("timm:vit_base_patch16_sapiens2")
    assert (found.image_size, found.image_width) == (1024, 768)
    assert found.resize == int(768 / cfg.crop_pct)


def test_own_weights_of_a_library_fetched_or_not(monkeypatch):
    import timm

    """What is fetched is up to the library; its name is recorded."""
    asked = []

    def create(name, *, pretrained, num_classes, create=timm.create_model):
        asked.append(pretrained)
        return create(name, num_classes=num_classes)

    monkeypatch.setattr(timm, "create_model", create)
    expected = "timm mobilenetv3_small_050.lamb_in1k"
    assert load_model("timm:mobilenetv3_small_050@DEFAULT").weights == expected
    assert asked == [True]

    def offline(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision.models, "get_model", offline)
    monkeypatch.setattr(timm, "create_model", offline)
    for spec in ("torchvision:resnet18@DEFAULT", "timm:resnet18@DEFAULT"):
        with pytest.raises(ModelError, match=r"cannot build .*:resnet18: OSError: no route"):
            load_model(spec)


def test_timm_is_an_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ModelError, match=r"resnet18 needs timm.*pip install 'advlens\[timm\]'"):
        load_model("timm:resnet18")
