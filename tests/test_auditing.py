"""The whole audit on a tiny network and synthetic images: what it writes, and that it survives."""

import csv
import dataclasses
import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from advlens import auditing as audit_module
from advlens.attacks import Attack, Fgsm, LeastLikely
from advlens.attacks.threat import L2, Linf
from advlens.auditing import audit, passes
from advlens.datasets import ArrayData
from advlens.errors import DataError, ModelError, RunError, SettingsError
from advlens.files import locked
from advlens.intervals import wilson
from advlens.models import Classifier, load_model, save_weights
from advlens.models.zoo import CIFAR10_CLASSES
from advlens.runs.folder import read_json
from advlens.settings import AuditSettings
from kills import killed
from together import FORKSERVER
from unrendered import unrendered

CLASSES = ("cat", "dog", "ship")
SYNSETS = ("n02121620", "n02084071", "n04194289")
SETTINGS = AuditSettings(
    steps=2,
    sweep_images=12,
    sweep_steps=2,
    neuron_steps=2,
    batch_size=16,
    top=0.1,
    explained=4,
    points=2,
    baselines=1,
    samples=2,
    visualized=2,
    visualization_steps=2,
    inverted=2,
    inversion_steps=3,
    generated=1,
    generation_steps=2,
)


def images(count: int = 60, synsets: tuple[str, ...] | None = SYNSETS) -> ArrayData:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 3, 12, 12), generator=generator, dtype=torch.uint8)
    labels = torch.arange(count) % 3
    pixels[torch.arange(count), labels] //= 3  # something to learn
    return ArrayData(pixels, name="noise", classes=CLASSES, synsets=synsets, labels=labels)


def classifier(seed: int = 0, name: str = "tiny") -> Classifier:
    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.Conv2d(3, 6, 3),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 8, 3, 2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 3),
    )
    return Classifier(network, name=name, classes=CLASSES, image_size=12, resize=12).eval()


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def results(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((run / "results").iterdir())}


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves out the figures, which take most of a tiny audit's time."""
    monkeypatch.setattr(audit_module, "write_report", lambda run: run / "report.html")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("audit") / "run"
    with unrendered():
        report = audit([classifier(), classifier(1)], images(), run, settings=SETTINGS)
    assert report == run / "report.html"
    return run


@pytest.mark.usefixtures("no_report")
def test_damaged_images_end_a_run_before_it_begins_or_are_left_out_and_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = images(30)
    for number, label in enumerate(whole.labels.tolist()):
        path = tmp_path / "data" / CLASSES[label] / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(whole.images([number])[0].permute(1, 2, 0).numpy()).save(path)
    bad = tmp_path / "data" / "dog" / "07.png"
    bad.write_bytes(bad.read_bytes()[:100])
    spec, run = f"folder:{tmp_path / 'data'}", tmp_path / "run"
    settings = dataclasses.replace(SETTINGS, stages=("accuracy", "sweep"))
    with pytest.raises(DataError, match=r"1 of 30 images of folder data .*07.png.*--skip-damaged$"):
        audit([classifier()], spec, run, settings=settings)
    assert [path.name for path in run.iterdir()] == [".lock"]
    settings = dataclasses.replace(settings, skip_damaged=True)
    audit([classifier(), classifier(1)], spec, run, settings=settings)
    listed = rows(run / "results" / "skipped.csv")
    assert [row["model"] for row in listed] == ["tiny", "tiny (2)"]
    assert all("07.png" in row["reason"] for row in listed)
    assert {row["n"] for row in rows(run / "results" / "accuracy.csv")} == {"29"}
    (note,) = [note for note in read_json(run / "run.json")["notes"] if "damaged" in note]
    assert note.startswith("1 of 30 images of folder data are damaged and were left out of all")
    monkeypatch.setattr(passes, "_pass", None)  # all is finished: the same command computes nothing
    audit([classifier(), classifier(1)], spec, run, settings=settings)
    assert listed == rows(run / "results" / "skipped.csv")


