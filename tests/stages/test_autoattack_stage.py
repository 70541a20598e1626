"""AutoAttack in an audit, with a fake of its four attacks: its tables, and that it survives."""

import pytest
import torch

from advlens import L2, AuditSettings, Classifier, Fgsm, Linf, audit
from advlens.datasets import ArrayData
from advlens.interop.autoattack import PARTS, AutoAttack
from advlens.intervals import wilson
from advlens.prepared import prepare
from advlens.report.sections.accuracy import section
from advlens.runs.results import Results
from advlens.words import attack_name
from small_runs import audited, convolution, noise, results, rows, small

CLASSES = ("cat", "dog", "ship", "frog")


def settings(**more) -> AuditSettings:
    few = {"stages": ("accuracy",), "steps": 2, "fgsm": (), "batch_size": 10, "device": "cpu"}
    return AuditSettings(**few | more)


SETTINGS = settings(autoattack=24, autoattack_linf=12 / 255, epsilon=1.5)


def classifier() -> Classifier:
    return small(lambda: convolution(8, 2, 4), classes=CLASSES)


def images() -> ArrayData:
    with torch.no_grad():
        labels = classifier()(noise(40).images(range(40)) / 255).argmax(dim=1)
    labels[::5] = (labels[::5] + 1) % 4
    return noise(40, CLASSES, labels=labels)


def strength(part: str, epsilon: float) -> float:
    """Of the fake: each of the four goes further than the one before it."""
    return epsilon * (1 + PARTS.index(part)) / 4


@pytest.fixture
def calls(monkeypatch):
    """The fake, which notes each call and fails at the one that `calls.limit` says."""

    class Calls(list):
        limit = -1
        most = 100

    calls = Calls()

    def part(self, name, model, images, labels, ids):
        if len(calls) == calls.limit:
            raise KeyboardInterrupt
        if len(ids) > calls.most:
            raise torch.OutOfMemoryError("out of memory")
        calls.append((self.threat.norm, name, ids.tolist()))
        threat = type(self.threat)(epsilon=strength(name, self.threat.epsilon))
        return Fgsm(threat=threat)(model, images, labels)

    monkeypatch.setattr(AutoAttack, "part", part)
    return calls


def test_each_image_counts_by_its_worst_case(tmp_path, calls):
    audited(classifier(), images(), tmp_path, settings=SETTINGS)
    data, model = images(), prepare(classifier())
    ids = data.subset(24, seed=0).positions
    pixels, labels = data.images(ids.tolist()).float() / 255, data.labels[ids]
    fallen = set()
    for norm, kind, epsilon in (("L2", L2, 1.5), ("Linf", Linf, 12 / 255)):
        left = model(pixels).argmax(dim=1) == labels
        counts = [int(left.sum())]
        for part in PARTS:
            attack = Fgsm(threat=kind(epsilon=strength(part, epsilon)))
            left &= model(attack(model, pixels, labels)).argmax(dim=1) == labels
            counts.append(int(left.sum()))
        fallen |= {number for number in range(1, 5) if counts[number] < counts[number - 1]}
        found = rows(tmp_path, "autoattack", norm=norm)
        assert [row["after"] for row in found] == ["natural", *PARTS]
        assert [round(float(row["top1"]) * 24) for row in found] == counts
        (row,) = rows(tmp_path, "accuracy", attack="AutoAttack", norm=norm)
        assert (row["model"], row["n"], row["top5"]) == ("tiny", "24", "")
        assert float(row["epsilon"]) == pytest.approx(epsilon, rel=1e-5)
        shares = [float(row[column]) for column in ("top1", "top1_low", "top1_high")]
        assert shares == pytest.approx([counts[-1] / 24, *wilson(counts[-1], 24)], abs=1e-6)
        for name, given in [(n, i) for m, n, i in calls if m == norm]:
            assert name in PARTS
            assert len(given) <= 10
            assert set(given) <= set(ids.tolist())
        assert set(calls[0][2]) <= set(ids[:10].tolist())
        (each,) = rows(tmp_path, "accuracy_images", attack="AutoAttack", norm=norm)
        assert [mark == "1" for mark in each["right"]] == left.tolist()
    assert len(fallen) > 1  # some images hold out longer than others
    assert not list((tmp_path / "parts").glob("*.state.safetensors"))


def test_a_run_with_halved_batches_goes_on_where_it_was(tmp_path, calls):
    halves = settings(autoattack=24, autoattack_linf=12 / 255, epsilon=1.5, batch_size=5)
    wanted = results(audited(classifier(), images(), tmp_path / "whole", settings=halves))
    calls.most, total = 5, len(calls)
    calls.limit = total + 9
    with pytest.raises(KeyboardInterrupt):
        audited(classifier(), images(), tmp_path / "killed", settings=SETTINGS)
    calls.limit = -1
    found = results(audited(classifier(), images(), tmp_path / "killed", settings=SETTINGS))
    assert found == wanted
    assert len(calls) == 2 * total


