"""Several processes: one speaks and writes; tables are those of one, byte for byte."""

import contextlib
import dataclasses
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from advlens import AuditSettings, AutoAttack, Classifier, DataError, Fgsm, meeting
from advlens.auditing import audit, jobs, passes
from advlens.cli import main
from advlens.distributed import joined
from advlens.models.zoo import CIFAR10_CLASSES
from advlens.plugins import STAGES
from advlens.prepared import Prepared
from advlens.progress import Progress
from advlens.runs.folder import read_json
from advlens.wordnet import CIFAR10_SYNSETS
from advlens.workflows import training as recipes
from own_network import NETWORK
from small_runs import noise, results, small, unreported, with_training, write_pictures
from together import end, start

COMMON = "--model processes_network:network --data folder:images --out run --device cpu"
TRAIN = f"train {COMMON} --epochs 1 --batch-size 4 --validation 4".split()
PATIENCE = 0.05
PATIENT = ["--patience", f"{PATIENCE}"]
WRONG = [
    ([*TRAIN, "--epochs", "0"], "epochs must be a positive number, not 0\n"),
    ([*TRAIN, "--model", "resnet15"], "no model named 'resnet15'; perhaps you meant resnet56,"),
    (["models", "list"], "advlens models runs in one process; start it without torchrun\n"),
]
SETTINGS = AuditSettings(
    stages=tuple(name for name in STAGES.names if name != "dissection"),
    **{"epsilon": 0.5, "steps": 2, "sweep_images": 20, "sweep_steps": 2, "neuron_steps": 2},
    **{"top": 0.1, "explained": 9, "points": 2, "baselines": 1, "samples": 2, "generated": 2},
    **{"visualized": 7, "visualization_steps": 2, "inverted": 7, "inversion_steps": 3},
    **{"generation_steps": 2, "autoattack": 13, "batch_size": 6, "device": "cpu"},
)
KNOWN = {"classes": CIFAR10_CLASSES, "synsets": tuple(CIFAR10_SYNSETS.values())}
IMAGES = 39  # seven batches, the last one not full: two processes have 4 and 3, three 3, 2 and 2


@pytest.fixture
def world(tmp_path):
    (tmp_path / "processes_network.py").write_text(NETWORK)
    write_pictures(tmp_path / "images", 4)
    return tmp_path


def command(world: Path, words: list[str]) -> None:
    """One of the processes: what it says goes to files of its own."""
    os.chdir(world)
    rank = os.environ["RANK"]
    with (
        open(f"out{rank}", "w") as out,
        open(f"err{rank}", "w") as err,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        code = main(words)
    raise SystemExit(code)


def said(world: Path) -> tuple[list[str], list[str]]:
    outs = [(world / f"out{rank}").read_text() for rank in (0, 1)]
    return outs, [(world / f"err{rank}").read_text() for rank in (0, 1)]


def test_a_training_is_told_once(world):
    assert end(start(2, command, world, TRAIN)) == [0, 0]
    outs, errs = said(world)
    assert outs[0].splitlines()[0].startswith("epoch 1/1: ")
    assert outs[0].splitlines()[-1] == "run/model.md"
    assert "n = 12)" in outs[0]
    assert outs[1] == errs[1] == ""
    assert (world / "run/model.safetensors").exists()


@pytest.mark.parametrize(("words", "sentence"), WRONG, ids=["settings", "model", "verb"])
def test_wrong_use_is_told_once(world, words, sentence):
    assert end(start(2, command, world, words)) == [2, 2]
    outs, errs = said(world)
    assert errs[0].startswith(f"advlens: {sentence}")
    assert (*outs, errs[1]) == ("", "", "")


def refusing(world: Path, words: list[str]) -> None:
    if os.environ["RANK"] == "1":
        (world / "elsewhere").mkdir()
        world = world / "elsewhere"  # another machine, without the network and the images
    command(world, words)


def test_one_that_refuses_before_the_others_meet_it_says_why(world):
    assert end(start(2, refusing, world, ["audit", *COMMON.split(), *PATIENT])) == [1, 2]
    # the first one knows that a reason is given: it has nothing to add
    assert (world / "err0").read_text() == ""
    sentence = (world / "elsewhere/err1").read_text()
    assert sentence.startswith("advlens: process 1: ")
    assert "folder:images names the folder images, which does not exist" in sentence
    assert sentence.count("\n") == 1


def failing(world: Path, words: list[str], what: str) -> None:
    def train(*args: Any, processes: Any, **kwargs: Any) -> None:
        processes.total(torch.zeros(1))  # both have found each other
        if not processes.first:
            if what == "works":  # and says nothing, for longer than the patience of the first one
                latest = time.monotonic() + 1.5 * 60 * PATIENCE
                while time.monotonic() < latest:
                    time.sleep(0.01)
            elif what == "stopped":
                os.kill(os.getpid(), signal.SIGSTOP)
            elif what == "waits":  # in a library that is to meet the others
                with meeting.waiting():
                    threading.Event().wait()
            elif what == "hangs":  # as in a file system that does not answer, in a thread of many
                threading.Event().wait()
            elif what == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise DataError("cannot read b.png")
        processes.total(torch.zeros(1))

    recipes.train = train
    if what not in ("alone", "works"):
        meeting.GRACE = 0.5  # it gives no reason
    command(world, words)


@pytest.mark.parametrize("what", ["alone", "works"])
def test_what_only_another_process_can_see_it_tells_itself(what, world):
    """Also where it takes longer than the patience: one that works is waited for."""
    assert end(start(2, failing, world, [*TRAIN, *PATIENT], what)) == [1, 1]
    assert said(world)[1] == ["", "advlens: process 1: cannot read b.png\n"]


def test_the_loss_of_a_process_that_says_nothing_is_said(world):
    assert end(start(2, failing, world, TRAIN, "killed")) == [1, -signal.SIGKILL]
    told = "process 0 of 2 has lost the others, and none of them says why; one may have "
    assert (world / "err0").read_text().startswith(f"advlens: {told}")


NO_SIGN = "process 1 of 2 has given no sign of life"
HANGING = {"stopped": NO_SIGN, "hangs": NO_SIGN}
HANGING |= {"waits": "all 2 processes have waited for each other"}


@pytest.mark.parametrize(("what", "told"), HANGING.items(), ids=HANGING)
def test_processes_that_get_nowhere_are_given_up(what, told, world):
    first, lost = start(2, failing, world, [*TRAIN, *PATIENT], what)
    assert end([first]) == [1]
    assert lost.is_alive()
    lost.kill()
    lost.join()
    told = f"advlens: {told} for {PATIENCE} minutes (--patience); start the same command again\n"
    assert (world / "err0").read_text() == told


@pytest.mark.parametrize("missing", ["RANK", "MASTER_ADDR", "MASTER_PORT"])
def test_an_environment_that_names_no_meeting_point(missing, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    whole = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for name, value in whole.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv(missing)
    assert main(["audit", "--model", "cifar10-l2", "--data", "sample", "--out", "run"]) == 2
    told = f"several processes work together, but {missing} is missing or wrong; start them with "
    said = capsys.readouterr().err
    assert said == f"advlens: WORLD_SIZE is '2', so {told}torchrun, or unset WORLD_SIZE\n"


def network() -> nn.Module:
    layers = nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 3), nn.ReLU()
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(20, 10))


