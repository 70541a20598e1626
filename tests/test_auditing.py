"""The whole audit on a tiny network and synthetic images: what it writes, and that it survives."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from advlens import L2, AuditSettings, DataError, Linf, ModelError, RunError, SettingsError
from advlens.attacks import Attack, Fgsm, LeastLikely
from advlens.auditing import audit, dissect, passes, rehearsed
from advlens.auditing.naming import distinguish
from advlens.auditing.subjects import Subject
from advlens.datasets import ArrayData
from advlens.files import locked
from advlens.intervals import wilson
from advlens.models import Classifier, load_model, save_weights
from advlens.models.zoo import CIFAR10_CLASSES
from advlens.prepared import prepare
from advlens.runs.folder import Run, read_json
from kills import Killed, killed
from small_runs import (
    CLASSES,
    SYNSETS,
    Rounded,
    audited,
    noise,
    results,
    rows,
    small,
    write_pictures,
)
from unrendered import unrendered

SETTINGS = AuditSettings(
    **{"steps": 2, "sweep_images": 12, "sweep_steps": 2, "neuron_steps": 2, "batch_size": 16},
    **{"top": 0.1, "explained": 4, "points": 2, "baselines": 1, "samples": 2, "generated": 1},
    **{"visualized": 2, "visualization_steps": 2, "inverted": 2, "inversion_steps": 3},
    generation_steps=2,
)
NATURAL = dataclasses.replace(SETTINGS, natural=True)
ONE_STEP = AuditSettings(stages=("accuracy",), fgsm=(), norm=("L2",), steps=1, device="cpu")
OF_ACCURACY = {"accuracy.csv", "accuracy_images.csv", "class_accuracy.csv", "confusion.csv"}
OF_ACCURACY |= {"calibration.csv", "calibration_error.csv"}  # examples need an iterated attack
OTHER_TYPES = [
    ({"models": 3}, "models must be .* or a list of them, not int"),
    ({"models": None}, "models must be .*not NoneType"),
    ({"models": ["cifar10-l2", 3]}, "each model must be .*not int"),
    ({"models": []}, "at least one model"),
    ({"data": torch.zeros(2, 3, 32, 32)}, "data must be .*ArrayData.*not Tensor"),
    ({"data": Path("photos")}, "data must be .*folder:DIR"),
    ({"settings": {"steps": 3}}, r"settings must be advlens.\w+Settings\(…\), not dict"),
]


def images(count: int = 60, synsets: tuple[str, ...] | None = SYNSETS) -> ArrayData:
    return noise(count, synsets=synsets, telling=True)


def network() -> nn.Module:
    first = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU()
    second = nn.Conv2d(6, 8, 3, 2), nn.ReLU()
    return nn.Sequential(*first, *second, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))


def models(*seeds: int) -> list[Classifier]:
    return [small(network, seed=seed) for seed in seeds]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    run = tmp_path_factory.mktemp("audit") / "run"
    with unrendered():
        report = audit(models(0, 1), images(), run, settings=SETTINGS)
    assert report == run / "report.html"
    assert report.stat().st_size > 10_000
    return run


def test_damaged_images_end_a_run_at_once_or_are_left_out_and_listed(tmp_path, monkeypatch):
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
        audit(models(0), spec, run, settings=settings)
    assert [path.name for path in run.iterdir()] == [".lock"]
    settings = dataclasses.replace(settings, skip_damaged=True)
    listed = rows(audited(models(0, 1), spec, run, settings=settings), "skipped")
    assert [row["model"] for row in listed] == ["tiny", "tiny (2)"]
    assert all("07.png" in row["reason"] for row in listed)
    assert {row["n"] for row in rows(run, "accuracy")} == {"29"}
    (note,) = [note for note in read_json(run / "run.json")["notes"] if "damaged" in note]
    assert note.startswith("1 of 30 images of folder data are damaged and were left out of all")
    monkeypatch.setattr(passes, "_pass", None)  # all is finished: the same command computes nothing
    audited(models(0, 1), spec, run, settings=settings)
    assert listed == rows(run, "skipped")


def test_the_tables_have_the_columns_that_others_rely_on_and_the_accuracy_of_a_loop(finished):
    scores = "top1 top1_low top1_high top5 n draws top1_spread settings"
    measures = "lc consis_adv cs1 cs2 lc_corrected consis_adv_fgsm attacked"
    for name, columns in {
        "accuracy": f"model attack norm epsilon steps {scores}",
        "units": f"model layer unit dead {measures}",
        "layers": "model layer units dead top",
    }.items():
        found = list(rows(finished, name)[0])
        assert (found[:5] if name == "layers" else found) == columns.split()
    units = rows(finished, "units")
    assert (len(units), {row["model"] for row in units}) == (2 * (6 + 8), {"tiny", "tiny (2)"})
    pictures = rows(finished, "pictures")
    reached = {(r["model"], r["images"]): r["success"] for r in rows(finished, "consistency")}
    shown = {(row["model"], row["images"]) for row in pictures}
    equal = [m for m, images in shown if images == "equal-success"]
    for name in ("tiny", "tiny (2)"):
        most, main = (float(reached[name, kind]) for kind in ("equal-success", "least-likely"))
        assert (name in equal) == (most > main)
    assert equal
    for row in pictures:
        assert (finished / row["file"]).read_bytes().startswith(b"\x89PNG")
    (model,), data = models(0), images()
    pixels = data.images(range(60)).float() / 255
    attacked = Fgsm(threat=Linf(epsilon=4 / 255))(model, pixels, data.labels)
    top1 = {(r["model"], r["attack"], r["epsilon"]): r["top1"] for r in rows(finished, "accuracy")}
    for name, epsilon, given in (("natural", "0", pixels), ("Fgsm", "0.0156863", attacked)):
        with torch.no_grad():
            share = (model(given).argmax(1) == data.labels).double().mean().item()
        assert float(top1["tiny", name, epsilon]) == pytest.approx(share, abs=1e-5)


def dies(*_: object) -> None:
    raise Killed


@pytest.mark.parametrize("killed_after", [1, 6])
def test_a_killed_run_continues_to_the_same_bytes(finished, tmp_path, monkeypatch, killed_after):
    with killed(monkeypatch, after=killed_after):
        audited(models(0, 1), images(), tmp_path, settings=SETTINGS)
    with monkeypatch.context() as patched:
        patched.setattr(Run, "drop_state", dies)  # when a pass is recorded
        with pytest.raises(Killed):
            audited(models(0, 1), images(), tmp_path, settings=SETTINGS)
    audited(models(0, 1), images(), tmp_path, settings=SETTINGS)
    assert results(tmp_path) == results(finished)
    assert not list((tmp_path / "parts").glob("*.state.*"))


def test_the_same_command_computes_nothing_and_another_is_refused(finished, tmp_path, monkeypatch):
    before = results(finished)
    monkeypatch.setattr(passes, "_pass", None)
    assert results(audited(models(0, 1), images(), finished, settings=SETTINGS)) == before
    with pytest.raises(RunError, match=r"weights or normalization of tiny \(2\) differ; choose"):
        audit(models(0, 2), images(), finished, settings=SETTINGS)
    with locked(tmp_path), pytest.raises(RunError, match="another advlens process"):
        audit(models(0), images(), tmp_path, settings=SETTINGS)


def test_equal_success_takes_the_smallest_radius_that_reaches_it(tmp_path):
    def linear() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(), nn.Flatten(), nn.Linear(432, 3))

    model, data = small(linear, "linear"), images()

    def reached(wanted: float) -> tuple[float, float]:
        settings = dataclasses.replace(
            SETTINGS, success=wanted, neuron_steps=10, neuron_epsilon=1.0, stages=("neurons",)
        )
        table = rows(audited(model, data, tmp_path / str(wanted), settings=settings), "consistency")
        row = next(row for row in table if row["images"] == "equal-success")
        return float(row["epsilon"]), float(row["success"])

    (low_radius, low), (high_radius, high) = reached(0.3), reached(0.9)
    assert low_radius < high_radius
    assert 0.3 <= low < 0.9 <= high
    pixels = data.images(range(60)).float() / 255
    goal = LeastLikely(threat=L2(epsilon=1.0)).goal(model(pixels).detach())
    smaller = LeastLikely(threat=L2(epsilon=high_radius / 1.3), steps=10)
    with torch.no_grad():
        assert goal.reached(model(smaller(model, pixels))).double().mean() < 0.9


def test_the_step_size_of_the_attack_on_the_units_goes_with_its_radius(tmp_path):
    def tables(name: str, step_size: float | None) -> list[dict[str, str]]:
        settings = dataclasses.replace(
            SETTINGS, stages=("neurons",), neuron_epsilon=1.0, neuron_step_size=step_size
        )
        run = audited(models(0), images(), tmp_path / name, settings=settings)
        told = [] if step_size is None else [f"step_size={step_size:g}"]
        found = [row for name in ("units", "consistency", "curves") for row in rows(run, name)]
        assert {row.get("settings", "") for row in found} >= {"", *told}
        return [row | {"settings": ""} for row in found]

    auto = tables("auto", None)
    assert tables("the same", 2.5 * 1.0 / 2) == auto  # at equal success as well
    assert tables("another", 0.25) != auto


def test_natural_accuracy_alone_takes_no_attack(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(Attack, "outcomes", None)
    audited(models(0), images(), tmp_path, settings=NATURAL)
    assert {*results(tmp_path)} == OF_ACCURACY
    assert rows(tmp_path, "accuracy") == rows(finished, "accuracy")[:1]


def test_an_expected_accuracy_outside_the_interval_ends_the_audit_at_once(tmp_path, monkeypatch):
    data, both = images(), models(0, 1)
    pixels = data.images(range(60)).float() / 255
    with torch.no_grad():
        right = [int((model(pixels).argmax(1) == data.labels).sum()) for model in both]
    (low, high), (other, _) = (wilson(count, 60) for count in right)
    with monkeypatch.context() as patch:
        patch.setattr(passes, "_pass", None)
        for expected in ((high + 1e-6,), (low - 1e-6, other)):
            wrong = dataclasses.replace(NATURAL, expect_accuracy=expected)
            found = f"is right on {right[0] / 60:.1%} .* of the 60 images of noise, but"
            with pytest.raises(ModelError, match=f"^tiny {found} {expected[0]:.1%} is expected"):
                audit(both, data, tmp_path, settings=wrong)
        three = dataclasses.replace(NATURAL, expect_accuracy=(0.5, 0.5, 0.5))
        with pytest.raises(SettingsError, match="3 values for 2 models"):
            audit(both, data, tmp_path, settings=three)
    fine = dataclasses.replace(NATURAL, expect_accuracy=(high, other))
    before = results(audited(both, data, tmp_path, settings=fine))
    monkeypatch.setattr(passes, "_pass", None)  # no number depends on what was expected of it
    assert results(audited(both, data, tmp_path, settings=NATURAL)) == before


def test_warnings_are_said_and_kept(tmp_path, capsys):
    mark = "advlens: warning: "
    for _ in range(2):  # a run that is taken up again says them again
        audited(models(0, 1), images(), tmp_path, settings=NATURAL)
        lines = capsys.readouterr().err.splitlines()
        warnings = read_json(tmp_path / "run.json")["warnings"]
        assert [line.removeprefix(mark) for line in lines if line.startswith(mark)] == warnings
        assert {text.partition(" has ")[0] for text in warnings} >= {"tiny", "tiny (2)"}


def test_without_synsets_a_warning_says_how_a_table_settles_the_names(tmp_path):
    table, data = tmp_path / "synsets.csv", images(synsets=None)
    (found,), (stages,) = rehearsed(models(0), data, SETTINGS)
    assert "neurons" in [stage.name for stage in stages]
    (told,) = [text for text in found.warnings if "same-class" in text]
    assert "the class 'cat'" in told
    assert "--synsets" in told
    table.write_text("cat,n02121620\ndog,n02084071\nship,n04194289\n")
    settings = dataclasses.replace(SETTINGS, synsets=table, stages=("neurons",))
    assert "units.csv" in results(audited(models(0), data, tmp_path / "run", settings=settings))
    table.write_text("cat,n02121620\n")
    with pytest.raises(DataError, match=r"for 2 of 3 classes \(dog, ship\);.* --synsets out"):
        audit(models(0), data, tmp_path / "other", settings=settings)
    for wrong, message in (
        (b"cat,n02121620\ncat,n1\n", "two wnids .* cat;"),
        (b"\xff", "in UTF-8"),
    ):
        table.write_bytes(wrong)
        with pytest.raises(DataError, match=message):
            rehearsed(models(0), data, settings)


def test_models_of_one_name_are_told_apart_by_network_folder_or_number():
    network = nn.Identity()
    for specs, names in {
        ("a:f@x/one/w.pt", "a:f@x/two/w.pt"): ["one", "two"],
        ("a:f@x/one/v/w.pt", "a:f@x/two/v/w.pt"): ["one", "two"],
        ("a:f@w.pt", "b:f@w.pt"): ["a:f", "b:f"],
        ("a:f", "a:f"): ["w", "w (2)"],
    }.items():
        classifiers = [Classifier(network, name="w") for _ in specs]
        pairs = zip(specs, classifiers, strict=True)
        distinguish([Subject(*pair, prepare(network)) for pair in pairs])
        assert [classifier.name for classifier in classifiers] == names


def test_a_model_that_fails_on_enlarged_images_names_their_size(tmp_path):
    write_pictures(tmp_path, 2)
    whole = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    with pytest.raises(ModelError, match="have 8 pixels: if the model takes these, add :8 to"):
        rehearsed(whole, f"folder:{tmp_path}", NATURAL)


@pytest.fixture
def trained(tmp_path):
    """The folder of a training: its weights, and a metrics file as the first trainings left it."""
    folder = tmp_path / "trained"
    for name in ("model", "best"):
        save_weights(load_model("resnet20"), folder / f"{name}.safetensors")
    (folder / "metrics.jsonl").write_text(
        '{"epoch": 1, "loss": 1.5, "natural": 0.5, "adversarial": 0.25, "n": 8, "seconds": 9.5}\n'
    )
    return folder


def audit_weights(out: Path, *weights: Path) -> dict[str, Any]:
    data = noise(10, CIFAR10_CLASSES, size=32)
    audit([f"resnet20@{path}" for path in weights], data, out, settings=ONE_STEP)
    return read_json(out / "run.json")


@pytest.mark.usefixtures("no_rendering")
def test_the_training_that_lies_beside_the_weights_is_shown(trained, tmp_path):
    for name in ("model", "best"):
        path = trained / f"{name}.safetensors"
        other = tmp_path / "other" / path.name
        save_weights(load_model("resnet20", seed=1), other)
        record = audit_weights(tmp_path / name, path, other)
        (row,) = rows(tmp_path / name, "training")
        assert record["models"][0]["name"] == row["model"] == "trained"
        assert (row["adversarial"], row["seconds"], row["kept"]) == ("0.25", "9.5", "true")
        assert not [note for note in record["notes"] if "training" in note]
        page = (tmp_path / name / "report.html").read_text(encoding="utf-8")
        assert "trained was trained for 1 epoch; epoch 1 is kept." in page


@pytest.mark.usefixtures("no_rendering")
def test_a_damaged_training_is_left_out_with_a_note_and_other_weights_have_none(trained, tmp_path):
    (trained / "metrics.jsonl").write_text('{"epoch": 1, "loss": "<script>"}\n')
    (trained / "best.safetensors").rename(trained / "pruned.safetensors")
    for name, told in (("model", 1), ("pruned", 0)):
        record = audit_weights(tmp_path / name, trained / f"{name}.safetensors")
        notes = [note for note in record["notes"] if "training" in note]
        assert len(notes) == told
        for note in notes:
            assert note.startswith("The training of trained is not shown: ")
            assert "metrics.jsonl is damaged: loss in line 1" in note
        assert {*results(tmp_path / name)} == OF_ACCURACY
        assert len(rows(tmp_path / name, "accuracy")) == 2


def test_a_model_without_gradients_fails_a_check(tmp_path):
    both = [*models(0), small(lambda: Rounded(*network()), "masked")]
    settings = dataclasses.replace(SETTINGS, stages=("sweep",))
    found = rows(audited(both, images(), tmp_path, settings=settings), "checks")
    checks = {r["model"]: r for r in found if r["check"] == "gradients do not vanish"}
    assert checks["masked"]["passed"] == "false"
    assert checks["masked"]["found"] == "12 of 12 images without a gradient"
    assert checks["tiny"]["passed"] == "true"


class Dark(nn.Module):
    """A class of dark images, and one of all others, which is every random image's."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        dark = self.weight * (0.5 - pixels.flatten(1).amax(dim=1))
        return torch.stack([-dark, dark], dim=1)


