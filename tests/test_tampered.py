"""Whatever lies in a run folder ends in one sentence, and nothing outside the folder changes."""

import dataclasses
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import nn

from advlens import read_run
from advlens.auditing import audit
from advlens.auditing.stages.accuracy import AccuracyStage
from advlens.cli import main
from advlens.datasets import ArrayData
from advlens.errors import AdvlensError, CheckpointError, RunError
from advlens.folders import check_folder, held
from advlens.models import Classifier
from advlens.report.page import write_report
from advlens.report.sections.accuracy import section as accuracy
from advlens.report.sections.neurons import section as neurons
from advlens.runs.folder import Run, differences, write_text
from advlens.settings import AuditSettings
from advlens.training import Training
from kills import killed
from synthetic_run import write_run
from tampered_runs import CONTINUED, REPORTED

pytestmark = pytest.mark.usefixtures("no_rendering")

SETTINGS = AuditSettings(stages=("accuracy",), steps=1, batch_size=8)
CLASSES = ("cat", "dog", "ship")


def images(seed: int = 0) -> ArrayData:
    random = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (24, 3, 8, 8), generator=random, dtype=torch.uint8)
    return ArrayData(
        pixels, name="noise", classes=CLASSES, synsets=None, labels=torch.arange(24) % 3
    )


def classifier(seed: int) -> Classifier:
    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    )
    return Classifier(network, name=f"tiny{seed}", classes=CLASSES, image_size=8, resize=8).eval()


def go_on(run: Path, settings: AuditSettings = SETTINGS, data: ArrayData | None = None) -> None:
    audit([classifier(0), classifier(1)], data or images(), run, settings=settings)


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
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("made") / "run", layers=("conv",), units=(4,), shown=1)


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An audit of two models that died in the second one's pass."""
    run = tmp_path_factory.mktemp("interrupted") / "run"
    with pytest.MonkeyPatch.context() as patch, killed(patch, after=5):
        go_on(run)
    return run


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("advlens.auditing.write_report", lambda run: run)