def test_the_tables_have_the_columns_that_others_rely_on(finished: Path) -> None:
    expected = {
        "accuracy.csv": "model attack norm epsilon steps top1 top1_low top1_high top5 n draws "
        "top1_spread settings",
        "units.csv": "model layer unit dead lc consis_adv cs1 cs2 lc_corrected consis_adv_fgsm",
    }
    for name, columns in expected.items():
        assert list(rows(finished / "results" / name)[0]) == columns.split()
    first = list(rows(finished / "results" / "layers.csv")[0])
    assert first[:5] == ["model", "layer", "units", "dead", "top"]
    units = rows(finished / "results" / "units.csv")
    assert len(units) == 2 * (6 + 8)
    assert {row["model"] for row in units} == {"tiny", "tiny (2)"}
    assert (finished / "report.html").stat().st_size > 10_000


def test_accuracy_equals_a_loop(finished: Path) -> None:
    model, data = classifier(), images()
    pixels = data.images(range(60)).float() / 255
    attacked = Fgsm(threat=Linf(epsilon=4 / 255))(model, pixels, data.labels)
    with torch.no_grad():
        expected = {
            "natural": (model(pixels).argmax(1) == data.labels).double().mean().item(),
            "Fgsm": (model(attacked).argmax(1) == data.labels).double().mean().item(),
        }
    found = {
        row["attack"]: float(row["top1"])
        for row in rows(finished / "results" / "accuracy.csv")
        if row["model"] == "tiny" and row["epsilon"] in ("0", "0.0156863")
    }
    assert found == pytest.approx(expected, abs=1e-5)


def test_pictures_lie_where_the_table_says(finished: Path) -> None:
    pictures = rows(finished / "results" / "pictures.csv")
    assert {row["images"] for row in pictures} == {"real", "adversarial"}
    for row in pictures:
        assert (finished / row["file"]).read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("no_report")
def test_the_same_command_again_computes_nothing(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = results(finished)
    monkeypatch.setattr(passes, "_pass", None)
    audit([classifier(), classifier(1)], images(), finished, settings=SETTINGS)
    assert results(finished) == before


@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize("killed_after", [1, 3, 5, 7])
def test_a_killed_run_continues_to_the_same_bytes(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_after: int
) -> None:
    with killed(monkeypatch, after=killed_after):
        audit([classifier(), classifier(1)], images(), tmp_path, settings=SETTINGS)
    audit([classifier(), classifier(1)], images(), tmp_path, settings=SETTINGS)
    assert results(tmp_path) == results(finished)
    assert not list((tmp_path / "parts").glob("*.state.*"))


def test_another_run_in_the_folder_is_refused(finished: Path) -> None:
    other = dataclasses.replace(SETTINGS, seed=1)
    with pytest.raises(RunError, match=r"seed is 0 there and 1 here; choose another --out"):
        audit([classifier(), classifier(1)], images(), finished, settings=other)
    with pytest.raises(RunError, match=r"weights or normalization of tiny \(2\) differ; choose"):
        audit([classifier(), classifier(2)], images(), finished, settings=SETTINGS)


def _hold(folder: Path, ready: multiprocessing.Event, leave: multiprocessing.Event) -> None:  # type: ignore[valid-type]
    with locked(folder):
        ready.set()
        leave.wait(30)


def test_a_second_process_is_told_at_once(tmp_path: Path) -> None:
    ready, leave = FORKSERVER.Event(), FORKSERVER.Event()
    other = FORKSERVER.Process(target=_hold, args=(tmp_path, ready, leave))
    other.start()
    assert ready.wait(60)
    try:
        with pytest.raises(RunError, match="another advlens process"):
            audit([classifier()], images(), tmp_path, settings=SETTINGS)
    finally:
        leave.set()
        other.join()


@pytest.mark.usefixtures("no_report")
def test_equal_success_takes_the_smallest_radius_that_reaches_it(tmp_path: Path) -> None:
    torch.manual_seed(0)
    linear = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(), nn.Flatten(), nn.Linear(432, 3))
    model = Classifier(linear, name="linear", classes=CLASSES, image_size=12, resize=12).eval()

    def reached(wanted: float) -> tuple[float, float]:
        settings = dataclasses.replace(
            SETTINGS, success=wanted, neuron_steps=10, neuron_epsilon=1.0, stages=("neurons",)
        )
        audit([model], images(), tmp_path / str(wanted), settings=settings)
        table = rows(tmp_path / str(wanted) / "results" / "consistency.csv")
        row = next(row for row in table if row["images"] == "equal-success")
        return float(row["epsilon"]), float(row["success"])

    low_radius, low = reached(0.3)
    high_radius, high = reached(0.9)
    assert low_radius < high_radius
    assert 0.3 <= low < 0.9 <= high

    data = images()
    pixels = data.images(range(60)).float() / 255
    goal = LeastLikely(threat=L2(epsilon=1.0)).goal(model(pixels).detach())
    smaller = LeastLikely(threat=L2(epsilon=high_radius / 1.3), steps=10)
    with torch.no_grad():
        assert goal.reached(model(smaller(model, pixels))).double().mean() < 0.9


