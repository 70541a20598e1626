"""What stages need: one that is asked for by name and cannot run is an error."""

import dataclasses
import re
from collections.abc import Callable

import pytest
from torch import Tensor, nn

from advlens import AuditSettings, Classifier, DataError, DissectSettings, ModelError
from advlens.auditing import audit, dissect, rehearsed
from advlens.auditing.choices import audit_stages
from advlens.auditing.needs import lacking
from advlens.auditing.subjects import Subject
from advlens.datasets import ArrayData, load_data
from advlens.plugins import STAGES
from advlens.prepared import prepare
from advlens.runs.folder import read_json
from small_runs import SYNSETS, Rounded, audited, convolution, noise, rows, small, with_training
from tiny_broden import write_tiny_broden

SMALL = AuditSettings(
    **{"steps": 1, "sweep_images": 6, "sweep_steps": 1, "neuron_steps": 1, "top": 0.2},
    **{"explained": 2, "points": 2, "baselines": 1, "samples": 4, "generated": 1},
    **{"visualized": 1, "visualization_steps": 1, "inverted": 2, "inversion_steps": 1},
    generation_steps=1,
)
ALL = [name for name in STAGES.names if name != "dissection"]


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
    "no synsets": (whole, images(synsets=None), {"neurons"}, "the class 'cat' has 8 senses"),
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
        kind = DataError if case in ("no synsets", "few images") else ModelError
        with pytest.raises(kind, match=f"^the stage {name} cannot run on tiny: .*{reason}"):
            audit_stages(found, settings)
    stages = audit_stages(found, dataclasses.replace(SMALL, stages=tuple(rest)))
    assert ([stage.name for stage in stages], found.warnings) == (rest, [])


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
    data = with_training(images(count), training) if training else images(count)
    error = lacking(subject(whole, data), "pairs", settings)
    assert reason in str(error)
    assert (error is None) == (reason == "")


def test_one_test_image_has_generated_ones_but_no_distance(tmp_path):
    generation = dataclasses.replace(SMALL, stages=("generation",))
    audited(small(whole), with_training(images(1), 6), tmp_path, settings=generation)
    assert {row["measure"] for row in rows(tmp_path, "generation")} == {"confidence"}


@pytest.mark.usefixtures("no_rendering")
def test_models_of_which_one_has_no_units_are_audited_side_by_side(tmp_path, capsys):
    page = audit(pair(), images(), tmp_path, settings=SMALL)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "audited without" in line]
    assert line.startswith("advlens: warning: flat is audited without neurons: it has no units")
    warnings = read_json(tmp_path / "run.json")["warnings"]
    assert line.removeprefix("advlens: warning: ") in warnings
    text = page.read_text(encoding="utf-8")
    top = text[text.index('id="read-first"') : text.index('id="in-short"')]
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
