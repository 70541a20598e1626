"""models.huggingface: a stand-in with the names of transformers, and tiny models of its own."""

import re
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from advlens import ModelError
from advlens.auditing.subjects import transform_of
from advlens.datasets.decoding import read_image
from advlens.models import imagenet_classes, imagenet_synsets, load_model, save_weights
from advlens.prepared import prepare

HALF, CLIP = [0.5] * 3, [0.48, 0.46, 0.41]
SQUARE = {"height": 32, "width": 32}
NORMALIZED = {"do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True}
NORMALIZED |= {"image_mean": HALF, "image_std": HALF, "resample": 2}
PROCESSORS = {
    # what the processor has, then size, resize, filter and mean
    "squeezed": ({"size": SQUARE}, (32, 32, "bilinear", HALF)),
    "cropped": (
        {"size": {"shortest_edge": 40}, "do_center_crop": True, "crop_size": SQUARE}
        | {"resample": 3, "image_mean": CLIP},
        (32, 40, "bicubic", CLIP),
    ),
    "a share": ({"size": {"shortest_edge": 64}, "crop_pct": 0.875}, (64, 73, "bilinear", HALF)),
    "not square": ({"size": {"height": 32, "width": 48}}, ((32, 48), 32, "bilinear", HALF)),
    "plain": ({"size": SQUARE, "do_normalize": False}, (32, 32, "bilinear", [0] * 3)),
    "no crop": (
        {"size": SQUARE, "do_center_crop": False, "crop_size": {"height": 9, "width": 9}},
        (32, 32, "bilinear", HALF),
    ),
}
REFUSED = {
    "does not make images of one size": {"size": {"longest_edge": 32}},
    "does not scale pixels": {"size": SQUARE, "rescale_factor": 1 / 127.5},
    "does not scale": {"size": SQUARE, "do_rescale": False},
    "Pillow's filter 1": {"size": SQUARE, "resample": 1},
    "another shape": {
        "size": {"height": 40, "width": 48},
        "do_center_crop": True,
        "crop_size": SQUARE,
    },
}


class Network(nn.Module):
    def __init__(self, labels: list[str]) -> None:
        super().__init__()
        self.config = SimpleNamespace(id2label=dict(enumerate(labels)))
        self.conv, self.classifier = nn.Conv2d(3, 4, 3), nn.Linear(4, len(labels))

    def forward(self, pixel_values: Tensor) -> SimpleNamespace:
        pooled = self.conv(pixel_values).relu().mean(dim=(2, 3))
        return SimpleNamespace(loss=None, logits=self.classifier(pooled))


@pytest.fixture
def library(monkeypatch):
    """What the stand-in's models and processors are made of."""
    given = SimpleNamespace(labels=["cat", "dog", "ship"], processor=NORMALIZED | {"size": SQUARE})

    def missing(name: str, **_: object) -> None:
        raise OSError(f"{name} is not a\nmodel")

    def network(*_: object, **__: object) -> Network:
        torch.manual_seed(3)
        return Network(given.labels)

    def processor(name: str) -> SimpleNamespace:
        return SimpleNamespace(to_dict=lambda: given.processor)

    module = ModuleType("transformers")
    module.AutoConfig = SimpleNamespace(from_pretrained=lambda name: name)
    module.AutoImageProcessor = SimpleNamespace(from_pretrained=processor)
    module.AutoModelForImageClassification = SimpleNamespace(
        from_config=network,
        from_pretrained=lambda name, **more: (missing if "none" in name else network)(name, **more),
    )
    monkeypatch.setitem(sys.modules, "transformers", module)
    return given


@pytest.mark.parametrize("kind", PROCESSORS)
def test_images_are_those_of_the_processor(kind, library):
    given, (size, resize, interpolation, mean) = PROCESSORS[kind]
    library.processor = NORMALIZED | given
    found = load_model("hf:someone/tiny-vit")
    height, width = size if isinstance(size, tuple) else (size, size)
    assert (found.image_size, found.image_width) == (height, width)
    assert (found.resize, found.interpolation) == (resize, interpolation)
    assert found.squeeze == ("shortest_edge" not in given["size"])
    assert found.mean.flatten().tolist() == pytest.approx(mean)
    assert (found.name, found.classes, found.synsets) == (
        "tiny-vit",
        ("cat", "dog", "ship"),
        None,
    )
    assert not found.training
    assert found(torch.rand(2, 3, height, width)).shape == (2, 3)
    assert load_model("hf:someone/tiny-vit:96").image_size == 96


@pytest.mark.parametrize("message", REFUSED)
def test_processors_that_do_something_else_are_refused(message, library):
    library.processor = NORMALIZED | REFUSED[message]
    with pytest.raises(ModelError, match=message.strip()):
        load_model("hf:someone/tiny-vit")


def test_classes_and_weights(library, tmp_path):
    library.labels = ["LABEL_0", "LABEL_1"]
    assert load_model("hf:a/b").classes is None
    library.labels = [f"{name}, another word" for name in imagenet_classes()]
    assert load_model("hf:a/b").synsets == imagenet_synsets()
    library.labels = ["one", "two"]
    own = load_model("hf:a/b")
    with torch.no_grad():
        own.network.classifier.weight.mul_(2)
    save_weights(own, tmp_path / "other.safetensors")
    loaded = load_model(f"hf:a/b@{tmp_path}/other.safetensors")
    assert loaded.name == "other"
    assert torch.equal(loaded.network.classifier.weight, own.network.classifier.weight)


def test_what_is_missing_is_named(library, monkeypatch):
    with pytest.raises(ModelError, match="hf:a/none: OSError: a/none is not a model"):
        load_model("hf:a/none")
    with pytest.raises(ModelError, match=r"names the folder \./nowhere, which does not exist"):
        load_model("hf:./nowhere")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ModelError, match=r"needs transformers.*'advlens\[transformers\]'"):
        load_model("hf:a/b")


