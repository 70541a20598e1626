"""Accuracy and the sweep of a randomized model beside one that is not, in an audit."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from advlens import L2, Classifier, Linf, SettingsError, Uniform
from advlens.attacks import Attack, Fgsm, GaussianNoise, Pgd
from advlens.auditing import audit, passes, rehearsed, subjects
from advlens.auditing.stages import accuracy
from advlens.datasets import ArrayData
from advlens.interop import make_attack as make_named
from advlens.prepared import prepare
from advlens.report.sections.accuracy import section
from advlens.runs.folder import read_json
from advlens.runs.results import Results
from advlens.settings import AttackSettings, AuditSettings
from advlens.words import attack_name
from advlens.workflows.attacked import chosen_attack
from randomized_network import Live, Shifted
from small_runs import audited, convolution, noise, rows, small

CLASSES = ("cat", "dog", "ship", "frog", "deer", "horse", "bird")
SWEEP = {"sweep_steps": 1, "sweep_images": 14}


def settings(**more) -> AuditSettings:
    return AuditSettings(**{"stages": ("accuracy",), "batch_size": 20, "device": "cpu"} | more)


def classifier(name: str, *, randomized: bool = False) -> Classifier:
    def make() -> nn.Module:
        layers = nn.Conv2d(3, 8, 3, 2), nn.Tanh(), nn.Flatten(), nn.Linear(8 * 5 * 5, 7)
        return Shifted(nn.Sequential(*layers), (0, 3, 5)) if randomized else nn.Sequential(*layers)

    return small(make, name, classes=CLASSES)


def images() -> ArrayData:
    return noise(28, CLASSES)


@pytest.fixture(autouse=True)
def live(monkeypatch):
    """The model itself where it varies, whatever a copy would freeze."""

    def prepared(model: nn.Module):
        return Live(model) if isinstance(model.network, Shifted) else prepare(model)

    monkeypatch.setattr(subjects, "prepare", prepared)


def test_an_audit_tells_draws_and_spread(tmp_path):
    models = [classifier("plain"), classifier("moved", randomized=True)]
    own = ("Pgd(norm=L2, epsilon=.5, steps=2, draws=5)",)
    small = {"norm": ("L2",), "epsilon": 0.5, "steps": 2, "fgsm": (4 / 255,), "draws": 3}
    small["attack"] = own
    asked = settings(stages=("accuracy", "sweep"), **small, **SWEEP)
    audited(models, images(), tmp_path, settings=asked)
    for table, n in (("accuracy", 28), ("sweep", 14)):
        found = rows(tmp_path, table)
        for row in found:
            assert int(row["n"]) == n
            assert float(row["top1_low"]) <= float(row["top1"]) <= float(row["top1_high"])
            varies = row["model"] == "moved"
            assert (row["draws"], row["top1_spread"] != "") == ("3" if varies else "", varies)
            assert (row["top5"] == "") == (table == "sweep" and row["attack"] != "natural")
    assert any(float(row["top1_spread"] or 0) > 0 for row in found)
    assert [row["settings"] for row in rows(tmp_path, "accuracy")] == ["", "", "", "draws=5"] * 2
    passes = [models[1](images().images(range(28)) / 255).softmax(dim=1) for _ in range(3)]
    confidence, guesses = torch.stack(passes).mean(dim=0).max(dim=1)  # of all three shifts
    right = (guesses == images().labels).double().mean().item()
    (error,) = rows(tmp_path, "calibration_error", model="moved", attack="natural")
    wanted = (confidence.mean().item(), right)
    assert (float(error["confidence"]), float(error["accuracy"])) == pytest.approx(wanted, abs=1e-5)
    each = rows(tmp_path, "class_accuracy", model="moved", attack="natural")
    assert sum(int(row["right"]) for row in each) == round(28 * right)
    assert {row["model"] for row in rows(tmp_path, "accuracy_images")} == {"plain"}
    shown = section(Results.read(tmp_path))
    (table, *_) = [b for b in shown.blocks if getattr(b, "file", "") == "accuracy.csv"]
    assert "mean over 3 fresh passes" in table.caption
    header = [column.header for column in table.columns]
    cells = [[column.cell(row) for column in table.columns] for row in table.rows]
    spread = [line[header.index("Spread over draws")] for line in cells]
    assert [line == "–" for line in spread] == [line[1] == "plain" for line in cells]
    assert len({attack_name(row) for row in table.rows}) == 4


def attacks(size: int = 28, **more) -> list[str]:
    """The attacks on images of size², in the words of the report."""
    model = small(lambda: convolution(2, 1, 7), size=size, classes=CLASSES)
    _, ((stage,),) = rehearsed(model, noise(28, CLASSES, size=size), settings(**more))
    return [attack_name(attack.columns()) for attack in stage.attacks]


FGSM = ["FGSM, L∞ ε = 1/255", "FGSM, L∞ ε = 4/255"]


def test_both_norms_are_attacked_at_the_radii_of_the_field():
    assert attacks(95) == [*FGSM, "PGD-20, L∞ ε = 8/255", "PGD-20, L2 ε = 0.5"]
    assert attacks(96) == [*FGSM, "PGD-20, L∞ ε = 4/255", "PGD-20, L2 ε = 1.5"]
    assert attacks(160) == [*FGSM, "PGD-20, L∞ ε = 4/255", "PGD-20, L2 ε = 3"]


def test_norms_and_radii_are_chosen_and_no_attack_is_measured_twice():
    assert attacks(norm=("L2",), epsilon=1.0) == [*FGSM, "PGD-20, L2 ε = 1"]
    several = {"epsilon": (0.5, 0.25, 0.5), "epsilon_linf": (2 / 255, 8 / 255), "steps": 3}
    named = ("Pgd(norm=Linf, epsilon=8/255, steps=3)", "Fgsm(norm=Linf, epsilon=8/255)")
    assert attacks(fgsm=(), attack=named, **several) == [
        *("PGD-3, L∞ ε = 2/255", "PGD-3, L∞ ε = 8/255", "PGD-3, L2 ε = 0.5", "PGD-3, L2 ε = 0.25"),
        "FGSM, L∞ ε = 8/255",
    ]


def test_the_other_stages_take_the_first_l2_radius():
    asked = settings(stages=("sweep",), epsilon=(0.75, 0.5))
    _, ((sweep,),) = rehearsed(classifier("plain"), images(), asked)
    assert sweep.epsilon == 0.75


ABSURD = {
    "PGD-20, L2 ε = 0.0314 leaves images practically as they are": {"epsilon": 8 / 255},
    "PGD-20, L∞ ε = 0.5 is more than a quarter of the way": {"epsilon_linf": 0.5},
    "PGD-20, L2 ε = 6 is more than a quarter of the way": {"epsilon": 6.0},  # √432 / 4 = 5.2
    "PGD-20, L1 ε": {"attack": ("foolbox:L1PGD(epsilon=.001, steps=1)",)},
    "all": {"epsilon": (0.1, 5.0), "epsilon_linf": (1 / 255, 0.25)},
}


@pytest.mark.parametrize("said", ABSURD)
def test_a_radius_that_is_absurd_for_its_norm_is_a_warning(said):
    (subject,), _ = rehearsed(classifier("plain"), images(), settings(**ABSURD[said]))
    expected = " is more " in said or " leaves " in said
    assert [text.startswith(said) for text in subject.warnings] == [True] * expected


def test_the_warning_comes_once_for_all_models_before_the_computing(tmp_path, capsys, monkeypatch):
    models = [classifier("one"), classifier("two")]
    asked = settings(norm=("L2",), fgsm=(), steps=1, epsilon=8 / 255)
    audited(models, images(), tmp_path, settings=asked)
    assert capsys.readouterr().err.count("L2 ε = 0.0314 leaves images") == 1
    told = read_json(tmp_path / "run.json")["warnings"]
    assert [("L2 ε = 0.0314 leaves images" in text) for text in told].count(True) == 1
    monkeypatch.setattr(passes, "_pass", None)  # which would compute
    with pytest.raises(TypeError):
        audited(models, images(), tmp_path / "again", settings=asked)
    assert "L2 ε = 0.0314 leaves images" in capsys.readouterr().err


@pytest.mark.parametrize(
    "more", [{"epsilon": 21.0}, {"attack": ("Fgsm(norm=Linf, epsilon=8)",)}], ids=["L2", "Linf"]
)
def test_a_radius_beyond_the_pixel_range_is_an_error_before_the_run(more, tmp_path):
    with pytest.raises(SettingsError, match="is more than the way from a black to a white image"):
        audit(classifier("plain"), images(), tmp_path, settings=settings(**more))
    assert not (tmp_path / "run.json").exists()


@dataclass(frozen=True, kw_only=True)
class Darker(Attack):
    share: float = 0.5

    def _attack(self, model, images, labels, ids):
        return images * (1 - self.share)


@pytest.mark.usefixtures("no_rendering")
def test_radii_that_are_drawn_and_attacks_without_one_are_measured_and_named(tmp_path, monkeypatch):
    drawn, told = Linf(epsilon=Uniform(low=0.01, high=0.05)), "epsilon=uniform from 0.01 to 0.05"
    wide = L2(epsilon=Uniform(low=0.1, high=0.8))
    attacks = {
        ("Fgsm", "Linf", 0.05, 1, told): Fgsm(threat=drawn),
        ("Pgd", "L2", 0.8, 2, "epsilon=uniform from 0.1 to 0.8, restarts=2"): Pgd(
            threat=wide, steps=2, restarts=2
        ),
        ("GaussianNoise", "Linf", 0.05, 1, told): GaussianNoise(threat=drawn),
        ("Darker", "", None, 1, "share=0.75"): Darker(share=0.75),
        ("foolbox:L1PGD", "L1", 2.0, 3, ""): make_named("foolbox:L1PGD(epsilon=2, steps=3)"),
    }
    monkeypatch.setattr(accuracy, "_attacks", lambda *_: [*attacks.values()])
    model = classifier("plain")
    prepared = prepare(model)
    data = noise(28, CLASSES, labels=prepared(images().images(range(28)) / 255).argmax(dim=1))
    page = audit(model, data, tmp_path, settings=settings()).read_text(encoding="utf-8")
    assert "FGSM (epsilon=uniform from 0.01 to 0.05), L∞ ε = 0.05" in page
    assert "Darker (share=0.75)<" in page
    natural, *found = Results.read(tmp_path).table("accuracy")
    named = ("attack", "norm", "epsilon", "steps", "settings")
    assert [tuple(row[column] for column in named) for row in found] == [*attacks]
    (batch,) = data.batches(28)
    top1 = [row["top1"] for row in found]
    assert natural["top1"] == 1 > max(top1[:2])
    for share, attack in zip(top1, [*attacks.values()][:-1], strict=False):  # foolbox's has batches
        attacked = prepared(attack(prepared, batch.images, batch.labels, ids=batch.ids))
        right = attacked.argmax(dim=1) == batch.labels
        assert share == pytest.approx(right.float().mean().item(), abs=1e-6)


def test_autoattack_on_a_randomized_model_is_refused_before_the_run(tmp_path):
    model, asked = classifier("moved", randomized=True), settings(autoattack=8, fgsm=(), steps=1)
    with pytest.raises(SettingsError, match="moved is randomized, and AutoAttack counts an image"):
        audit(model, images(), tmp_path, settings=asked)
    assert not (tmp_path / "run.json").exists()


@pytest.mark.parametrize("method", ["fgsm", "bim", "pgd", "least-likely", "feature"])
def test_stored_attacks_take_draws_of_a_model_that_varies_alone(method, monkeypatch):
    monkeypatch.setattr("advlens.workflows.attacked.prepare", subjects.prepare)
    asked = AttackSettings(method=method, draws=4)
    models = [classifier("m", randomized=varies) for varies in (False, True)]
    assert [chosen_attack(asked, model, images()).draws for model in models] == [1, 4]