def test_a_killed_run_goes_on_where_it_was(tmp_path, calls):
    wanted = results(audited(classifier(), images(), tmp_path / "whole", settings=SETTINGS))
    total = list(calls)
    for limit in (0, 5, len(total) - 1):
        calls.limit = limit
        del calls[:]
        with pytest.raises(KeyboardInterrupt):
            audited(classifier(), images(), tmp_path / str(limit), settings=SETTINGS)
        calls.limit = -1
        del calls[:]
        out = audited(classifier(), images(), tmp_path / str(limit), settings=SETTINGS)
        assert results(out) == wanted
        assert list(calls) == total[limit:]  # what was done is not done again


@pytest.mark.usefixtures("calls", "no_rendering")
def test_the_report_shows_it(tmp_path):
    audit(classifier(), images(), tmp_path, settings=SETTINGS)
    found = section(Results.read(tmp_path))
    assert found
    (table,) = (block for block in found.blocks if getattr(block, "file", "") == "autoattack.csv")
    cells = [{column.header: column.cell(row) for column in table.columns} for row in table.rows]
    header = "Images|Model|Natural|APGD-CE|APGD-T|FAB-T|Square|AutoAttack|Images (n)"
    assert list(cells[0]) == header.split("|")
    named = ["AutoAttack, L2 ε = 1.5", "AutoAttack, L∞ ε = 12/255"]
    assert [line["Images"] for line in cells] == named
    last = float(rows(tmp_path, "autoattack")[4]["top1"])
    assert (cells[0]["Square"], cells[0]["Images (n)"]) == (f"{100 * last:.1f}%", "24")
    assert cells[0]["AutoAttack"].startswith(f"{100 * last:.1f}% (")
    (measured,) = found.findings[0].estimates
    assert measured.name == "accuracy under AutoAttack, L2 ε = 1.5"
    (estimate,) = measured.estimates.values()
    assert (estimate.value, measured.n) == (last, "24 images")
    assert "autoattack.csv" in (tmp_path / "report.html").read_text(encoding="utf-8")


@pytest.mark.usefixtures("calls")
def test_models_are_compared_on_the_same_images(tmp_path):
    other = small(lambda: convolution(8, 2, 4), "other", seed=1, classes=CLASSES)
    audited([classifier(), other], images(), tmp_path, settings=SETTINGS)
    for norm in ("L2", "Linf"):
        (row,) = rows(tmp_path, "differences", attack="AutoAttack", norm=norm)
        one, two = (
            float(r["top1"])
            for r in rows(tmp_path, "accuracy", attack="AutoAttack")
            if r["norm"] == norm
        )
        assert (row["model"], row["other"], row["n"]) == ("tiny", "other", "24")
        assert float(row["difference"]) == pytest.approx(one - two, abs=1e-5)
    found = section(Results.read(tmp_path))
    (finding, _) = [f for f in found.findings if "AutoAttack" in f.estimates[0].name]
    assert [measured.paired for measured in finding.estimates] == [True, True]


def test_an_attack_with_one_other_setting_is_another_attack(tmp_path):
    """In the table, and in the words of the report; the run's own seed is told nowhere."""
    told = ["step_size=0.1", "restarts=3", "select=last", "label=predicted", "seed=7"]
    texts = tuple(f"Pgd(norm=L2, epsilon=.5, steps=2, {one})" for one in told)
    texts += ("Bim(norm=L2, epsilon=.5, steps=2)",)
    asked = {"norm": ("L2",), "epsilon": 0.5, "seed": 3}
    audited(classifier(), images(), tmp_path, settings=settings(attack=texts, **asked))
    found = rows(tmp_path, "accuracy")
    assert [row["settings"] for row in found] == ["", "", *told, ""]
    names = [attack_name(row | {"epsilon": 0.5, "steps": 2}) for row in found]
    assert len({*names}) == len(names)
    ends = [*(f"-2 ({one}), L2 ε = 0.5" for one in told), "-2, L2 ε = 0.5"]
    assert all(name.endswith(end) for name, end in zip(names[2:], ends, strict=True))
    twice = ("Pgd(norm=L2, epsilon=.5, steps=2)", *texts, *texts)
    again = settings(attack=twice, **asked)
    assert (
        rows(audited(classifier(), images(), tmp_path / "x", settings=again), "accuracy") == found
    )
