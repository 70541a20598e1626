"""What stages need, and audits of unusual models: a result, or one sentence before."""

import dataclasses
import re
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import advlens
import small_runs
from advlens import (
    AdvlensError,
    AuditSettings,
    Classifier,
    DataError,
    DissectSettings,
    Linf,
    ModelError,
    NumericError,
    Pgd,
    RunError,
    SettingsError,
)
from advlens.auditing import audit, dissect, rehearsed
from advlens.auditing.choices import audit_stages
from advlens.auditing.needs import lacking
from advlens.auditing.subjects import Subject
from advlens.cli import verbs
from advlens.datasets import ArrayData, Transform, load_data
from advlens.plugins import STAGES
from advlens.prepared import prepare
from advlens.runs.folder import read_json
from advlens.similarity import gaussian, nearest_definite
from advlens.wordnet import distance_matrix, similarity_matrix
from advlens.workflows.attacked import store_attack
from advlens.workflows.training import load_images
from small_runs import CLASSES, SYNSETS, Rounded, audited, convolution, noise, results, rows, small
from tiny_broden import write_tiny_broden

SMALL = AuditSettings(
    **{"steps": 1, "sweep_images": 6, "sweep_steps": 1, "neuron_steps": 1, "top": 0.2},
    **{"explained": 2, "points": 2, "baselines": 1, "samples": 4, "generated": 1},
    **{"visualized": 1, "visualization_steps": 1, "inverted": 2, "inversion_steps": 1},
    generation_steps=1,
)
ALL = [name for name in STAGES.names if name != "dissection"]
ONES = """steps sweep_steps neuron_steps baselines visualized visualization_steps inversion_steps
    generated generation_steps"""
SIZES = {"sweep_images": 6, "batch_size": 8, "top": 0.2, "explained": 2, "points": 2, "samples": 2}
SETTINGS = AuditSettings(**dict.fromkeys(ONES.split(), 1), **SIZES, inverted=2, device="cpu")


def images(count: int = 24, synsets: tuple[str, ...] | None = SYNSETS) -> ArrayData:
    return noise(count, synsets=synsets)


class Line(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.linear = nn.Conv1d(36, 8, 3), nn.Linear(8, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(self.convolution(images.flatten(1, 2)).relu().mean(dim=2))


def whole() -> nn.Module:
    return convolution(8, 1, 3)


def mlp(size: int = 12) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * size**2, 8), nn.ReLU(), nn.Linear(8, 3))


def headless() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def pair() -> list[Classifier]:
    return [small(mlp, "flat"), small(whole, "whole")]


def subject(make: Callable[[], nn.Module], data: ArrayData) -> Subject:
    classifier = small(make)
    found = Subject("tiny", classifier, prepare(classifier))
    found.data = data
    found.choose_radii(SMALL)
    if data.synsets is None:
        found.unnamed = "the class 'cat' has 8 senses"
    return found


NO_FEATURES = {"visualization", "inversion"}
GRADIENTS = NO_FEATURES | {"attribution", "generation"}
MISSING = {
    "MLP": (mlp, images(), {"neurons"}, "it has no units"),
    "Conv1d": (Line, images(), {"neurons"}, "it has no units"),
    "no linear layer": (headless, images(), NO_FEATURES, "has no linear layer"),
    "no gradient": (
        *(lambda: Rounded(*whole()), images(), GRADIENTS, "no gradient comes from its output"),
    ),
    "few images": (whole, images(6), {"generation"}, "noise has no class of 4 images or more"),
}


@pytest.mark.parametrize("case", MISSING)
def test_a_default_is_left_out_with_a_warning_and_one_that_is_asked_for_is_an_error(case):
    make, data, missing, reason = MISSING[case]
    rest, found = [name for name in ALL if name not in missing], subject(make, data)
    assert [stage.name for stage in audit_stages(found, SMALL)] == rest
    (warning,) = found.warnings
    names, told = re.fullmatch(r"tiny is audited without (.*?): (.*)", warning).groups()
    assert {*re.split(", | and ", names)} == missing
    assert reason in told
    found.warnings = []
    for name in missing:
        settings = dataclasses.replace(SMALL, stages=("accuracy", name))
        kind = DataError if case == "few images" else ModelError
        with pytest.raises(kind, match=f"^the stage {name} cannot run on tiny: .*{reason}"):
            audit_stages(found, settings)
    stages = audit_stages(found, dataclasses.replace(SMALL, stages=tuple(rest)))
    assert ([stage.name for stage in stages], found.warnings) == (rest, [])