@pytest.mark.usefixtures("no_rendering")
def test_images_that_an_attack_cannot_begin_on_are_said(tmp_path, capsys):
    pixels = torch.full((6, 3, 8, 8), 200, dtype=torch.uint8)
    pixels[::2] = 50
    classes, labels = ("light", "dark"), torch.tensor([1, 0, 1, 0, 1, 0])
    data = ArrayData(pixels, name="grey", classes=classes, synsets=None, labels=labels)
    settings = dataclasses.replace(ONE_STEP, attack=("foolbox:BoundaryAttack(epsilon=9, steps=1)",))
    model = small(Dark, "dark", classes=classes, size=8)
    page = audit(model, data, tmp_path, settings=settings).read_text(encoding="utf-8")
    told = "found no image to start from for 3 of 6 images of dark: these count as not attacked"
    assert told in capsys.readouterr().err
    assert told in page
    (row,) = rows(tmp_path, "unattacked")
    assert (row["model"], row["unattacked"], row["n"]) == ("dark", "3", "6")


@pytest.mark.parametrize(("given", "reason"), OTHER_TYPES)
def test_arguments_of_another_type(given, reason, tmp_path):
    for call in (audit, dissect):
        asked: dict[str, Any] = {"models": "cifar10-l2", "data": "sample"} | given
        with pytest.raises(SettingsError, match=reason):
            call(**asked, out=tmp_path / "run")
        assert not (tmp_path / "run").exists()