@pytest.mark.usefixtures("no_report")
def test_without_synsets_the_rest_is_measured_and_the_gap_is_said(tmp_path: Path) -> None:
    audit([classifier()], images(synsets=None), tmp_path, settings=SETTINGS)
    assert not (tmp_path / "results" / "units.csv").exists()
    warnings = read_json(tmp_path / "run.json")["warnings"]
    (left_out,) = [text for text in warnings if text.startswith("tiny is audited without neurons")]
    assert "the class 'cat'" in left_out
    assert "--synsets" in left_out


@pytest.mark.usefixtures("no_report")
def test_the_step_size_of_the_attack_on_the_units_goes_with_its_radius(tmp_path: Path) -> None:
    def tables(name: str, step_size: float | None) -> dict[str, bytes]:
        settings = dataclasses.replace(
            SETTINGS, stages=("neurons",), neuron_epsilon=1.0, neuron_step_size=step_size
        )
        audit([classifier()], images(), tmp_path / name, settings=settings)
        return results(tmp_path / name)

    auto = tables("auto", None)
    assert tables("the same", 2.5 * 1.0 / 2) == auto  # at equal success as well
    assert tables("another", 0.25) != auto


@pytest.mark.usefixtures("no_report")
def test_natural_accuracy_alone_takes_no_attack(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Attack, "outcomes", None)
    settings = dataclasses.replace(SETTINGS, natural=True)
    audit([classifier()], images(), tmp_path, settings=settings)
    assert list(results(tmp_path)) == ["accuracy.csv"]
    (row,) = rows(tmp_path / "results" / "accuracy.csv")
    assert row == rows(finished / "results" / "accuracy.csv")[0]


def test_an_expected_accuracy_outside_the_interval_ends_the_audit_before_its_first_attack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels, labels = images().images(range(60)).float() / 255, images().labels
    with torch.no_grad():
        right = [int((classifier(s)(pixels).argmax(1) == labels).sum()) for s in (0, 1)]
    (low, high), (other, _) = (wilson(count, 60) for count in right)
    settings = dataclasses.replace(SETTINGS, natural=True)
    models = [classifier(), classifier(1)]
    monkeypatch.setattr(audit_module, "write_report", lambda run: run / "report.html")
    with monkeypatch.context() as patch:
        patch.setattr(passes, "_pass", None)
        for expected in ((high + 1e-6,), (low - 1e-6, other)):
            wrong = dataclasses.replace(settings, expect_accuracy=expected)
            found = f"is right on {right[0] / 60:.1%} .* of the 60 images of noise, but"
            with pytest.raises(ModelError, match=f"^tiny {found} {expected[0]:.1%} is expected"):
                audit(models, images(), tmp_path, settings=wrong)
        three = dataclasses.replace(settings, expect_accuracy=(0.5, 0.5, 0.5))
        with pytest.raises(SettingsError, match="3 values for 2 models"):
            audit(models, images(), tmp_path, settings=three)
    fine = dataclasses.replace(settings, expect_accuracy=(high, other))
    audit(models, images(), tmp_path, settings=fine)
    before = results(tmp_path)
    monkeypatch.setattr(passes, "_pass", None)  # no number depends on what was expected of it
    audit(models, images(), tmp_path, settings=settings)
    assert results(tmp_path) == before