def written(path: Path, matrix: np.ndarray) -> str:
    rows = [[name, *map(repr, row.tolist())] for name, row in zip(CLASSES, matrix, strict=True)]
    path.write_text("\n".join(map(",".join, [["", *CLASSES], *rows])), encoding="utf-8")
    return str(path)


def test_units_are_measured_with_the_similarity_that_is_asked_for(tmp_path):
    known = similarity_matrix(SYNSETS)
    wrong = np.array([[1, 1, 0], [1, 1, 1], [0, 1, 1.0]])
    by_name = written(tmp_path / "known.csv", known)
    runs: dict[str, tuple[list, dict]] = {}
    for name, given, synsets in (
        ("wordnet", None, SYNSETS),
        ("file", by_name, None),
        ("same", "same-class", SYNSETS),
        ("nothing", None, None),
        ("nearest", f"nearest:{written(tmp_path / 'wrong.csv', wrong)}", None),
    ):
        settings = dataclasses.replace(SMALL, stages=("neurons",), similarity=given)
        audited(small(whole), images(synsets=synsets), tmp_path / name, settings=settings)
        record = read_json(tmp_path / name / "run.json")
        runs[name] = rows(tmp_path / name, "units"), record
    assert runs["wordnet"][0] == runs["file"][0] != runs["same"][0] == runs["nothing"][0]
    assert runs["nearest"][0] not in (runs["file"][0], runs["same"][0])
    assert "nearest" in "".join(runs["nearest"][1]["notes"])
    for name, (_, record) in runs.items():
        assert ("same-class" in "".join(record["warnings"])) == (name == "nothing")
    assert runs["file"][1]["settings"]["similarity"].startswith(f"{by_name}, SHA-256 ")
    settings = dataclasses.replace(SMALL, similarity=str(tmp_path / "wrong.csv"))
    with pytest.raises(NumericError, match=r"wrong\.csv has the eigenvalue .*nearest:"):
        rehearsed(small(whole), images(), settings)
    written(tmp_path / "known.csv", known**2)  # the same file with other values is another run
    settings = dataclasses.replace(SMALL, stages=("neurons",), similarity=by_name)
    with pytest.raises(RunError, match="similarity"):
        audited(small(whole), images(synsets=None), tmp_path / "file", settings=settings)
    assert isinstance(lacking(subject(whole, images(synsets=None)), "synsets", SMALL), DataError)


def test_wordnets_similarity_may_be_indefinite_and_its_nearest_is_taken_on_request():
    kinds = ("n01322604", "n02084732", "n02084861", "n02085272")  # of dogs, which come first
    synsets = ("n02084071", *kinds, kinds[0])
    classes = tuple("abcdef")
    network = small(lambda: convolution(6, 1, 6), synsets=synsets, classes=classes)
    data = noise(12, tuple("acde"), synsets=(synsets[0], *kinds[1:]))
    settings = dataclasses.replace(SMALL, stages=("neurons",))
    with pytest.raises(NumericError, match=r"these 5 classes .*--similarity nearest"):
        rehearsed([network], data, settings)
    settings = dataclasses.replace(settings, similarity="nearest")
    ((found,), ((stage,),)) = rehearsed([network], data, settings)
    similarity = stage.similarity.numpy()
    np.testing.assert_array_equal(similarity[1], similarity[5])
    given = gaussian(distance_matrix(synsets[:5]), 1.0)
    assert np.linalg.eigvalsh(given)[0] < -0.01
    np.testing.assert_allclose(similarity[:5, :5], nearest_definite(given), atol=1e-9)
    assert "nearest" in "".join(found.notes)
    unknown = small(lambda: convolution(6, 1, 6), classes=classes)
    with pytest.raises(DataError, match=r"--similarity nearest is that of WordNet: .*'a'"):
        rehearsed([unknown], noise(12, classes), settings)


