"""What is told before and during an audit: passes, settings of a quick one, the time left."""

import dataclasses

import pytest
import torch

from advlens import AuditSettings
from advlens.auditing import audit, course, forecasting, quick, rehearsed
from advlens.auditing.course import Course
from advlens.settings.audit import QUICK
from flops import flops
from small_runs import SYNSETS, Rounded, convolution, noise, small, unreported

STAGES = AuditSettings().stages
FEW = {"sweep_images": 8, "explained": 2, "inverted": 2, "visualized": 2, "generated": 2}
FEW |= {"device": "cpu", "batch_size": 16, "inversion_steps": 30, "visualization_steps": 30}


def data(count=40):
    return noise(count, synsets=SYNSETS, telling=True)


def model():
    return small(lambda: convolution(8, 2, 3), synsets=SYNSETS)


@pytest.mark.parametrize("stage", sorted({*STAGES} - {"dissection"}))  # that has other data
def test_a_stage_takes_about_the_passes_that_it_tells(stage, tmp_path, monkeypatch):
    classifier, images = model(), data()
    settings = AuditSettings(**QUICK | FEW, stages=(stage,))
    (subject,), ((planned,),) = rehearsed(classifier, images, settings)
    with torch.no_grad():
        unit = flops(lambda: subject.prepared(images.images([0]).float() / 255))
    one = images.images([0]).float() / 255
    told = planned.passes(len(images)) + sum(
        look.images * flops(lambda look=look: look.network(one)) / unit
        for look in forecasting.looks_of(planned, len(images))
    )
    monkeypatch.setattr(forecasting, "_seconds", lambda subject, size: 1.0)
    monkeypatch.setattr(forecasting, "_network_seconds", lambda *given: 0.0)
    with unreported():
        taken = flops(lambda: audit(classifier, images, tmp_path / "run", settings=settings)) / unit
    assert 0.5 * told < taken < 1.2 * told + 12 * len(images)


def expected(monkeypatch, speed):
    monkeypatch.setattr(forecasting, "_seconds", lambda subject, size: speed)
    monkeypatch.setattr(forecasting, "_network_seconds", lambda *given: 0.0)


@pytest.mark.parametrize(
    ("speed", "images", "stages"),
    [(1e-9, 200, STAGES), (0.01, 100, None), (0.1, 20, ("accuracy",))],
    ids=["fast", "slower", "slow"],
)
def test_a_quick_audit_takes_what_fits(speed, images, stages, monkeypatch, tmp_path):
    expected(monkeypatch, speed)
    settings = AuditSettings(quick=True, device="cpu")
    subjects, planned = rehearsed(model(), data(250), settings)
    (subject,), ((*chosen,),) = subjects, planned
    names = tuple(stage.name for stage in chosen)
    assert len(subject.data) == images
    took = speed * sum(stage.passes(images) for stage in chosen)
    assert names[0] == "accuracy"
    assert took <= quick.BUDGET or len(names) == 1
    if stages is None:  # some fit, and not all
        assert 1 < len(names) < len(STAGES) - 1
    else:
        assert names == tuple(name for name in stages if name != "dissection")


def test_a_quick_audit_says_what_cannot_run(monkeypatch):
    expected(monkeypatch, 1e-9)
    rounding = small(lambda: Rounded(convolution(8, 2, 3)), synsets=SYNSETS)
    settings = AuditSettings(quick=True, device="cpu")
    (subject,), (planned,) = rehearsed(rounding, data(), settings)
    assert [stage.name for stage in planned] == ["accuracy", "sweep", "neurons"]
    assert any("without attribution" in text for text in subject.warnings)


def test_a_quick_audit_keeps_what_is_given_and_what_it_chose(monkeypatch, tmp_path):
    expected(monkeypatch, 1e-9)
    given = AuditSettings(
        **FEW, quick=True, images=30, steps=3, stages=("accuracy",), fgsm=(), norm=("L2",)
    )
    with unreported():
        audit(model(), data(), tmp_path / "run", settings=given)
        before = (tmp_path / "run" / "results" / "accuracy.csv").read_bytes()
        expected(monkeypatch, 1e9)  # a slower hour would choose otherwise
        audit(model(), data(), tmp_path / "run", settings=given)
    assert (tmp_path / "run" / "results" / "accuracy.csv").read_bytes() == before
    assert b"Pgd,L2,0.5,3" in before
    assert before.count(b",30,") == 2
    chosen = quick.chosen_before(given, tmp_path / "run")
    assert chosen is not None
    assert (chosen.images, chosen.stages) == (30, ("accuracy",))
    assert quick.chosen_before(given, tmp_path) is None


def test_the_time_left_counts_all_models_and_follows_what_the_run_takes(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(course.time, "monotonic", lambda: now[0])
    whole = Course([{"accuracy": 30.0, "neurons": 30.0}, {"accuracy": 60.0}], [1, 0])
    progress = whole.progress(0, ["accuracy"], "accuracy", 100, shown=False)
    assert progress.what == "model 1 of 2, stage 2 of 3: accuracy"
    assert progress.whole is not None
    assert progress.whole(0.0) == "2 min left in all"
    now[0] = 5.0  # too early to tell that the run takes twice as long
    assert progress.whole(0.5) == "2 min left in all"
    now[0] = 60.0
    assert progress.whole(1.0) == "3 min left in all"  # 90 s at half the speed
    whole.finish(0, "accuracy")
    resumed = whole.progress(0, ["neurons"], "neurons", 100, done=90, shown=False)
    assert resumed.what.startswith("model 1 of 2, stage 3 of 3")
    assert resumed.whole is not None
    assert resumed.whole(0.0) == "2 min left in all"
    assert Course().progress(0, ["other"], "other", 5, shown=False).whole is None


def test_a_stage_that_tells_no_passes_is_named():
    (subject,), ((planned,),) = rehearsed(model(), data(), AuditSettings(stages=("accuracy",)))

    @dataclasses.dataclass
    class Untold:
        name: str = "own"

    found = forecasting.forecast(subject, [planned, Untold()], 16)
    assert (list(found.passes), found.untold) == (["accuracy"], ["own"])
    assert found.seconds > 0
    assert found.total == found.seconds * planned.passes(40)
    assert "without own" in str(found)