def models() -> list[Classifier]:
    return [small(network, f"tiny{seed}", seed=seed, **KNOWN) for seed in (0, 1)]


def part(attack, name, model, images, labels, ids):
    """In the place of AutoAttack's four attacks, which take their time."""
    return Fgsm(threat=attack.threat)(model, images, labels)


def one(out: Path, dies_after: int | None = None) -> None:
    """An audit as one of the processes, which may die after some batches or steps.

    They share the folder, or have one each, as on machines without a common file system.
    """
    if out.name == "apart":
        out /= os.environ["RANK"]
    if dies_after is not None:
        left, update = dies_after, Progress.update

        def dies(progress: Progress, done: int) -> None:
            nonlocal left
            update(progress, done)
            left -= 1
            if left == 0:
                os._exit(9)

        Progress.update = dies
        for module in (passes, jobs):
            module.SAVE_EVERY = module.SAVE_SHARE = 0.0
    audited_together(out, SETTINGS)


def audited_together(out: Path, settings: AuditSettings) -> None:
    AutoAttack.part = part
    with unreported(), joined(torch.device("cpu")) as processes:
        data = with_training(noise(IMAGES, **KNOWN), 130)
        audit(models(), data, out, settings=settings, processes=processes)


def crowded(out: Path) -> None:
    """An audit in batches of twice the size, for which one process lacks the memory."""
    run = Prepared._filled

    def filled(prepared: Prepared, call: Any, images: Any) -> Any:
        if os.environ["RANK"] == "1" and images.requires_grad and len(images) > 8:
            raise torch.OutOfMemoryError("out of memory")
        return run(prepared, call, images)

    Prepared._filled = filled
    few = ("accuracy", "attribution", "inversion")
    audited_together(out, dataclasses.replace(SETTINGS, batch_size=12, stages=few))


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    out = tmp_path_factory.mktemp("alone")
    assert end(start(1, one, out)) == [0]
    return out


def test_processes_give_the_bytes_of_one(alone, tmp_path):
    assert end(start(3, one, tmp_path)) == [0, 0, 0]
    assert results(tmp_path) == results(alone)
    for picture in (alone / "figures").rglob("*.png"):
        assert (tmp_path / picture.relative_to(alone)).read_bytes() == picture.read_bytes()
    assert [path.name for path in (tmp_path / "parts").iterdir() if "state" in path.name] == []


def test_all_halve_their_batches_where_the_memory_of_one_does_not_suffice(alone, tmp_path):
    assert end(start(2, crowded, tmp_path)) == [0, 0]
    for name in ("accuracy", "autoattack", "attribution_images", "inversion"):
        table = f"results/{name}.csv"
        assert (tmp_path / table).read_bytes() == (alone / table).read_bytes()
    told = read_json(tmp_path / "run.json")["warnings"]
    assert len([text for text in told if text.startswith("batches of 12 images do not fit")]) == 2
    assert not list((tmp_path / "parts").glob("*.state.*"))


@pytest.mark.parametrize(("folder", "deaths"), [("shared", (3, 22)), ("apart", (15,))])
def test_killed_processes_start_again_and_end_with_the_same_bytes(folder, deaths, alone, tmp_path):
    """At 22 with generated images on hand."""
    out = tmp_path / folder
    first = out / "0" if folder == "apart" else out
    for attempt, dies_after in enumerate(deaths):
        assert 9 in end(start(2, one, out, dies_after, attempt=attempt))
        assert read_json(first / "run.json")["unfinished"]
        assert len([*out.rglob("*-1-of-2.state.safetensors")]) > 0
    assert end(start(2, one, out, attempt=len(deaths))) == [0, 0]
    assert results(first) == results(alone)