class Pictures(Dataset):
    def __init__(self, data: ArrayData) -> None:
        self.data, self.classes = data, list(data.classes)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, number: int) -> tuple[Image.Image, int]:
        pixels = self.data.pixels[number].permute(1, 2, 0).numpy()
        return Image.fromarray(pixels), int(self.data.labels[number])


def test_tensors_datasets_and_loaders_are_audited_like_a_data_set(tmp_path):
    data = images(15)
    pixels, labels = data.pixels, data.labels
    given = {
        "bytes": (pixels, labels),
        "floats": (pixels / 255, labels.int()),
        "loader": DataLoader(TensorDataset(pixels / 255, labels), batch_size=4),
        "pictures": DataLoader(Pictures(data), batch_size=4),
    }
    settings = dataclasses.replace(SMALL, stages=("accuracy",))
    audited(small(whole), data, tmp_path / "set", settings=settings)
    for name, other in given.items():
        audited(small(whole), other, tmp_path / name, settings=settings)
        assert results(tmp_path / name)["accuracy.csv"] == results(tmp_path / "set")["accuracy.csv"]
    for wrong, message in (
        ((pixels, labels[:3]), "15 images have 3 labels"),
        ((pixels, labels.tolist()), "must be two tensors"),
        ((pixels.to("meta"), labels), "the images .*no values"),
        ((pixels, labels.to_sparse()), "the labels .*to_dense"),
        ((pixels, labels[0]), "give one for each"),
        (7, "data must be a specification .*not int"),
        ([pixels, labels], "not list"),
    ):
        with pytest.raises(SettingsError, match=message):
            audited(small(whole), wrong, tmp_path / "wrong", settings=settings)
    with pytest.raises(DataError, match="0"):
        audited(small(whole), (pixels / 255 - 0.5, labels), tmp_path / "wrong", settings=settings)
    with pytest.raises(SettingsError, match="which dataset does not have"):
        dissect(small(whole), (pixels, labels), tmp_path / "wrong")


PAPER = dataclasses.replace(SMALL, gaussians="paper")
FROM = "from a Gaussian that is fitted to a class's images, and"
PAIRS = [
    (1, 6, SMALL, ""),
    (1, 5, SMALL, ""),  # two of the first and of the second class
    (3, 3, SMALL, f"{FROM} noise to train on has no class of 2 images or more"),
    (1, 6, PAPER, f"{FROM} noise has no class of 2 images or more"),
    (3, 0, PAPER, f"{FROM} noise has no class of 2 images or more"),
    (4, 0, PAPER, ""),
    (6, 0, SMALL, "to half of a class's images, and noise has no class of 4 images or more"),
]


@pytest.mark.parametrize(("count", "training", "settings", "reason"), PAIRS)
def test_a_gaussian_needs_two_images_and_a_comparison_one(count, training, settings, reason):
    data = small_runs.with_training(images(count), training) if training else images(count)
    error = lacking(subject(whole, data), "pairs", settings)
    assert reason in str(error)
    assert (error is None) == (reason == "")


def test_one_test_image_has_generated_ones_but_no_distance(tmp_path):
    generation = dataclasses.replace(SMALL, stages=("generation",))
    audited(small(whole), small_runs.with_training(images(1), 6), tmp_path, settings=generation)
    assert {row["measure"] for row in rows(tmp_path, "generation")} == {"confidence"}


