"""Features: torch-fidelity's from the same weights, a classifier's own; no file is trusted."""

import math
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torch_fidelity.feature_extractor_inceptionv3 as fidelity
from safetensors.torch import save_file
from torch import Tensor, nn
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

from advlens import CheckpointError, Classifier, DataError, ModelError, load_data
from advlens.fid import inception
from advlens.fid.distances import FeatureStatistics, fid
from advlens.fid.inception import Inception, content, fetch_inception, read_inception, tf1_resize
from advlens.fid.representations import Representation, Source

LAYERS = ("192", "2048")
OTHERS = [
    (lambda s: s.pop("a.bn.bias"), "a.bn.bias is missing, not"),
    (lambda s: s.update(b=torch.ones(3)), r"b is \(3,\), not of this network"),
    (lambda s: s.update({"a.bn.bias": torch.ones(3)}), r"a.bn.bias is \(3,\), not \(2,\)"),
    (lambda s: s.update({"a.bn.bias": torch.zeros(2)}), "other weights"),
    (lambda s: s.update({"a.bn.bias": torch.ones(2).double()}), "other weights"),
    (lambda s: s.update({"a.bn.bias": torch.ones(2) * math.nan}), "other weights"),
]


def random_state() -> dict[str, Tensor]:
    """Weights at which activations neither vanish nor explode."""
    random, state = torch.Generator().manual_seed(0), {}
    for name, shape in inception.inception_shapes().items():
        noise = torch.randn(shape, generator=random)
        if len(shape) == 4:
            state[name] = noise * math.sqrt(2 / math.prod(shape[1:]))
        elif name.endswith(("bn.weight", "running_var")):
            state[name] = noise.mul(0.1).exp()
        else:
            state[name] = noise * 0.1
    return state


def whole(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """With the classifier and the counters that pytorch-fid's file has."""
    names = [name.replace("running_var", "num_batches_tracked") for name in state]
    counters = {name: torch.tensor(0) for name in set(names) - state.keys()}
    classifier = {"fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}
    return {**state, **counters, **classifier}


def oracle(state: dict[str, Tensor]) -> fidelity.FeatureExtractorInceptionV3:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fidelity, "load_state_dict_from_url", lambda *_, **__: whole(state))
        return fidelity.FeatureExtractorInceptionV3("inception", list(LAYERS))


def ours(**settings: object) -> Inception:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inception, "read_inception", lambda _: random_state())
        return Inception(Path(), **settings)


@pytest.fixture(scope="module")
def first() -> Inception:
    return ours(layers=["192"])


@pytest.fixture(scope="module")
def weights() -> Path:
    path = os.environ.get("ADVLENS_INCEPTION")
    if not path:
        pytest.skip("ADVLENS_INCEPTION does not name the FID Inception-v3's weights")
    return Path(path)


