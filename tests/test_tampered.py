"""Whatever lies in a run folder ends in one sentence, and nothing outside the folder changes."""

import dataclasses
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from advlens import AuditSettings, Classifier, Training, audit, read_run
from advlens.auditing.stages.accuracy import AccuracyStage
from advlens.cli import main
from advlens.datasets import ArrayData
from advlens.errors import AdvlensError, CheckpointError, RunError
from advlens.folders import check_folder, held
from advlens.report.page import write_report
from advlens.report.sections.accuracy import section as accuracy
from advlens.report.sections.neurons import section as neurons
from advlens.runs.folder import Run, differences, write_text
from kills import killed
from small_runs import audited, convolution, noise, small
from synthetic_run import write_run
from tampered_runs import CONTINUED, REPORTED

pytestmark = pytest.mark.usefixtures("no_rendering")

SETTINGS = AuditSettings(stages=("accuracy",), steps=1, batch_size=8)
TRAINING = Training(epochs=1, batch_size=8, validation=4)
ZERO = torch.zeros(1)
DAMAGES = {
    "other keys": lambda state: state.pop("rows"),
    "step is a text": lambda state: state.update(step="1"),
    "step beyond the end": lambda state: state.update(step=10**6),
    "weights of another shape": lambda s: s["classifier"].update({"network.0.weight": ZERO}),
    "kept weights of another kind": lambda state: state.update(best_weights={"a": ZERO}),
    "rows are numbers": lambda state: state.update(rows=[1]),
    "rows lack values": lambda state: state.update(rows=[{"epoch": 1}]),
    "rows are nested": lambda state: state["rows"][0].update(loss=[[1]]),
    "an epoch is not judged, and has no loss": lambda state: state.update(rows=[], best_weights={}),
    "an average that nobody asked for": lambda state: state.update(average={"a": ZERO}),
    "the optimizer is empty": lambda state: state.update(optimizer={}),
    "momentum of another shape": lambda s: s["optimizer"]["state"][0].update(momentum_buffer=ZERO),
    "the identity is no text": lambda state: state.update(identity=3),
    "the identity is no JSON": lambda state: state.update(identity="{"),
}


def images(seed: int = 0) -> ArrayData:
    return noise(24, size=8, seed=seed)


def classifier(seed: int = 0) -> Classifier:
    return small(lambda: convolution(4, 1, 3), f"tiny{seed}", seed=seed, size=8)


def go_on(run: Path, settings: AuditSettings = SETTINGS, data: ArrayData | None = None) -> None:
    audited([classifier(), classifier(1)], data or images(), run, settings=settings)


@contextmanager
def outside(run: Path) -> Iterator[None]:
    """Nothing but the run folder changes in the folder around it."""

    def found() -> dict[str, bytes]:
        return {
            str(path): path.read_bytes()
            for path in run.parent.rglob("*")
            if path.is_file() and not path.is_relative_to(run)
        }

    before = found()
    yield
    assert found() == before


def said(error: AdvlensError, run: Path) -> str:
    text = str(error)
    assert str(run) in text
    assert len(text) < 1500
    assert "bug" not in text
    assert "SECRET" not in text
    return text


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("made") / "run", layers=("conv",), units=(4,), shown=1)


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    run = tmp_path_factory.mktemp("interrupted") / "run"
    with pytest.MonkeyPatch.context() as patch, killed(patch, after=5):
        go_on(run)
    return run


@pytest.fixture
def copied(interrupted, tmp_path):
    run = tmp_path / "around" / "run"
    shutil.copytree(interrupted, run)
    return run


@pytest.mark.parametrize("name", REPORTED)
def test_a_report_of_a_tampered_folder_is_one_sentence(name, made, tmp_path, capsys):
    run = tmp_path / "around" / "run"
    shutil.copytree(made, run)
    REPORTED[name](run)
    with outside(run):
        with pytest.raises(RunError) as caught:
            write_report(run, [accuracy, neurons])
        said(caught.value, run)
        assert main(["report", str(run)]) == 1
        printed = capsys.readouterr().err
        assert printed.startswith("advlens: ")
        assert printed.count("\n") == 1
        assert "bug" not in printed
        try:  # a part may be whole
            found = read_run(run)
            for table in found.tables:
                found.rows(table)
        except RunError as error:
            said(error, run)


@pytest.mark.parametrize("name", CONTINUED)
def test_an_audit_that_goes_on_with_a_tampered_folder_ends_in_one_sentence(name, copied):
    CONTINUED[name](copied)
    with outside(copied):
        with pytest.raises(RunError) as caught:
            go_on(copied)
        said(caught.value, copied)


def test_other_settings_and_images_are_listed_old_and_new(interrupted):
    other = dataclasses.replace(SETTINGS, steps=7, seed=3)
    listed = "steps is 1 there and 7 here; seed is 0 there and 3 here; choose"
    with pytest.raises(RunError, match=listed):
        go_on(interrupted, other)
    with pytest.raises(RunError, match="models or data: images differ; choose another --out"):
        go_on(interrupted, data=images(seed=1))
    gone = r'models is \["tiny0", "tiny1"\] there and \["tiny0"\] here'
    with pytest.raises(RunError, match=gone):
        audit([classifier()], images(), interrupted, settings=SETTINGS)