@pytest.mark.usefixtures("no_rendering")
def test_models_of_which_one_has_no_units_are_audited_side_by_side(tmp_path, capsys):
    page = audit(pair(), images(), tmp_path, settings=SMALL)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "audited without" in line]
    assert line.startswith("advlens: warning: flat is audited without neurons: it has no units")
    assert line.removeprefix("advlens: warning: ") in read_json(tmp_path / "run.json")["warnings"]
    text = page.read_text(encoding="utf-8")
    top = text[text.index('id="read-first"') : text.index('id="accuracy"')]
    assert "flat is audited without neurons" in top
    assert text.count("flat is audited without neurons") == 1
    anchors = re.findall(r'<section id="([a-z-]+)"', text)
    assert anchors.index("accuracy") < anchors.index("neurons") < anchors.index("attributions")
    assert [row["model"] for row in rows(tmp_path, "layers")] == ["whole"]


def test_a_model_without_units_is_not_dissected(tmp_path):
    data = load_data(f"broden:{write_tiny_broden(tmp_path / 'data')}")
    size = data.image_shape[1]
    flat = small(lambda: mlp(size), size=size, classes=None)
    with pytest.raises(ModelError, match="the stage dissection cannot run on tiny: it has no unit"):
        dissect(flat, data, tmp_path / "run")
    wide = Classifier(whole(), name="wide", image_size=(32, 48))
    with pytest.raises(SettingsError, match="has square images, but the model takes 32×48"):
        dissect(wide, f"broden:{tmp_path}/data", tmp_path / "run")
    with pytest.raises(SettingsError, match="wide takes images of 32×48"):
        load_images("sample", wide)
    wrong = DissectSettings(layers=("1", "conv9"))
    with pytest.raises(ModelError, match=r"no convolution named '(1|conv9)'"):
        dissect(small(whole), data, tmp_path / "run", settings=wrong)
    assert not (tmp_path / "run" / "parts" / "identity.json").exists()


def test_a_rehearsal_refuses_and_tells_what_the_audit_would():
    (found, other), (stages, all_stages) = rehearsed(pair(), images(), SMALL)
    assert [stage.name for stage in stages] == [name for name in ALL if name != "neurons"]
    assert found.warnings[0].startswith("flat is audited without neurons")
    assert [stage.name for stage in all_stages] == ALL
    hours = dataclasses.replace(SMALL, autoattack=5)  # which comes last
    assert [stage.name for stage in audit_stages(other, hours)] == [*ALL, "autoattack"]
    assert "dissection" in AuditSettings().stages  # of which nothing is said without concepts
    named = dataclasses.replace(SMALL, stages=("accuracy", "neurons"))
    with pytest.raises(ModelError, match=r"^the stage neurons cannot run on flat: it has no units"):
        rehearsed(pair()[0], images(), named)
    assert not [text for text in other.warnings if "audited without" in text]


def test_images_without_labels_have_what_needs_none(tmp_path):
    model, data = small(whole, synsets=SYNSETS), images()
    for number, pixels in enumerate(data.pixels):
        file = tmp_path / "photos" / str(number % 2) / f"{number:02}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(file)
    spec = f"images:{tmp_path / 'photos'}"
    (subject,), _ = rehearsed([model], spec, SETTINGS)
    order = [*range(0, 24, 2), *range(1, 24, 2)]
    assert torch.equal(subject.data.images(range(24)), data.pixels[order])
    with torch.no_grad():
        predicted = model(data.pixels[order] / 255).argmax(dim=1)
    assert torch.equal(subject.data.labels, predicted)
    run = audited([model], spec, tmp_path / "run", settings=SETTINGS)
    done = {stage["stage"] for stage in read_json(run / "run.json")["stages"]}
    assert done == {"attribution", "visualization", "inversion"}
    warned = " ".join(read_json(run / "run.json")["warnings"])
    assert all(name in warned for name in ("accuracy", "sweep", "neurons", "generation"))
    target = dataclasses.replace(SETTINGS, target="cat", stages=("accuracy",))
    for settings in (dataclasses.replace(SETTINGS, stages=("accuracy",)), target):
        with pytest.raises(DataError, match="has no labels"):
            rehearsed([model], spec, settings)
    few = load_data(spec, transform=Transform(size=12, resize=12)).part(range(6))
    attack = Pgd(threat=Linf(epsilon=0.1), steps=2)
    success, _ = store_attack(model, few, attack, tmp_path / "attacked")
    changed = attack.outcomes(model, data.pixels[order[:6]] / 255, predicted[:6])
    assert success.hits == (changed.argmax(dim=1) != predicted[:6]).sum()


