"""Signals that are remembered until the work is saved; lines of a log at intervals."""

import os
import signal
import subprocess
import sys
import threading
from typing import Any

import pytest

from advlens import progress as module
from advlens.progress import Progress
from advlens.signals import ENDING, remembered_signals


@pytest.mark.parametrize("number", ENDING)
def test_the_first_signal_is_remembered_and_handlers_come_back(number):
    before = signal.getsignal(number)
    with remembered_signals() as received:
        assert received() == 0
        os.kill(os.getpid(), number)
        assert received() == number
    assert signal.getsignal(number) is before
    with pytest.raises(ZeroDivisionError), remembered_signals():
        raise ZeroDivisionError
    assert signal.getsignal(number) is before


def test_another_thread_receives_none():
    found: list[int] = []

    def work() -> None:
        with remembered_signals() as received:
            found.append(received())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [0]


def python(code: str, **options: Any) -> tuple[int, str, str]:
    call = {"capture_output": True, "text": True, "check": False} | options
    done = subprocess.run([sys.executable, "-c", code], **call)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_the_process_at_once(second):
    code = f"""
import os, signal
from advlens.signals import remembered_signals
with remembered_signals():
    for number, told in ((signal.SIGTERM, "goes on"), ({int(second)}, "too far")):
        os.kill(os.getpid(), number)
        print(told, flush=True)
"""
    assert python(code) == (-second, "goes on\n", "")


def test_a_terminal_that_is_gone_may_say_so_twice(tmp_path):
    code = """
import os, pathlib, signal, time
from advlens.signals import remembered_signals
with remembered_signals() as received:
    os.open(os.ttyname(1), os.O_RDWR)  # the session's terminal from here on
    print("ready", flush=True)
    while not received():
        time.sleep(.01)
    os.kill(os.getpid(), signal.SIGHUP)
    print("epoch 7", flush=True)
    pathlib.Path("saved").write_text(str(received()))
"""
    terminal, inside = os.openpty()
    where = {"stdout": inside, "stderr": inside, "cwd": tmp_path, "start_new_session": True}
    process = subprocess.Popen([sys.executable, "-c", code], **where)
    os.close(inside)
    assert os.read(terminal, 100).strip() == b"ready"
    os.close(terminal)
    assert process.wait(30) == 0
    assert (tmp_path / "saved").read_text() == str(int(signal.SIGHUP))


SAYS = ("interrupted", "stopped by SIGTERM", "stopped by SIGHUP")


@pytest.mark.parametrize(("number", "says"), [*zip(ENDING, SAYS, strict=True)])
def test_a_signal_that_comes_while_the_program_is_imported(number, says):
    code = f"""
import os, runpy, sys
class Finder:
    def find_spec(self, name, path, target=None):
        if name == "advlens.cli":
            os.kill(os.getpid(), {int(number)})
sys.meta_path.insert(0, Finder())
runpy.run_module("advlens", run_name="__main__")
"""
    assert python(code) == (128 + number, "", f"advlens: {says}; the same command continues\n")
    if number == ENDING[0]:  # of the processes of torchrun, the first one speaks
        assert python(code, env={**os.environ, "RANK": "1"}) == (128 + number, "", "")


def test_a_worker_is_silent_and_signals_that_are_ignored_stay_so():
    code = """
import os, signal
from advlens.signals import end_at_signals
signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
end_at_signals()
os.kill(os.getpid(), signal.SIGHUP)
if worker := os.fork():
    print(os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]))
else:
    os.kill(os.getpid(), signal.SIGINT)
"""
    assert python(code) == (0, f"{128 + signal.SIGINT}\n", "")


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(Progress, "said", 0.0)
    return now


def test_a_line_a_minute_with_rate_and_rest_and_one_for_a_pass_that_begins_later(clock, capsys):
    with Progress("model: accuracy", 100, done=20) as progress:
        for _ in range(4):
            clock[0] += 31
            progress.update(10)
    with Progress("model: too soon after the last line", 10):
        clock[0] += 5
    with Progress("model: sweep", 10):
        pass
    assert capsys.readouterr().err.splitlines() == [
        "model: accuracy: 20/100 images",
        "model: accuracy: 40/100 images, 0.3 images/s, 186 s left",
        "model: accuracy: 60/100 images, 0.3 images/s, 124 s left",
        "model: sweep: 0/10 images",
    ]


def test_the_first_process_prints_for_all(clock, capsys):
    with Progress("model", 10, shown=False) as progress:
        progress.update(10)
    assert (progress.done, capsys.readouterr().err) == (10, "")
