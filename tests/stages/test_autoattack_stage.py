"""AutoAttack in an audit, with a fake of its four attacks: its tables, and that it survives."""

import csv
import dataclasses

import pytest
import torch
from torch import nn

from advlens import auditing
from advlens.attacks import Fgsm
from advlens.attacks.threat import L2, Linf
from advlens.auditing import audit
from advlens.datasets import ArrayData
from advlens.errors import SettingsError
from advlens.interop.autoattack import PARTS, AutoAttack
from advlens.intervals import wilson
from advlens.models import Classifier
from advlens.prepared import prepare
from advlens.report.sections.autoattack import section
from advlens.runs.results import Results
from advlens.settings import AuditSettings
from advlens.words import attack_name

pytestmark = pytest.mark.usefixtures("no_rendering")

CLASSES = ("cat", "dog", "ship", "frog")
SETTINGS = AuditSettings(
    stages=("accuracy",),
    autoattack=24,
    autoattack_linf=12 / 255,
    epsilon=1.5,
    steps=2,
    fgsm=(),
    batch_size=10,
    device="cpu",
)


def classifier() -> Classifier:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 4)
    )
    return Classifier(network, name="tiny", classes=CLASSES, image_size=12, resize=12).eval()


def images() -> ArrayData:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (40, 3, 12, 12), generator=generator, dtype=torch.uint8)
    with torch.no_grad():
        labels = classifier()(pixels.float() / 255).argmax(dim=1)
    labels[::5] = (labels[::5] + 1) % 4
    return ArrayData(pixels, name="noise", classes=CLASSES, synsets=None, labels=labels)


def strength(part: str, epsilon: float) -> float:
    """Of the fake: each of the four goes further than the one before it."""
    return epsilon * (1 + PARTS.index(part)) / 4


@pytest.fixture
def calls(monkeypatch):
    """The fake, which notes each call and fails at the one that `calls.limit` says."""

    class Calls(list):
        limit = -1

    calls = Calls()

    def part(self, name, model, images, labels, ids):
        if len(calls) == calls.limit:
            raise KeyboardInterrupt
        calls.append((self.threat.norm, name, ids.tolist()))
        threat = type(self.threat)(epsilon=strength(name, self.threat.epsilon))
        return Fgsm(threat=threat)(model, images, labels)

    monkeypatch.setattr(AutoAttack, "part", part)
    return calls


@pytest.fixture
def no_report(monkeypatch):
    monkeypatch.setattr(auditing, "write_report", lambda out: out / "report.html")