def shaped(height: int = 12, width: int = 12) -> ArrayData:
    pixels, labels = noise(18, size=max(height, width)).pixels, torch.arange(18) % 3
    given = {"name": "noise", "classes": CLASSES, "synsets": SYNSETS, "labels": labels}
    return ArrayData(pixels[:, :, :height, :width].contiguous(), **given)


def odd(outputs: int = 3) -> nn.Sequential:
    torch.manual_seed(0)
    return convolution(4, 1, outputs).eval()


class Masked(nn.Module):  # never predicts its last class, which is the true one of some images
    def __init__(self) -> None:
        super().__init__()
        self.network = odd()

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
    network = nn.Sequential(ao.QuantStub(), *odd(), ao.DeQuantStub()).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated, and in use
        network.qconfig = ao.get_default_qconfig("fbgemm")
        observed = ao.prepare(network)
        observed(torch.rand(8, 3, 12, 12))
        return ao.convert(observed)


ODD = {  # the model, the size of its images, the tables that are not made
    "a masked class": (Masked, (12, 12), set()),
    "double": (lambda: odd().double(), (12, 12), set()),
    "half": (lambda: odd().half(), (12, 12), set()),
    "not square": (Flat, (12, 20), set()),
    "no parameters": (Means, (12, 12), {"units", "inversion"}),
    "quantized": (quantized, (12, 12), {"units", "inversion", "attribution"}),
}


@pytest.mark.parametrize("name", ODD)
def test_an_audit_measures_what_there_is(name, tmp_path):
    model, shape, lacks = ODD[name]
    with warnings.catch_warnings(), small_runs.unreported():
        warnings.filterwarnings("ignore", message=".*TypedStorage is deprecated")
        network, data = model().eval(), shaped(*shape)
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
    r"to have 4 channels, but got 3 channels instead\); it must ta": lambda: nn.Conv2d(4, 3, 3),
    r"missing 1 required positional argument: 'mask'\); it must take pixels in": TwoInputs,
    r"returns \(2,\) for one image, but noise has 3 classes": lambda: odd(outputs=1),
    r"returns \(4, 10, 10\) for one image, but noise has 3 classes": lambda: odd()[:1],
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_what_cannot_be_audited_is_refused_before_the_run(sentence, tmp_path):
    with pytest.raises(AdvlensError, match=sentence):
        advlens.audit([REFUSED[sentence]()], shaped(), tmp_path, settings=SETTINGS)
    assert not (tmp_path / "run.json").exists()


class Hungry(nn.Module):
    """Its gradients take more memory than there is for so many images."""

    most = 0

    def __init__(self) -> None:
        super().__init__()
        self.network = odd()

    def forward(self, images: Tensor) -> Tensor:
        if images.requires_grad and len(images) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return self.network(images)


def test_batches_that_do_not_fit_are_halved(tmp_path, monkeypatch):
    few = dataclasses.replace(SETTINGS, stages=("accuracy", "attribution", "inversion"))
    found = {}
    for most, size in ((8, 18), (100, 4)):
        monkeypatch.setattr(Hungry, "most", most)
        settings = dataclasses.replace(few, batch_size=size, inverted=18)
        run = audited([Hungry().eval()], shaped(), tmp_path / str(size), settings=settings)
        found[size] = small_runs.results(run)
        told = advlens.read_run(run).record["warnings"]
        assert len([text for text in told if "do not fit into the memory of cpu" in text]) == (
            2 if size == 18 else 0
        )
    assert found[18] == found[4]


def test_a_device_without_memory_is_no_bug(monkeypatch, capsys):
    def hungry(command: object, line: str) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2.00 GiB.")

    monkeypatch.setitem(verbs.VERBS, "models", hungry)
    assert verbs.main(["models"]) == 1
    said = capsys.readouterr().err
    assert said == "advlens: out of memory; give a smaller --batch-size (CUDA out of memory.)\n"