def test_differences_are_short():
    many, others = ({"settings": {f"s{i}": sign * i for i in range(40)}} for sign in (1, -1))
    text = differences(many, others)
    assert text.startswith("s1 is 1 there and -1 here; s2 is 2 there")
    assert text.endswith(" and 33 more")
    steps = ("steps=20", "steps=10")
    text = differences(*({"settings": {"attack": "x" * 500 + s + "y" * 500}} for s in steps))
    assert all(step in text for step in steps)
    assert len(text) < 200
    assert differences(many, many) == ""
    assert differences({"a": 1}, {"a": 1, "b": 2}) == "b is not given there and 2 here"
    there, here = ({"weights": {"x": c * 64}, "about": {"weights": {"x": c}}} for c in "ab")
    assert differences(there, here) == "weights of x is a there and b here"


@pytest.mark.parametrize("removed", ["", "parts"])
def test_a_folder_that_is_deleted_under_an_audit_ends_it(removed, tmp_path, monkeypatch):
    start = AccuracyStage.start

    def starts(self: AccuracyStage, context: object) -> object:
        shutil.rmtree(tmp_path / "run" / removed)
        return start(self, context)

    monkeypatch.setattr(AccuracyStage, "start", starts)
    with pytest.raises(RunError, match=r"run.* was removed .*start the command again"):
        go_on(tmp_path / "run")
    left = [path.name for path in tmp_path.rglob("*")]
    assert left == [] if not removed else "parts" not in left


def test_a_folder_that_is_deleted_under_a_training_ends_it(tmp_path):
    out = tmp_path / "run"
    with pytest.raises(RunError, match=r"run was removed or replaced while"):
        dataclasses.replace(TRAINING, epochs=2)(
            classifier(), images(), out, report=lambda text: shutil.rmtree(out, ignore_errors=True)
        )
    assert not out.exists()


def test_a_held_folder_that_was_replaced_or_is_gone_says_so(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    with held(folder):
        write_text(folder / "a" / "b.txt", "x")
        folder.rename(tmp_path / "elsewhere")
        folder.mkdir()
        with pytest.raises(RunError, match="removed or replaced"):
            write_text(folder / "c.txt", "x")
        write_text(tmp_path / "beside.txt", "x")
    write_text(folder / "c.txt", "x")  # it is anyone's now

    def work(folder: Path) -> None:
        folder.mkdir()
        with held(folder):
            shutil.rmtree(folder)
            (folder / "c.txt").read_text()

    with pytest.raises(RunError, match="removed or replaced"):
        work(tmp_path / "gone")


def test_links_are_refused_only_where_a_run_writes(tmp_path):
    (tmp_path / "data").symlink_to("/tmp")
    check_folder(tmp_path)
    (tmp_path / "figures" / "images").mkdir(parents=True)
    (tmp_path / "figures" / "images" / "a.png").symlink_to("b.png")
    with pytest.raises(RunError, match=r"a\.png is a link, which no run leaves behind; remove it"):
        check_folder(tmp_path)
    run = Run(tmp_path / "other", {})
    run.save_part(0, "x", {"a": 1})
    with held(run.folder):
        pass


def test_a_report_of_an_interrupted_audit_shows_what_is_there(copied):
    page = write_report(copied, [accuracy]).read_text(encoding="utf-8")
    assert "This run is not finished" in page
    assert "goes on with what is missing: accuracy of tiny1." in page
    assert 'href="#accuracy"' in page
    with pytest.raises(RunError, match=r"is not finished; .* advlens report shows what is there"):
        read_run(copied)
    unfinished = json.loads((copied / "run.json").read_text(encoding="utf-8"))["unfinished"]
    assert unfinished == [{"model": "tiny1", "stage": "accuracy"}]
    (copied / "run.json").unlink()
    with pytest.raises(RunError, match=r"is not finished; the command that began it goes on"):
        write_report(copied, [accuracy])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("trained")
    TRAINING(classifier(), images(), out, report=lambda text: None)
    return out


@pytest.mark.parametrize("name", DAMAGES)
def test_a_tampered_checkpoint_is_one_sentence(name, trained, tmp_path):
    state = torch.load(trained / "last.pt", weights_only=True)
    DAMAGES[name](state)
    torch.save(state, tmp_path / "last.pt")
    with pytest.raises(CheckpointError, match=r"last\.pt is damaged: .*; remove it to start again"):
        TRAINING(classifier(), images(), tmp_path)


def test_a_checkpoint_of_another_identity_is_another_runs(trained, tmp_path):
    state = torch.load(trained / "last.pt", weights_only=True)
    torch.save(state | {"identity": "{}"}, tmp_path / "last.pt")
    with pytest.raises(RunError, match="holds a run with other settings, data or model: objective"):
        TRAINING(classifier(), images(), tmp_path)
    with pytest.raises(RunError, match=r"epochs is 1 there and 2 here; choose another --out"):
        dataclasses.replace(TRAINING, epochs=2)(classifier(), images(), trained)
