"""The command line under torchrun: several processes compute, one speaks and writes."""

import contextlib
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from advlens.cli import main
from advlens.errors import DataError
from advlens.workflows import training as recipes
from together import end, start

NETWORK = """
import torch
from torch import nn
from advlens import Classifier

def network():
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, 2),
    )
    return Classifier(layers, name="tiny", classes=("cat", "dog"), image_size=8, resize=8)
"""
TRAIN = [
    "train",
    "--model",
    "processes_network:network",
    "--data",
    "folder:images",
    "--out",
    "run",
    "--epochs",
    "1",
    "--batch-size",
    "4",
    "--validation",
    "4",
    "--device",
    "cpu",
]


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """A folder with a network and images."""
    (tmp_path / "processes_network.py").write_text(NETWORK)
    random = torch.Generator().manual_seed(0)
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            folder = tmp_path / "images" / split / name
            folder.mkdir(parents=True)
            for number in range(5):
                pixels = torch.randint(0, 256, (8, 8, 3), generator=random).byte()
                Image.fromarray(pixels.numpy()).save(folder / f"{number}.png")
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
    """Standard output and standard error, by process."""
    outs, errs = (
        [(world / f"{kind}{rank}").read_text() for rank in (0, 1)] for kind in ("out", "err")
    )
    return outs, errs


def test_a_training_is_told_once(world: Path) -> None:
    assert end(start(2, command, world, TRAIN)) == [0, 0]
    outs, errs = said(world)
    assert outs[0].splitlines()[0].startswith("epoch 1/1: ")
    assert outs[0].splitlines()[-1] == "run/model.md"
    assert "n = 10)" in outs[0]
    assert outs[1] == errs[1] == ""
    assert (world / "run/model.safetensors").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([*TRAIN, "--epochs", "0"], "advlens: epochs must be a positive number, not 0\n"),
        (
            [*TRAIN, "--model", "resnet15"],
            "advlens: no model named 'resnet15'; perhaps you meant resnet56,",
        ),
        (
            ["models", "list"],
            "advlens: advlens models runs in one process; start it without torchrun\n",
        ),
    ],
)
def test_wrong_use_is_told_once(world: Path, words: list[str], sentence: str) -> None:
    assert end(start(2, command, world, words)) == [2, 2]
    outs, errs = said(world)
    assert errs[0].startswith(sentence)
    assert (*outs, errs[1]) == ("", "", "")


def refusing(world: Path, words: list[str]) -> None:
    if os.environ["RANK"] == "1":
        (world / "elsewhere").mkdir()
        world = world / "elsewhere"  # another machine, without the network and the images
    command(world, words)


def test_one_that_refuses_before_the_others_meet_it_says_why(world: Path) -> None:
    words = ["audit", *TRAIN[1:7], "--device", "cpu", "--patience", "0.05"]
    assert end(start(2, refusing, world, words)) == [1, 2]
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
            if what == "stopped":
                os.kill(os.getpid(), signal.SIGSTOP)
            if what == "hangs":  # as in a file system that does not answer, in a thread of many
                threading.Event().wait()
            if what == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise DataError("cannot read b.png")
        processes.total(torch.zeros(1))

    recipes.train = train  # type: ignore[assignment]
    command(world, words)


def test_what_only_another_process_can_see_it_tells_itself(world: Path) -> None:
    assert end(start(2, failing, world, TRAIN, "alone")) == [1, 1]
    _, errs = said(world)
    assert errs == ["", "advlens: process 1: cannot read b.png\n"]


def test_the_loss_of_a_process_that_says_nothing_is_said(world: Path) -> None:
    assert end(start(2, failing, world, TRAIN, "killed")) == [1, -signal.SIGKILL]
    assert (
        (world / "err0")
        .read_text()
        .startswith(
            "advlens: process 0 of 2 has lost the others, and none of them says why; one may have "
        )
    )


@pytest.mark.parametrize("what", ["stopped", "hangs"])
def test_a_process_that_does_nothing_is_given_up(what: str, world: Path) -> None:
    first, lost = start(2, failing, world, [*TRAIN, "--patience", "0.05"], what)
    assert end([first]) == [1]
    assert lost.is_alive()
    lost.kill()
    lost.join()
    assert (world / "err0").read_text() == (
        "advlens: process 1 of 2 has given no sign of life for 0.05 minutes (--patience); start "
        "the same command again\n"
    )


def working(world: Path, words: list[str]) -> None:
    def train(*args: Any, processes: Any, **kwargs: Any) -> None:
        processes.total(torch.zeros(1))
        latest = time.monotonic() + 1.5 * 0.05 * 60
        while processes.rank == 1 and time.monotonic() < latest:
            time.sleep(0.01)
        processes.total(torch.zeros(1))
        raise DataError("both are here")

    recipes.train = train  # type: ignore[assignment]
    command(world, words)


def test_a_process_that_works_alone_is_waited_for(world: Path) -> None:
    assert end(start(2, working, world, [*TRAIN, "--patience", "0.05"])) == [1, 1]
    assert said(world)[1] == ["advlens: both are here\n", ""]


@pytest.mark.parametrize("missing", ["RANK", "MASTER_ADDR", "MASTER_PORT"])
def test_an_environment_that_names_no_meeting_point(
    missing: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    whole = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for name, value in whole.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv(missing)
    words = ["audit", "--model", "cifar10-l2", "--data", "sample", "--out", str(tmp_path)]
    assert main(words) == 2
    assert (
        f"advlens: WORLD_SIZE is '2', so several processes work together, but {missing} is "
        "missing or wrong; start them with torchrun, or unset WORLD_SIZE\n"
    ) in capsys.readouterr().err