VIT = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
VIT |= {"intermediate_size": 48, "image_size": 32, "patch_size": 8}
CONVNEXT = {"hidden_sizes": [8, 16, 16, 16], "depths": [1, 1, 1, 1]}
REAL = {
    # the configuration's settings, the processor with its settings, the path of hidden units
    "ViT": (VIT, "ViT", {"size": SQUARE}, r"vit\..*layers?\.\d\.(mlp\.fc1|intermediate\.dense)"),
    "ConvNext": (CONVNEXT, "ConvNext", {"size": {"shortest_edge": 64}}, r"\.pwconv1$"),
    "Dinov2": (VIT | {"use_swiglu_ffn": True}, "CLIP", {"size": {"shortest_edge": 36}}, "mlp"),
}


@pytest.mark.parametrize("kind", REAL)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_real_models_see_what_their_processors_make(kind, tmp_path):
    import transformers

    config, processor, sizes, hidden = REAL[kind]
    labels = {0: "cat", 1: "dog", 2: "ship"}
    torch.manual_seed(0)
    made = getattr(transformers, f"{kind}Config")(**config, id2label=labels)
    network = getattr(transformers, f"{kind}ForImageClassification")(made).eval()
    if processor == "CLIP":
        sizes = sizes | {"crop_size": SQUARE}
    images = getattr(transformers, f"{processor}ImageProcessor")(**sizes)
    network.save_pretrained(tmp_path / "tiny")
    images.save_pretrained(tmp_path / "tiny")
    found = load_model(f"hf:{tmp_path}/tiny")
    pixels = torch.randint(0, 256, (80, 60, 3), dtype=torch.uint8).numpy()
    Image.fromarray(pixels).save(tmp_path / "a.png")
    seen = read_image(tmp_path / "a.png", transform_of(found, False))[None] / 255
    wanted = images(Image.fromarray(pixels), return_tensors="pt")["pixel_values"]
    assert (found.normalized(seen) - wanted).abs().max() < 0.02  # a gray level, by its rounding
    with torch.no_grad():
        torch.testing.assert_close(found(seen), network(found.normalized(seen)).logits)
    assert found.classes == tuple(labels.values())
    prepared = prepare(found, torch.cat([seen, seen.flip(3)]))
    assert len([layer for layer in prepared.layers if re.search(hidden, layer)]) >= 2
    assert re.search(hidden, prepared.last)
