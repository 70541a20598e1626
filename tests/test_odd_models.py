"""Whole audits of unusual models: a result, or one sentence before the computing."""

import warnings

import pytest
import torch
from torch import Tensor, nn

import advlens
from advlens import AdvlensError, AuditSettings
from advlens.datasets import ArrayData
from small_runs import CLASSES, SYNSETS, convolution, noise, unreported

ONES = """steps sweep_steps neuron_steps baselines visualized visualization_steps inversion_steps
    generated generation_steps"""
SIZES = {"sweep_images": 6, "batch_size": 8, "top": 0.2, "explained": 2, "points": 2, "samples": 2}
SETTINGS = AuditSettings(**dict.fromkeys(ONES.split(), 1), **SIZES, inverted=2, device="cpu")


def images(height: int = 12, width: int = 12) -> ArrayData:
    pixels, labels = noise(18, size=max(height, width)).pixels, torch.arange(18) % 3
    given = {"name": "noise", "classes": CLASSES, "synsets": SYNSETS, "labels": labels}
    return ArrayData(pixels[:, :, :height, :width].contiguous(), **given)


def small(outputs: int = 3) -> nn.Sequential:
    torch.manual_seed(0)
    return convolution(4, 1, outputs).eval()


class Masked(nn.Module):  # never predicts its last class, which is the true one of some images
    def __init__(self) -> None:
        super().__init__()
        self.network = small()

    def forward(self, pixels: Tensor) -> Tensor:
        return self.network(pixels) + torch.tensor([0, 0, -torch.inf])


class Means(nn.Module):
    def forward(self, pixels: Tensor) -> Tensor:
        return pixels.mean((2, 3))


class TwoInputs(nn.Module):
    def forward(self, pixels: Tensor, mask: Tensor) -> Tensor:
        return (pixels * mask).mean((2, 3))


class Flat(nn.Module):  # for images of 12×20 pixels
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolution, self.linear = nn.Conv2d(3, 4, 3), nn.Linear(4 * 10 * 18, 3)

    def forward(self, pixels: Tensor) -> Tensor:
        features = self.convolution(pixels).relu()
        return self.linear(features.view(features.size(0), -1))


def quantized() -> nn.Module:
    from torch.ao import quantization as ao

    if "fbgemm" not in torch.backends.quantized.supported_engines:
        pytest.skip("this processor has no kernels for quantized convolutions")
    network = nn.Sequential(ao.QuantStub(), *small(), ao.DeQuantStub()).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated, and in use
        network.qconfig = ao.get_default_qconfig("fbgemm")
        observed = ao.prepare(network)
        observed(torch.rand(8, 3, 12, 12))
        return ao.convert(observed)


ODD = {  # the model, the size of its images, the tables that are not made
    "a masked class": (Masked, (12, 12), set()),
    "double": (lambda: small().double(), (12, 12), set()),
    "half": (lambda: small().half(), (12, 12), set()),
    "not square": (Flat, (12, 20), set()),
    "no parameters": (Means, (12, 12), {"units", "inversion"}),
    "quantized": (quantized, (12, 12), {"units", "inversion", "attribution"}),
}


@pytest.mark.parametrize("name", ODD)
def test_an_audit_measures_what_there_is(name, tmp_path):
    model, shape, lacks = ODD[name]
    with warnings.catch_warnings(), unreported():
        warnings.filterwarnings("ignore", message=".*TypedStorage is deprecated")
        network, data = model().eval(), images(*shape)
        advlens.audit([network], data, tmp_path, settings=SETTINGS)
    run = advlens.read_run(tmp_path)
    assert {"units", "inversion", "attribution"} - set(run.tables) == lacks
    with torch.no_grad():
        pixels = data.images(range(18)).float() / 255
        dtype = next((p.dtype for p in network.parameters()), torch.float32)
        right = (network(pixels.to(dtype)).argmax(dim=1) == data.labels).double().mean().item()
    natural = next(row for row in run.rows("accuracy") if row["attack"] == "natural")
    assert natural["top1"] == pytest.approx(right, abs=1e-6)


REFUSED = {
    r"to have 1 channels, but got 3 channels instead\); it must ta": lambda: nn.Conv2d(1, 3, 3),
    r"missing 1 required positional argument: 'mask'\); it must take pixels in": TwoInputs,
    r"returns \(1,\) for one image, but noise has 3 classes": lambda: small(outputs=1),
    r"returns \(4, 10, 10\) for one image, but noise has 3 classes": lambda: small()[:1],
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_what_cannot_be_audited_is_refused_before_the_run(sentence, tmp_path):
    with pytest.raises(AdvlensError, match=sentence):
        advlens.audit([REFUSED[sentence]()], images(), tmp_path, settings=SETTINGS)
    assert not (tmp_path / "run.json").exists()
