"""Signals that are remembered until the work is saved."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from advlens.signals import ENDING, remembered_signals


@pytest.mark.parametrize("number", ENDING)
def test_the_first_signal_is_remembered_and_handlers_come_back(number: int) -> None:
    before = signal.getsignal(number)
    with remembered_signals() as received:
        assert received() == 0
        os.kill(os.getpid(), number)
        assert received() == number
    assert signal.getsignal(number) is before


def test_handlers_come_back_after_an_exception() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ZeroDivisionError), remembered_signals():
        raise ZeroDivisionError
    assert signal.getsignal(signal.SIGTERM) is before


def test_another_thread_receives_none() -> None:
    found: list[int] = []

    def work() -> None:
        with remembered_signals() as received:
            found.append(received())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [0]


def python(code: str, **options: Any) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a new process."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, **options
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_the_process_at_once(second: int) -> None:
    code = (
        "import os, signal\n"
        "from advlens.signals import remembered_signals\n"
        "with remembered_signals():\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    print('goes on', flush=True)\n"
        f"    os.kill(os.getpid(), {int(second)})\n"
        "    print('too far', flush=True)\n"
    )
    assert python(code) == (-second, "goes on\n", "")


def test_a_terminal_that_is_gone_may_say_so_twice(tmp_path: Path) -> None:
    code = (
        "import os, pathlib, signal, time\n"
        "from advlens.signals import remembered_signals\n"
        "with remembered_signals() as received:\n"
        "    os.open(os.ttyname(1), os.O_RDWR)\n"  # the session's terminal from here on
        "    print('ready', flush=True)\n"
        "    while not received():\n"
        "        time.sleep(.01)\n"
        "    os.kill(os.getpid(), signal.SIGHUP)\n"
        "    print('epoch 7', flush=True)\n"
        "    pathlib.Path('saved').write_text(str(received()))\n"
    )
    terminal, inside = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=inside,
        stderr=inside,
        cwd=tmp_path,
        start_new_session=True,
    )
    os.close(inside)
    assert os.read(terminal, 100).strip() == b"ready"
    os.close(terminal)
    assert process.wait(30) == 0
    assert (tmp_path / "saved").read_text() == str(int(signal.SIGHUP))


SAYS = {
    signal.SIGINT: "interrupted",
    signal.SIGTERM: "stopped by SIGTERM",
    signal.SIGHUP: "stopped by SIGHUP",
}


@pytest.mark.parametrize("number", ENDING)
def test_a_signal_that_comes_while_the_program_is_imported(number: int) -> None:
    code = (
        "import os, runpy, sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'advlens.cli':\n"
        f"            os.kill(os.getpid(), {int(number)})\n"
        "sys.meta_path.insert(0, Finder())\n"
        "runpy.run_module('advlens', run_name='__main__')\n"
    )
    said = f"advlens: {SAYS[number]}; the same command continues\n"
    assert python(code) == (128 + number, "", said)
    # of the processes of torchrun, the first one speaks
    assert python(code, env={**os.environ, "RANK": "1"}) == (128 + number, "", "")


def test_a_worker_is_silent_and_signals_that_are_ignored_stay_so() -> None:
    code = (
        "import os, signal\n"
        "from advlens.signals import end_at_signals\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"  # as nohup does
        "end_at_signals()\n"
        "os.kill(os.getpid(), signal.SIGHUP)\n"
        "if worker := os.fork():\n"
        "    print(os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]))\n"
        "else:\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
    )
    assert python(code) == (0, f"{128 + signal.SIGINT}\n", "")
