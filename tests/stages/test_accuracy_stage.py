"""Accuracy and the sweep of a randomized model beside one that is not, in an audit."""

from dataclasses import dataclass

import pytest
from torch import nn

from advlens import L2, Classifier, Linf, SettingsError, Uniform
from advlens.attacks import Attack, Fgsm, GaussianNoise, Pgd
from advlens.auditing import audit, subjects
from advlens.auditing.stages import accuracy
from advlens.datasets import ArrayData
from advlens.interop import make_attack as make_named
from advlens.prepared import prepare
from advlens.report.sections.accuracy import section
from advlens.runs.results import Results
from advlens.settings import AttackSettings, AuditSettings
from advlens.words import attack_name
from advlens.workflows.attacked import chosen_attack
from randomized_network import Live, Shifted
from small_runs import audited, noise, rows, small

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
    small = {"epsilon": 0.5, "steps": 2, "fgsm": (4 / 255,), "draws": 3, "attack": own}
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
    shown = section(Results.read(tmp_path))
    (table, *_) = [b for b in shown.blocks if getattr(b, "file", "") == "accuracy.csv"]
    assert "mean over 3 fresh passes" in table.caption
    header = [column.header for column in table.columns]
    cells = [[column.cell(row) for column in table.columns] for row in table.rows]
    spread = [line[header.index("Spread over draws")] for line in cells]
    assert [line == "–" for line in spread] == [line[1] == "plain" for line in cells]
    assert len({attack_name(row) for row in table.rows}) == 4


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
