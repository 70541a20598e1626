"""Accuracy and the sweep of a randomized model beside one that is not, in an audit."""

import csv
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from advlens.attacks import Attack, Fgsm, GaussianNoise, Pgd
from advlens.attacks.threat import L2, Linf, Uniform
from advlens.auditing import audit, subjects
from advlens.auditing.stages import accuracy
from advlens.datasets import ArrayData
from advlens.errors import SettingsError
from advlens.interop import make_attack as make_named
from advlens.models import Classifier
from advlens.prepared import prepare
from advlens.report.sections.accuracy import section
from advlens.runs.results import Results
from advlens.settings import AttackSettings, AuditSettings
from advlens.words import attack_name
from advlens.workflows.attacked import chosen_attack
from randomized_network import Live, Shifted

pytestmark = pytest.mark.usefixtures("no_rendering")

CLASSES = ("cat", "dog", "ship", "frog", "deer", "horse", "bird")
SETTINGS = AuditSettings(
    stages=("accuracy", "sweep"),
    epsilon=0.5,
    steps=2,
    fgsm=(4 / 255,),
    sweep_steps=1,
    sweep_images=14,
    batch_size=20,
    draws=3,
    device="cpu",
    attack=("Pgd(norm=L2, epsilon=.5, steps=2, draws=5)",),
)


def classifier(name: str, *, randomized: bool) -> Classifier:
    torch.manual_seed(0)
    network: nn.Module = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.Tanh(), nn.Flatten())
    network.append(nn.Linear(8 * 5 * 5, 7))
    if randomized:
        network = Shifted(network, (0, 3, 5))
    return Classifier(network, name=name, classes=CLASSES, image_size=12, resize=12).eval()


def images(model: nn.Module | None = None) -> ArrayData:
    """Noise with labels in turn, or with those that a model predicts."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (28, 3, 12, 12), generator=generator, dtype=torch.uint8)
    labels = torch.arange(28) % 7
    if model is not None:
        labels = prepare(model)(pixels.float() / 255).argmax(dim=1)
    return ArrayData(pixels, name="noise", classes=CLASSES, synsets=None, labels=labels)


@pytest.fixture(autouse=True)
def live(monkeypatch):
    """The model itself where it varies, whatever a copy would freeze."""

    def prepared(model: nn.Module):
        varies = isinstance(model.network, Shifted)
        return Live(model) if varies else prepare(model)

    monkeypatch.setattr(subjects, "prepare", prepared)


def test_an_audit_tells_draws_and_spread(tmp_path):
    models = [classifier("plain", randomized=False), classifier("moved", randomized=True)]
    audit(models, images(), tmp_path, settings=SETTINGS)
    for table, n in (("accuracy", 28), ("sweep", 14)):
        with open(tmp_path / "results" / f"{table}.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        for row in rows:
            assert int(row["n"]) == n
            assert float(row["top1_low"]) <= float(row["top1"]) <= float(row["top1_high"])
            varies = row["model"] == "moved"
            assert row["draws"] == ("3" if varies else "")
            assert (row["top1_spread"] != "") == varies
            assert (row["top5"] == "") == (table == "sweep" and row["attack"] != "natural")
    found = Results.read(tmp_path).table("accuracy", {"model": str, "settings": str})
    assert [row["settings"] for row in found] == ["", "", "", "draws=5"] * 2
    assert any(float(row["top1_spread"] or 0) > 0 for row in rows)
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
    """An attack of a user's own, without a ball."""

    share: float = 0.5

    def _attack(self, model, images, labels, ids):
        return images * (1 - self.share)


def test_radii_that_are_drawn_and_attacks_without_one_are_measured_and_named(tmp_path, monkeypatch):
    drawn, told = Linf(epsilon=Uniform(low=0.01, high=0.05)), "epsilon=uniform from 0.01 to 0.05"
    attacks = {
        ("Fgsm", "Linf", 0.05, 1, told): Fgsm(threat=drawn),
        ("Pgd", "L2", 0.8, 2, "epsilon=uniform from 0.1 to 0.8, restarts=2"): Pgd(
            threat=L2(epsilon=Uniform(low=0.1, high=0.8)), steps=2, restarts=2
        ),
        ("GaussianNoise", "Linf", 0.05, 1, told): GaussianNoise(threat=drawn),
        ("Darker", "", None, 1, "share=0.75"): Darker(share=0.75),
        ("foolbox:L1PGD", "L1", 2.0, 3, ""): make_named("foolbox:L1PGD(epsilon=2, steps=3)"),
    }
    monkeypatch.setattr(accuracy, "_attacks", lambda *_: [*attacks.values()])
    model = classifier("plain", randomized=False)
    data = images(model)
    settings = AuditSettings(stages=("accuracy",), batch_size=20, device="cpu")
    page = audit(model, data, tmp_path, settings=settings).read_text(encoding="utf-8")
    assert "FGSM (epsilon=uniform from 0.01 to 0.05), L∞ ε = 0.05" in page
    assert "Darker (share=0.75)<" in page
    natural, *found = Results.read(tmp_path).table("accuracy")
    named = ("attack", "norm", "epsilon", "steps", "settings")
    assert [tuple(row[column] for column in named) for row in found] == [*attacks]
    (batch,) = data.batches(28)
    prepared, top1 = prepare(model), [row["top1"] for row in found]
    assert natural["top1"] == 1 > max(top1[:2])
    for share, attack in zip(top1, [*attacks.values()][:-1], strict=False):  # foolbox's has batches
        attacked = prepared(attack(prepared, batch.images, batch.labels, ids=batch.ids))
        right = attacked.argmax(dim=1) == batch.labels
        assert share == pytest.approx(right.float().mean().item(), abs=1e-6)


def test_autoattack_on_a_randomized_model_is_refused_before_the_run(tmp_path):
    asked = AuditSettings(stages=("accuracy",), autoattack=8, fgsm=(), steps=1, device="cpu")
    with pytest.raises(SettingsError, match="moved is randomized, and AutoAttack counts an image"):
        audit([classifier("moved", randomized=True)], images(), tmp_path, settings=asked)
    assert not (tmp_path / "run.json").exists()


def test_one_draw_has_no_spread_and_is_refused():
    with pytest.raises(SettingsError, match="draws must be a finite number ≥ 2, not 1"):
        AuditSettings(draws=1)
    with pytest.raises(SettingsError, match="draws must be a finite number ≥ 1, not 0"):
        AttackSettings(draws=0)


@pytest.mark.parametrize("method", ["fgsm", "bim", "pgd", "least-likely", "feature"])
def test_stored_attacks_take_draws_of_a_model_that_varies_alone(method, monkeypatch):
    monkeypatch.setattr("advlens.workflows.attacked.prepare", subjects.prepare)
    settings, data = AttackSettings(method=method, draws=4), images()
    plain, moved = (classifier("m", randomized=varies) for varies in (False, True))
    assert chosen_attack(settings, plain, data).draws == 1
    assert chosen_attack(settings, moved, data).draws == 4