def distances(found: Tensor, expected: Tensor, source: Source) -> tuple[float, float]:
    """Between the first half of the images and the second: ours, and torch-fidelity's."""
    moments = []
    for half in found.split(len(found) // 2):
        seen = FeatureStatistics(source)
        seen.update(half)
        moments.append(seen.compute())
    oracles = [fid_features_to_statistics(half) for half in expected.split(len(found) // 2)]
    theirs = fid_statistics_to_metric(*oracles, verbose=False)["frechet_inception_distance"]
    return fid(*moments).value, theirs


def noise(n: int, height: int, width: int) -> Tensor:
    shape = (n, 3, height, width)
    return torch.randint(256, shape, generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


@pytest.mark.parametrize("size", [(32, 32), (128, 128), (299, 299), (400, 31)])
def test_resize_equals_torch_fidelitys(size: tuple[int, int]) -> None:
    images = noise(2, *size).float()
    expected = interpolate_bilinear_2d_like_tensorflow1x(images, (299, 299), align_corners=False)
    assert torch.equal(tf1_resize(images, 299), expected)


def test_resize_equals_its_formula() -> None:
    image = torch.rand(5, 7, dtype=torch.float64)
    expected = torch.zeros(11, 11, dtype=torch.float64)
    for i in range(11):
        for j in range(11):
            y, x = i * 5 / 11, j * 7 / 11
            for row in range(5):
                for column in range(7):
                    # a tent around each pixel; beyond the last it is constant
                    down = max(0.0, 1 - abs(min(y, 4.0) - row))
                    right = max(0.0, 1 - abs(min(x, 6.0) - column))
                    expected[i, j] += down * right * image[row, column]
    np.testing.assert_allclose(tf1_resize(image.expand(1, 3, 5, 7), 11)[0, 2], expected, atol=1e-6)


def test_random_features_and_distances_equal_torch_fidelitys(first) -> None:
    network, images = ours(batch_size=3), noise(4, 128, 128)
    found = network(images.float() / 255)
    for layer, expected in zip(LAYERS, oracle(random_state())(images), strict=True):
        assert found[layer].shape == (4, int(layer))
        assert found[layer].dtype == torch.float32
        assert expected.std() > 0.01
        np.testing.assert_allclose(found[layer], expected, rtol=1e-4, atol=1e-4 * expected.std())
        if layer == "192":  # their eigenvalues of 2048 features take a while
            value, theirs = distances(found[layer], expected, network.sources[layer])
            assert value == pytest.approx(theirs, rel=1e-3)
    assert torch.equal(first(images.float() / 255)["192"], found["192"])
    source = network.sources["2048"]
    text = "FID Inception-v3 (2015-12-05), layer 2048, images resized bilinearly to 299×299 by"
    assert str(source).startswith(text)
    assert (source.dimension, source.weights) == (2048, content(random_state()))


def test_one_layer_computes_nothing_behind_it_of_pixels_as_in_a_png(first):
    assert list(first.sources) == ["192"]
    assert not [name for name, _ in first._network.named_modules() if "Mixed" in name]
    assert list(first(torch.zeros(1, 3, 8, 8))) == ["192"]

    def settings() -> list[object]:
        cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
        return [cudnn.enabled, cudnn.deterministic, cudnn.allow_tf32, matmul.fp32_precision]

    before = settings()
    first(torch.zeros(1, 3, 8, 8))
    assert settings() == before
    images = noise(1, 32, 32).float() / 255
    assert torch.equal(first(images)["192"], first((images + 0.4 / 255).clamp(0, 1))["192"])
    for wrong in (torch.full((1, 3, 8, 8), 2.0), torch.zeros(1, 1, 8, 8)):
        with pytest.raises(DataError, match="images must"):
            first(wrong)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """A network of two tensors in place of the Inception-v3, whose values are the right ones."""
    state = {"a.conv.weight": torch.arange(6.0).view(2, 3), "a.bn.bias": torch.ones(2)}
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    monkeypatch.setattr(inception, "inception_shapes", lambda: shapes)
    monkeypatch.setattr(inception, "CONTENT_SHA256", content(state))
    return state


@pytest.mark.parametrize("legacy", [False, True])
def test_pytorch_fids_file(small, tmp_path: Path, monkeypatch, legacy: bool) -> None:
    """By the SHA-256 of the file, whatever its tensors; classifier and counters are left out."""
    path = tmp_path / "weights.pth"
    extra = {"fc.weight": torch.ones(4), "a.bn.num_batches_tracked": torch.tensor(3)}
    other = {name: tensor + 1 for name, tensor in small.items()}
    torch.save({**other, **extra}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(CheckpointError, match="other weights"):
        read_inception(path)
    monkeypatch.setattr(inception, "URL_SHA256", inception.sha256(path))
    found = read_inception(path)
    assert found.keys() == small.keys()
    assert all(torch.equal(found[name], other[name]) for name in small)


def test_files_that_are_not_there_and_local_ones_in_any_format(small, tmp_path):
    with pytest.raises(CheckpointError, match=r"no .*none\.pth; fetch it with"):
        read_inception(tmp_path / "none.pth")
    with pytest.raises(CheckpointError, match=r"6726825d\.pth or .*safetensors; fetch it with"):
        read_inception(tmp_path)
    archive, to = tmp_path / "mine.safetensors", tmp_path / "to"
    save_file(small, archive)
    path = fetch_inception(to, archive)
    assert path == to / "fid-inception-2015-12-05.safetensors" == to / inception.NAMES[path.suffix]
    assert path.read_bytes() == archive.read_bytes()
    assert fetch_inception(to) == path  # nothing is downloaded
    for given in (path, to):
        assert read_inception(given).keys() == small.keys()


class Payload:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize(("change", "message"), OTHERS)
def test_other_networks(small: dict[str, Tensor], tmp_path: Path, change, message: str) -> None:
    change(small)
    path = tmp_path / "weights.safetensors"
    save_file(small, path)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_inception(path)
    assert str(path) in str(caught.value)
    assert "advlens data inception --to DIR" in str(caught.value)


@pytest.mark.parametrize("kind", ["pickle", "state", "legacy", "text"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_nothing_in_a_file_is_executed(tmp_path: Path, kind: str, suffix: str) -> None:
    path, sentinel = tmp_path / f"weights{suffix}", tmp_path / "executed"
    payload = Payload(sentinel)
    if kind == "pickle":
        path.write_bytes(pickle.dumps(payload))
    elif kind == "text":
        path.write_text("not a weights file")
    else:
        state, zipped = {"Conv2d_1a_3x3.conv.weight": payload}, kind == "state"
        torch.save(state, path, _use_new_zipfile_serialization=zipped)
    for read in (Inception, lambda path: fetch_inception(tmp_path / "to", path)):
        with pytest.raises(CheckpointError, match="weights"):
            read(path)
    assert not sentinel.exists()
    assert not (tmp_path / "to").exists()


def test_a_download_is_pinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(inception, "fetch", lambda *a, **k: asked.append((a, k)) or a[1])
    path = fetch_inception(tmp_path)
    assert path == tmp_path / "pt_inception-2015-12-05-6726825d.pth"
    ((url, to), pins) = asked[0]
    assert to == path
    assert url.startswith("https://github.com/mseitzer/pytorch-fid/releases/")
    # torch.hub's names end in the first digits of the SHA-256
    assert url.endswith(f"-{pins['sha256'][:8]}.pth")
    assert (len(pins["sha256"]), pins["size"]) == (64, 95_628_359)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("scale", [1, 4])
def test_real_features_and_distances_equal_torch_fidelitys(weights: Path, scale: int) -> None:
    """32 pictures of the packaged sample, at 32 and 128 pixels."""
    network, theirs = Inception(weights), oracle(read_inception(weights))
    pictures = load_data("sample").images(range(32)).float() / 255
    pictures = pictures.repeat_interleave(scale, dim=2).repeat_interleave(scale, dim=3)
    found, expected = network(pictures), theirs((pictures * 255).round().byte())
    for layer, values in zip(LAYERS, expected, strict=True):
        np.testing.assert_allclose(found[layer], values, atol=1e-4)
        value, oracles = distances(found[layer], values, network.sources[layer])
        assert value == pytest.approx(oracles, rel=1e-3)


@pytest.fixture
def classifier() -> Classifier:
    torch.manual_seed(0)
    layers = nn.Sequential(
        *(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)),
    )
    return Classifier(layers, name="tiny", mean=[0.5] * 3, image_size=8, weights="ab").eval()


@pytest.mark.parametrize("size", [8, 20])
def test_features(classifier: Classifier, size: int) -> None:
    classifier.double()
    images = torch.rand(5, 3, size, size, dtype=torch.float64)
    found = Representation(classifier, batch_size=2)(images)["representation"]
    resized = F.interpolate(images, (8, 8), mode="bilinear", antialias=True)
    with torch.no_grad():
        expected = classifier.network[:-1](resized - 0.5)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_features_are_named_and_refusals(classifier):
    (source,) = Representation(classifier).sources.values()
    assert (source.dimension, source.weights) == (6, "ab")
    words = "tiny, layer representation, images resized bilinearly with antialiasing to 8×8"
    assert str(source) == words
    with pytest.raises(DataError, match=r"\[0, 1\]"):
        Representation(classifier)(torch.full((1, 3, 8, 8), 2.0))
    classifier.network = classifier.network[:-1]
    with pytest.raises(ModelError, match="no linear layer"):
        Representation(classifier)