@pytest.mark.usefixtures("no_report")
def test_warnings_are_said_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def shown() -> list[str]:
        lines = capsys.readouterr().err.splitlines()
        marked = [line for line in lines if line.startswith("advlens: warning: ")]
        return [line.removeprefix("advlens: warning: ") for line in marked]

    settings = dataclasses.replace(SETTINGS, natural=True)
    for _ in range(2):  # a run that is taken up again says them again
        audit([classifier(), classifier(1)], images(), tmp_path, settings=settings)
        warnings = read_json(tmp_path / "run.json")["warnings"]
        assert shown() == warnings
        assert {text.partition(" has ")[0] for text in warnings} >= {"tiny", "tiny (2)"}


@pytest.mark.usefixtures("no_report")
def test_a_table_of_synsets_settles_the_names(tmp_path: Path) -> None:
    table = tmp_path / "synsets.csv"
    table.write_text("cat,n02121620\ndog,n02084071\nship,n04194289\n")
    settings = dataclasses.replace(SETTINGS, synsets=table, stages=("neurons",))
    audit([classifier()], images(synsets=None), tmp_path / "run", settings=settings)
    assert (tmp_path / "run" / "results" / "units.csv").exists()
    table.write_text("cat,n02121620\n")
    with pytest.raises(DataError, match="no line for class 'dog'"):
        audit([classifier()], images(synsets=None), tmp_path / "other", settings=settings)


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """The folder of a training: its weights, and a metrics file as the first trainings left it."""
    folder = tmp_path / "trained"
    for name in ("model", "best"):
        save_weights(load_model("resnet20"), folder / f"{name}.safetensors")
    (folder / "metrics.jsonl").write_text(
        '{"epoch": 1, "loss": 1.5, "natural": 0.5, "adversarial": 0.25, "n": 8, "seconds": 9.5}\n'
    )
    return folder


def audit_weights(out: Path, *weights: Path) -> dict[str, Any]:
    """Audit resnet20 with these weights on a few images; return run.json."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (10, 3, 32, 32), generator=generator, dtype=torch.uint8)
    data = ArrayData(
        pixels, name="noise", classes=CIFAR10_CLASSES, synsets=None, labels=torch.arange(10)
    )
    settings = AuditSettings(steps=1, fgsm=(), stages=("accuracy",))
    audit([f"resnet20@{path}" for path in weights], data, out, settings=settings)
    return read_json(out / "run.json")


@pytest.mark.usefixtures("no_rendering")
def test_the_training_that_lies_beside_the_weights_is_shown(trained: Path, tmp_path: Path) -> None:
    for name in ("model", "best"):
        path = trained / f"{name}.safetensors"
        other = tmp_path / "other" / path.name
        save_weights(load_model("resnet20", seed=1), other)
        record = audit_weights(tmp_path / name, path, other)
        (row,) = rows(tmp_path / name / "results" / "training.csv")
        assert record["models"][0]["name"] == row["model"] == "trained"
        assert (row["adversarial"], row["seconds"], row["kept"]) == ("0.25", "9.5", "true")
        assert not [note for note in record["notes"] if "training" in note]
        page = (tmp_path / name / "report.html").read_text(encoding="utf-8")
        assert "trained was trained for 1 epoch; epoch 1 is kept." in page


@pytest.mark.usefixtures("no_report")
def test_a_damaged_training_is_left_out_with_a_note(trained: Path, tmp_path: Path) -> None:
    (trained / "metrics.jsonl").write_text('{"epoch": 1, "loss": "<script>"}\n')
    record = audit_weights(tmp_path / "run", trained / "model.safetensors")
    (note,) = [note for note in record["notes"] if "training" in note]
    assert note.startswith("The training of trained is not shown: ")
    assert "metrics.jsonl is damaged: loss in line 1" in note
    assert not (tmp_path / "run" / "results" / "training.csv").exists()
    assert len(rows(tmp_path / "run" / "results" / "accuracy.csv")) == 2


@pytest.mark.usefixtures("no_report")
def test_other_weights_have_no_training(trained: Path, tmp_path: Path) -> None:
    (trained / "model.safetensors").rename(trained / "pruned.safetensors")
    record = audit_weights(tmp_path / "run", trained / "pruned.safetensors")
    assert not (tmp_path / "run" / "results" / "training.csv").exists()
    assert not [note for note in record["notes"] if "training" in note]


def test_wrong_use_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="at least one model"):
        audit([], images(), tmp_path)
    with pytest.raises(SettingsError, match="no device"):
        audit([classifier()], images(), tmp_path, settings=AuditSettings(device="cuda:7"))
    wide = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(432, 5)), name="wide", image_size=12)
    with pytest.raises(DataError, match="3 classes"):
        audit([wide], images(), tmp_path, settings=SETTINGS)


class Rounded(nn.Module):
    """Behind rounded pixels every gradient is 0."""

    def __init__(self) -> None:
        super().__init__()
        self.network = classifier().network

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.network((pixels * 16).round() / 16)
        return logits


@pytest.mark.usefixtures("no_report")
def test_a_model_without_gradients_fails_a_check(tmp_path: Path) -> None:
    masked = Classifier(Rounded(), name="masked", classes=CLASSES, image_size=12, resize=12).eval()
    settings = dataclasses.replace(SETTINGS, stages=("sweep",))
    audit([classifier(), masked], images(), tmp_path, settings=settings)
    checks = {
        row["model"]: row
        for row in rows(tmp_path / "results" / "checks.csv")
        if row["check"] == "gradients do not vanish"
    }
    assert checks["masked"]["found"] == "12 of 12 images without a gradient"
    assert (checks["tiny"]["passed"], checks["masked"]["passed"]) == ("true", "false")


class Dark(nn.Module):
    """A class of dark images, and one of all others, which is every random image's."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        dark = self.weight * (0.5 - pixels.flatten(1).amax(dim=1))
        return torch.stack([-dark, dark], dim=1)


