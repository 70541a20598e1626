"""Signals that are remembered until the work is saved."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from advlens.signals import remembered_signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
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
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (-second, "goes on\n")