def test_a_device_and_classes_that_do_not_fit_are_refused_and_a_model_need_be_no_list(tmp_path):
    with pytest.raises(SettingsError, match="no device"):
        audit(models(0), images(), tmp_path, settings=AuditSettings(device="cuda:7"))
    wide = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(432, 5)), name="wide", image_size=12)
    with pytest.raises(DataError, match="3 classes"):
        audit(wide, images(), tmp_path, settings=SETTINGS)
    ((model,), data), few = (models(0), images(20)), dataclasses.replace(ONE_STEP, images=2)
    one = audited(model, data, tmp_path / "one", settings=ONE_STEP)
    assert results(one) == results(audited([model], data, tmp_path / "list", settings=ONE_STEP))
    text = rows(audited("cifar10-l2", "sample", tmp_path / "text", settings=few), "accuracy")
    assert {row["model"] for row in text} == {"cifar10-l2"}


class Twice(nn.Module):
    """Returns its classifier's logits in another order, and as they are."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.inner(x)
        return logits.flip(1), logits


def test_a_module_has_the_head_that_the_settings_name(tmp_path):
    (model,) = models(0)
    with unrendered():
        audit(model, images(), tmp_path / "one", settings=NATURAL)
        settings = dataclasses.replace(NATURAL, head="1")
        audit(Twice(model), images(), tmp_path / "two", settings=settings)
    one, two = (rows(tmp_path / name, "accuracy_images")[0]["right"] for name in ("one", "two"))
    assert one == two
    settings = dataclasses.replace(NATURAL, head="9")
    with pytest.raises(ModelError, match="9"):
        audit(Twice(model), images(), tmp_path / "three", settings=settings)