@pytest.mark.usefixtures("no_rendering")
def test_images_that_an_attack_cannot_begin_on_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pixels = torch.full((6, 3, 8, 8), 200, dtype=torch.uint8)
    pixels[::2] = 50
    labels = torch.tensor([1, 0, 1, 0, 1, 0])
    data = ArrayData(pixels, name="grey", classes=("light", "dark"), synsets=None, labels=labels)
    model = Classifier(Dark(), name="dark", classes=("light", "dark"), image_size=8, resize=8)
    settings = AuditSettings(
        stages=("accuracy",),
        fgsm=(),
        steps=1,
        attack=("foolbox:BoundaryAttack(epsilon=9, steps=1)",),
    )
    page = audit(model, data, tmp_path, settings=settings).read_text(encoding="utf-8")
    told = "found no image to start from for 3 of 6 images of dark: these count as not attacked"
    assert told in capsys.readouterr().err
    assert told in page
    (row,) = rows(tmp_path / "results" / "unattacked.csv")
    assert (row["model"], row["unattacked"], row["n"]) == ("dark", "3", "6")


def test_one_model_or_a_list_of_them(tmp_path: Path, no_report: None) -> None:
    settings = AuditSettings(stages=("accuracy",), fgsm=(), steps=1, device="cpu")
    data = images(20)
    audit(classifier(), data, tmp_path / "one", settings=settings)
    audit([classifier()], data, tmp_path / "list", settings=settings)
    audit(
        "cifar10-l2", "sample", tmp_path / "text", settings=dataclasses.replace(settings, images=2)
    )
    assert results(tmp_path / "one") == results(tmp_path / "list")
    assert {row["model"] for row in rows(tmp_path / "text" / "results" / "accuracy.csv")} == {
        "cifar10-l2"
    }


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"models": 3}, "models must be .* or a list of them, not int"),
        ({"models": None}, "models must be .*not NoneType"),
        ({"models": ["cifar10-l2", 3]}, "each model must be .*not int"),
        ({"models": []}, "at least one model"),
        ({"data": torch.zeros(2, 3, 32, 32)}, "data must be .*ArrayData.*not Tensor"),
        ({"data": Path("photos")}, "data must be .*folder:DIR"),
        ({"settings": {"steps": 3}}, r"settings must be advlens.\w+Settings\(…\), not dict"),
    ],
)
def test_arguments_of_another_type_are_refused(
    given: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    for call in (audit, audit_module.dissect):
        asked: dict[str, Any] = {"models": "cifar10-l2", "data": "sample"} | given
        with pytest.raises(SettingsError, match=reason):
            call(**asked, out=tmp_path / "run")
        assert not (tmp_path / "run").exists()