@pytest.mark.parametrize("name", REPORTED)
def test_a_report_of_a_tampered_folder_is_one_sentence(
    name: str, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
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


@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize("name", CONTINUED)
def test_an_audit_that_goes_on_with_a_tampered_folder_ends_in_one_sentence(
    name: str, interrupted: Path, tmp_path: Path
) -> None:
    run = tmp_path / "around" / "run"
    shutil.copytree(interrupted, run)
    CONTINUED[name](run)
    with outside(run):
        if name == "a cell has another type":  # a text can stand in a table; its reader refuses it
            go_on(run)
            with pytest.raises(RunError, match=r"top1 in line 2 is 'many', not a number"):
                write_report(run, [accuracy])
            return
        with pytest.raises(RunError) as caught:
            go_on(run)
        said(caught.value, run)


def test_there_are_enough_of_them() -> None:
    assert len(REPORTED) >= 30
    assert len(CONTINUED) >= 30


@pytest.mark.usefixtures("no_report")
def test_other_settings_and_images_are_listed_old_and_new(interrupted: Path) -> None:
    other = dataclasses.replace(SETTINGS, steps=7, seed=3)
    with pytest.raises(RunError) as caught:
        go_on(interrupted, other)
    assert "steps is 1 there and 7 here; seed is 0 there and 3 here; choose" in str(caught.value)
    with pytest.raises(RunError, match="models or data: images differ; choose another --out"):
        go_on(interrupted, data=images(seed=1))
    with pytest.raises(
        RunError, match=r'models is \["tiny0", "tiny1"\] there and \["tiny0"\] here'
    ):
        audit([classifier(0)], images(), interrupted, settings=SETTINGS)


def test_differences_are_short() -> None:
    many = {"settings": {f"s{i}": i for i in range(40)}}
    text = differences(many, {"settings": {f"s{i}": -i for i in range(40)}})
    assert text.startswith("s1 is 1 there and -1 here; s2 is 2 there")
    assert text.endswith(" and 33 more")
    long = {"settings": {"attack": "x" * 500 + "steps=20" + "y" * 500}}
    text = differences(long, {"settings": {"attack": "x" * 500 + "steps=10" + "y" * 500}})
    assert "steps=20" in text
    assert "steps=10" in text
    assert len(text) < 200
    assert differences(many, many) == ""
    assert differences({"a": 1}, {"a": 1, "b": 2}) == "b is not given there and 2 here"
    there, here = ({"weights": {"x": c * 64}, "about": {"weights": {"x": c}}} for c in "ab")
    assert differences(there, here) == "weights of x is a there and b here"


@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize("removed", ["", "parts"])
def test_a_folder_that_is_deleted_under_an_audit_ends_it(
    removed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = AccuracyStage.start

    def starts(self: AccuracyStage, context: object) -> object:
        shutil.rmtree(tmp_path / "run" / removed)
        return start(self, context)  # type: ignore[arg-type]

    monkeypatch.setattr(AccuracyStage, "start", starts)
    with pytest.raises(RunError, match=r"run.* was removed .*start the command again"):
        go_on(tmp_path / "run")
    left = [path.name for path in tmp_path.rglob("*")]
    assert left == [] if not removed else "parts" not in left


def test_a_folder_that_is_deleted_under_a_training_ends_it(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(RunError, match=r"run was removed or replaced while"):
        Training(epochs=2, batch_size=8, validation=4)(
            classifier(0), images(), out, report=lambda text: shutil.rmtree(out, ignore_errors=True)
        )
    assert not out.exists()


def test_a_held_folder_that_was_replaced_is_not_written(tmp_path: Path) -> None:
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


def test_a_read_that_fails_because_the_folder_is_gone_says_so(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()

    def work() -> None:
        with held(folder):
            shutil.rmtree(folder)
            (folder / "c.txt").read_text()

    with pytest.raises(RunError, match="removed or replaced"):
        work()


def test_links_are_refused_only_where_a_run_writes(tmp_path: Path) -> None:
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


def test_a_report_of_an_interrupted_audit_shows_what_is_there(
    interrupted: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(interrupted, run)
    page = write_report(run, [accuracy]).read_text(encoding="utf-8")
    assert "This run is not finished" in page
    assert "goes on with what is missing: accuracy of tiny1." in page
    assert 'href="#accuracy"' in page
    with pytest.raises(RunError, match=r"is not finished; .* advlens report shows what is there"):
        read_run(run)
    unfinished = json.loads((run / "run.json").read_text(encoding="utf-8"))["unfinished"]
    assert unfinished == [{"model": "tiny1", "stage": "accuracy"}]


def test_a_run_without_a_record_is_said_to_be_unfinished(interrupted: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(interrupted, run)
    (run / "run.json").unlink()
    with pytest.raises(RunError, match=r"is not finished; the command that began it goes on"):
        write_report(run, [accuracy])


DAMAGES = {
    "other keys": lambda state: state.pop("rows"),
    "step is a text": lambda state: state.update(step="1"),
    "step beyond the end": lambda state: state.update(step=10**6),
    "weights of another shape": lambda state: state["classifier"].update(
        {"network.0.weight": torch.zeros(1)}
    ),
    "kept weights of another kind": lambda state: state.update(best_weights={"a": torch.zeros(1)}),
    "rows are numbers": lambda state: state.update(rows=[1]),
    "rows lack values": lambda state: state.update(rows=[{"epoch": 1}]),
    "rows are nested": lambda state: state["rows"][0].update(loss=[[1]]),
    "an epoch is not judged, and has no loss": lambda state: state.update(rows=[], best_weights={}),
    "an average that nobody asked for": lambda state: state.update(average={"a": torch.zeros(1)}),
    "the optimizer is empty": lambda state: state.update(optimizer={}),
    "momentum of another shape": lambda state: state["optimizer"]["state"][0].update(
        momentum_buffer=torch.zeros(2)
    ),
    "the identity is no text": lambda state: state.update(identity=3),
    "the identity is no JSON": lambda state: state.update(identity="{"),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained")
    Training(epochs=1, batch_size=8, validation=4)(classifier(0), images(), out, report=lambda t: 0)
    return out


@pytest.mark.parametrize("name", DAMAGES)
def test_a_tampered_checkpoint_is_one_sentence(name: str, trained: Path, tmp_path: Path) -> None:
    state = torch.load(trained / "last.pt", weights_only=True)
    DAMAGES[name](state)  # type: ignore[no-untyped-call]
    torch.save(state, tmp_path / "last.pt")
    with pytest.raises(CheckpointError, match=r"last\.pt is damaged: .*; remove it to start again"):
        Training(epochs=1, batch_size=8, validation=4)(classifier(0), images(), tmp_path)


def test_a_checkpoint_of_an_empty_identity_is_another_runs(trained: Path, tmp_path: Path) -> None:
    state = torch.load(trained / "last.pt", weights_only=True)
    torch.save(state | {"identity": "{}"}, tmp_path / "last.pt")
    with pytest.raises(RunError, match="holds a run with other settings, data or model: objective"):
        Training(epochs=1, batch_size=8, validation=4)(classifier(0), images(), tmp_path)


def test_a_training_of_other_settings_says_which(trained: Path) -> None:
    with pytest.raises(RunError, match=r"epochs is 1 there and 2 here; choose another --out"):
        Training(epochs=2, batch_size=8, validation=4)(classifier(0), images(), trained)