def rows(run, name):
    with open(run / "results" / f"{name}.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def results(run):
    return {path.name: path.read_bytes() for path in sorted((run / "results").iterdir())}


def test_each_image_counts_by_its_worst_case(tmp_path, calls, no_report):
    audit([classifier()], images(), tmp_path, settings=SETTINGS)
    data, model = images(), prepare(classifier())
    ids = data.subset(24, seed=0).positions
    pixels, labels = data.images(ids.tolist()).float() / 255, data.labels[ids]
    fallen = set()
    for norm, kind, epsilon in (("L2", L2, 1.5), ("Linf", Linf, 12 / 255)):
        left = model(pixels).argmax(dim=1) == labels
        wanted = [("natural", int(left.sum()))]
        for part in PARTS:
            attack = Fgsm(threat=kind(epsilon=strength(part, epsilon)))
            left &= model(attack(model, pixels, labels)).argmax(dim=1) == labels
            wanted.append((part, int(left.sum())))
        counts = [right for _, right in wanted]
        fallen |= {number for number in range(1, 5) if counts[number] < counts[number - 1]}
        found = [row for row in rows(tmp_path, "autoattack") if row["norm"] == norm]
        assert [(r["after"], round(float(r["top1"]) * 24)) for r in found] == wanted
        low, high = wilson(wanted[-1][1], 24)
        (row,) = [
            r
            for r in rows(tmp_path, "accuracy")
            if (r["attack"], r["norm"]) == ("AutoAttack", norm)
        ]
        assert (row["model"], row["n"], row["top5"]) == ("tiny", "24", "")
        assert float(row["epsilon"]) == pytest.approx(epsilon, rel=1e-5)
        assert float(row["top1"]) == pytest.approx(wanted[-1][1] / 24, abs=1e-6)
        assert float(row["top1_low"]) == pytest.approx(low, abs=1e-6)
        assert float(row["top1_high"]) == pytest.approx(high, abs=1e-6)
        batch = ids[:10].tolist()
        for name, given in [(n, i) for m, n, i in calls if m == norm]:
            assert name in PARTS
            assert len(given) <= 10
            assert set(given) <= set(ids.tolist())
        assert set(calls[0][2]) <= set(batch)
    assert len(fallen) > 1  # some images hold out longer than others
    assert not list((tmp_path / "parts").glob("*.state.safetensors"))


def test_a_killed_run_goes_on_where_it_was(tmp_path, calls, no_report):
    audit([classifier()], images(), tmp_path / "whole", settings=SETTINGS)
    wanted, total = results(tmp_path / "whole"), list(calls)
    out = tmp_path / "killed"
    for limit in (0, 5, len(total) - 1):
        calls.limit = limit
        del calls[:]
        with pytest.raises(KeyboardInterrupt):
            audit([classifier()], images(), out / str(limit), settings=SETTINGS)
        calls.limit = -1
        del calls[:]
        audit([classifier()], images(), out / str(limit), settings=SETTINGS)
        assert results(out / str(limit)) == wanted
        assert list(calls) == total[limit:]  # what was done is not done again


def test_the_report_shows_it(tmp_path, calls):
    audit([classifier()], images(), tmp_path, settings=SETTINGS)
    found = section(Results.read(tmp_path))
    assert found is not None
    (table,) = found.blocks
    header = [column.header for column in table.columns]
    assert header == [
        "Images",
        "Model",
        "Natural",
        "APGD-CE",
        "APGD-T",
        "FAB-T",
        "Square",
        "95% interval",
        "Images (n)",
    ]
    cells = [[column.cell(row) for column in table.columns] for row in table.rows]
    assert [line[0] for line in cells] == ["AutoAttack, L2 ε = 1.5", "AutoAttack, L∞ ε = 12/255"]
    last = rows(tmp_path, "autoattack")[4]
    assert cells[0][6] == f"{100 * float(last['top1']):.1f}%"
    assert cells[0][8] == "24"
    (measured,) = found.findings[0].estimates
    assert measured.name == "accuracy under AutoAttack, L2 ε = 1.5"
    (model,) = measured.estimates
    assert measured.estimates[model].value == float(last["top1"])
    assert measured.n == "24 images"
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert 'id="autoattack"' in page


def test_without_its_table_there_is_no_section(tmp_path, no_report):
    plain = AuditSettings(stages=("accuracy",), steps=1, fgsm=(), epsilon=0.5, device="cpu")
    audit([classifier()], images(), tmp_path, settings=plain)
    assert section(Results.read(tmp_path)) is None


def test_an_attack_that_is_measured_already_is_refused(tmp_path):
    twice = AuditSettings(epsilon=0.5, steps=2, attack=("Pgd(norm=L2, epsilon=.5, steps=2)",))
    with pytest.raises(SettingsError, match=r"'Pgd.*' is measured already"):
        audit([classifier()], images(), tmp_path, settings=twice)
    assert not (tmp_path / "run.json").exists()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("Pgd(norm=L2, epsilon=.5, steps=2, step_size=.1)", "step_size=0.1"),
        ("Pgd(norm=L2, epsilon=.5, steps=2, restarts=3)", "restarts=3"),
        ("Pgd(norm=L2, epsilon=.5, steps=2, select=last)", "select=last"),
        ("Pgd(norm=L2, epsilon=.5, steps=2, label=predicted)", "label=predicted"),
        ("Pgd(norm=L2, epsilon=.5, steps=2, seed=7)", "seed=7"),
        ("Bim(norm=L2, epsilon=.5, steps=2)", ""),
    ],
)
def test_an_attack_with_one_other_setting_is_another_attack(text, told, tmp_path, no_report):
    """In the table, and in the words of the report; the run's own seed is told nowhere."""
    asked = AuditSettings(
        stages=("accuracy",), epsilon=0.5, steps=2, fgsm=(), attack=(text,), seed=3, device="cpu"
    )
    audit([classifier()], images(), tmp_path, settings=asked)
    found = rows(tmp_path, "accuracy")
    assert [row["settings"] for row in found] == ["", "", told]
    names = [attack_name(row | {"epsilon": 0.5, "steps": 2}) for row in found]
    assert len(set(names)) == 3
    assert names[2].endswith("-2, L2 ε = 0.5" if not told else f"-2 ({told}), L2 ε = 0.5")
    both = dataclasses.replace(asked, attack=(text, text))
    with pytest.raises(SettingsError, match="is measured already"):
        audit([classifier()], images(), tmp_path / "again", settings=both)


def test_attacks_by_name_are_rows_like_ours(tmp_path, no_report):
    named = (
        "Pgd(norm=Linf, epsilon=8/255, steps=3)",
        "foolbox:LinfPGD(epsilon=8/255, steps=3)",
        "torchattacks:PGDL2(epsilon=.5, steps=3)",
    )
    settings = AuditSettings(
        stages=("accuracy",),
        steps=1,
        fgsm=(),
        epsilon=0.5,
        batch_size=16,
        attack=named,
        device="cpu",
    )
    audit([classifier()], images(), tmp_path, settings=settings)
    found = rows(tmp_path, "accuracy")
    assert [(row["norm"], row["epsilon"], row["steps"], row["n"]) for row in found] == [
        ("", "0", "0", "40"),
        ("L2", "0.5", "1", "40"),
        ("Linf", "0.0313725", "3", "40"),
        ("Linf", "0.0313725", "3", "40"),
        ("L2", "0.5", "3", "40"),
    ]
    assert all(float(row["top1"]) <= float(found[0]["top1"]) for row in found)
