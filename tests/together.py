"""Processes started for a test as torchrun would start them."""

import multiprocessing
import os
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from typing import Any

import torch
from torch.distributed import TCPStore

FORKSERVER = multiprocessing.get_context("forkserver")
# imported once for all children; torch imports its compiler at an optimizer's first step
FORKSERVER.set_forkserver_preload(
    ["advlens.training", "torch._dynamo", "advlens.auditing", "pytest"]
)
SERVERS: list[TCPStore] = []
"""Where the processes of a test meet, for as long as the tests run."""


def start(
    count: int, target: Callable[..., None], *args: Any, attempt: int = 0
) -> list[BaseProcess]:
    """Start `target(*args)` in so many processes, which can join each other.

    A further attempt meets where the one before has met, as torchrun's restarts do, which each
    machine counts by its own failures: here only the last process has failed.
    """
    if attempt == 0:
        SERVERS.append(TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False))
    port = SERVERS[-1].port
    processes: list[BaseProcess] = []
    for rank in range(count):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
        place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        place |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": 0}
        if rank == count - 1:
            place["TORCHELASTIC_RESTART_COUNT"] = attempt
        given = (place, torch.get_num_threads(), target, *args)
        processes.append(FORKSERVER.Process(target=_run, args=given))
        processes[-1].start()
    return processes


def end(processes: list[BaseProcess], timeout: float = 60) -> list[int | None]:
    """Wait for processes; return their exit codes."""
    deadline = time.monotonic() + timeout
    for process in processes:
        process.join(max(0, deadline - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()
            raise AssertionError("a process hangs")
    return [process.exitcode for process in processes]


def _run(place: dict[str, Any], threads: int, target: Callable[..., None], *args: Any) -> None:
    torch.set_num_threads(threads)  # the tests' own: sums shared out otherwise round otherwise
    os.fsync = lambda descriptor: None  # the disk is not tested, as in conftest.py
    os.environ.update({name: str(value) for name, value in place.items()})
    target(*args)
