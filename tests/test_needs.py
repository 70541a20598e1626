"""What stages need: one that is asked for by name and cannot run is an error."""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from advlens.auditing import audit, dissect, rehearsed
from advlens.auditing.choices import audit_stages
from advlens.auditing.subjects import Subject
from advlens.datasets import ArrayData, load_data
from advlens.errors import DataError, ModelError, SettingsError
from advlens.models import Classifier
from advlens.plugins import STAGES
from advlens.prepared import prepare
from advlens.runs.folder import read_json
from advlens.settings import AuditSettings, DissectSettings
from tiny_broden import write_tiny_broden

CLASSES = ("cat", "dog", "ship")
SYNSETS = ("n02121620", "n02084071", "n04194289")
SMALL = AuditSettings(
    steps=1,
    sweep_images=6,
    sweep_steps=1,
    neuron_steps=1,
    top=0.2,
    explained=2,
    points=2,
    baselines=1,
    samples=4,
    visualized=1,
    visualization_steps=1,
    inverted=2,
    inversion_steps=1,
    generated=1,
    generation_steps=1,
)
ALL = [name for name in STAGES.names if name != "dissection"]


def images(count: int = 24, synsets: tuple[str, ...] | None = SYNSETS) -> ArrayData:
    random = torch.Generator().manual_seed(0)
    return ArrayData(
        torch.randint(0, 256, (count, 3, 12, 12), generator=random, dtype=torch.uint8),
        name="noise",
        classes=CLASSES,
        synsets=synsets,
        labels=torch.arange(count) % 3,
    )


class Line(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.linear = nn.Conv1d(36, 8, 3), nn.Linear(8, 3)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.convolution(images.flatten(1, 2)).relu()
        return self.linear(maps.mean(dim=2))


class Rounded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.network = whole()

    def forward(self, images: Tensor) -> Tensor:
        return self.network((images * 16).round() / 16)


def whole() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)
    )


def mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(432, 8), nn.ReLU(), nn.Linear(8, 3))


def headless() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def model(make: Callable[[], nn.Module], name: str = "tiny") -> Classifier:
    torch.manual_seed(0)
    return Classifier(make(), name=name, classes=CLASSES, image_size=12, resize=12).eval()


def subject(make: Callable[[], nn.Module], data: ArrayData) -> Subject:
    classifier = model(make)
    found = Subject("tiny", classifier, prepare(classifier))
    found.data = data
    found.choose_radii(SMALL)
    if data.synsets is None:
        found.unnamed = "the class 'cat' has 8 senses"
    return found


MISSING = {
    "MLP": (mlp, images(), {"neurons"}, "it has no units"),
    "Conv1d": (Line, images(), {"neurons"}, "it has no units"),
    "no linear layer": (headless, images(), {"visualization", "inversion"}, "has no linear layer"),
    "no gradient": (
        Rounded,
        images(),
        {"attribution", "visualization", "inversion", "generation"},
        "no gradient comes from its output",
    ),
    "no synsets": (whole, images(synsets=None), {"neurons"}, "the class 'cat' has 8 senses"),
    "few images": (whole, images(6), {"generation"}, "noise has no class of 4 images or more"),
}


@pytest.mark.parametrize("case", MISSING)
def test_of_the_default_is_left_out_with_a_warning(case: str) -> None:
    make, data, missing, reason = MISSING[case]
    found = subject(make, data)
    stages = audit_stages(found, SMALL)
    assert [stage.name for stage in stages] == [name for name in ALL if name not in missing]
    (warning,) = found.warnings
    names = re.fullmatch(r"tiny is audited without (.*?): (.*)", warning)
    assert names is not None
    assert set(re.split(", | and ", names[1])) == missing
    assert reason in names[2]


@pytest.mark.parametrize("case", MISSING)
def test_asked_for_by_name_is_an_error(case: str) -> None:
    make, data, missing, reason = MISSING[case]
    kind = DataError if case in ("no synsets", "few images") else ModelError
    for name in missing:
        settings = dataclasses.replace(SMALL, stages=("accuracy", name))
        with pytest.raises(kind, match=f"^the stage {name} cannot run on tiny: .*{reason}"):
            audit_stages(subject(make, data), settings)
    rest = tuple(name for name in ALL if name not in missing)
    found = subject(make, data)
    names = [stage.name for stage in audit_stages(found, dataclasses.replace(SMALL, stages=rest))]
    assert (names, found.warnings) == (list(rest), [])


def test_nothing_is_missing_of_a_whole_model() -> None:
    found = subject(whole, images())
    assert [stage.name for stage in audit_stages(found, SMALL)] == ALL
    assert found.warnings == []


def test_autoattack_comes_last_since_it_takes_hours() -> None:
    made = subject(whole, images())
    settings = dataclasses.replace(SMALL, autoattack=5)
    assert [stage.name for stage in audit_stages(made, settings)] == [*ALL, "autoattack"]


def test_the_default_says_nothing_of_concepts_that_are_not_given() -> None:
    with pytest.raises(SettingsError, match="the stage dissection needs concepts"):
        AuditSettings(stages=("accuracy", "dissection"))
    assert "dissection" in AuditSettings().stages


@pytest.mark.usefixtures("no_rendering")
def test_models_of_which_one_has_no_units_are_audited_side_by_side(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = audit([model(mlp, "flat"), model(whole, "whole")], images(), tmp_path, settings=SMALL)
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
    units = (tmp_path / "results" / "layers.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in units[1:]] == ["whole"]


def test_a_model_without_units_is_not_dissected(tmp_path: Path) -> None:
    data = load_data(f"broden:{write_tiny_broden(tmp_path / 'data')}")
    with pytest.raises(ModelError, match="the stage dissection cannot run on tiny: it has no unit"):
        dissect([flat_for(data.image_shape[1])], data, tmp_path / "run")
    wrong = DissectSettings(layers=("1", "conv9"))
    with pytest.raises(ModelError, match=r"no convolution named '(1|conv9)'"):
        dissect([model(whole)], data, tmp_path / "run", settings=wrong)
    assert not (tmp_path / "run" / "parts" / "identity.json").exists()


def flat_for(size: int) -> Classifier:
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * size * size, 3))
    return Classifier(network, name="tiny", image_size=size, resize=size).eval()


def test_a_rehearsal_refuses_and_tells_what_the_audit_would() -> None:
    (found, _), (stages, _) = rehearsed(
        [model(mlp, "flat"), model(whole, "whole")], images(), SMALL
    )
    assert [stage.name for stage in stages] == [name for name in ALL if name != "neurons"]
    assert found.warnings[0].startswith("flat is audited without neurons")
    named = dataclasses.replace(SMALL, stages=("accuracy", "neurons"))
    with pytest.raises(ModelError, match=r"^the stage neurons cannot run on flat: it has no units"):
        rehearsed(model(mlp, "flat"), images(), named)
