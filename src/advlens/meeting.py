"""What cooperating processes tell each other: who is alive, and who reports why they end.

They share torchrun's store. A process that is stopped, or whose machine is gone, closes no
connection, so a sum over all processes would wait for it forever.
"""

import contextlib
import hashlib
import itertools
import os
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.distributed.distributed_c10d import PrefixStore, Store

from advlens.errors import LostError, SettingsError

GRACE = 5.0
"""Seconds that an ending process waits for another one to report the reason."""
PAUSE = 0.05
"""Seconds between two looks for another process."""
BEATS = 20
"""Signs of life that may be missed."""
_waits = ""
"""The number of the wait that the process is in; empty while it works."""
_numbers = itertools.count()
_meeting = ""
"""The name of the meeting that the process is in."""


@contextlib.contextmanager
def waiting() -> Iterator[None]:
    """Within the block the process waits for the others.

    Like work, this is a sign of life, unless all of them stay in one such block each.
    """
    global _waits
    _waits = str(next(_numbers))
    try:
        yield
    finally:
        _waits = ""


@dataclass(frozen=True)
class Place:
    """This process's place among those that torchrun describes in the environment.

    Attributes:
        rank: number of this process.
        count: number of processes.
    """

    rank: int
    count: int

    @classmethod
    def described(cls) -> "Place":
        """The place that the environment describes; without torchrun, that of a single process.

        Raises:
            SettingsError: there are other processes, but not how to reach them.
        """
        count = os.environ.get("WORLD_SIZE", "1")
        if count == "1":
            return cls(0, 1)
        needed = ("WORLD_SIZE", "RANK", "MASTER_PORT")
        wrong = [name for name in needed if not os.environ.get(name, "").isdecimal()]
        if wrong or not os.environ.get("MASTER_ADDR"):
            raise SettingsError(
                f"WORLD_SIZE is {count!r}, so several processes work together, but "
                f"{(*wrong, 'MASTER_ADDR')[0]} is missing or wrong; start them with torchrun, or "
                "unset WORLD_SIZE"
            )
        return cls(int(os.environ["RANK"]), int(count))

    def store(self, seconds: float, name: str = "") -> Store:
        """The store that all processes share; a call that needs the others waits up to `seconds`.

        It outlives a restart, and with it what dead processes have left there. So each meeting has
        a part of its own.

        Args:
            seconds: how long a call may take.
            name: of the part (default: this meeting's, or before it that of this machine's attempt,
                as torchrun counts its failures).

        Raises:
            RuntimeError: it cannot be reached in this time.
        """
        serves = self.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
        server = TCPStore(
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            is_master=serves,
            timeout=timedelta(seconds=seconds),
            wait_for_workers=False,
            multi_tenant=True,
        )
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        return PrefixStore(f"advlens/{name or _meeting or attempt}", server)

    def meet(self, patience: float) -> None:
        """Wait until all processes are there, whatever dead ones have left in the store.

        The first process makes up a name for the meeting. Each other one asks it under a new word,
        since what a dead one has asked or has been told is still there, and confirms the answer.

        Raises:
            LostError: a process does not come in `patience` seconds.
            RuntimeError: the store cannot be reached in this time.
        """
        global _meeting
        store, own = self.store(patience, "door"), uuid.uuid4().hex
        missing = {0} if self.rank else {*range(1, self.count)}
        left = patience / PAUSE  # looks, not seconds: all may be suspended together
        if self.rank:
            store.set(f"{self.rank}", own)
        while missing:
            if (left := left - 1) < 0:
                raise LostError(self._silent(min(missing), patience))
            for other in sorted(missing):
                if self.rank == 0 and store.check([f"{other}"]):
                    store.set(store.get(f"{other}").decode(), own)
                if store.check([own if self.rank else f"{own}/{other}"]):
                    missing.remove(other)
            time.sleep(PAUSE)
        _meeting = store.get(own).decode() if self.rank else own
        store.set(f"{_meeting}/{self.rank}", "here")

    def speaks(self, sentence: str, *, lost: bool) -> bool:
        """Whether this process is the one that reports why it ends.

        A reason that the first process also reports is reported by it alone. The loss of the others
        is reported once, and only if none of them gives a reason.
        """
        said = f"said/{hashlib.sha256(sentence.encode()).hexdigest()}"
        try:
            store = self.store(GRACE)
            if not lost:
                store.set("reason", "")  # will be given
            if (self.rank > 0 or lost) and _comes(store, "reason" if lost else said):
                return False
            return int(store.add("lost" if lost else said, 1)) == 1
        except RuntimeError:
            return True  # the store is gone

    @contextlib.contextmanager
    def watched(self, patience: float) -> Iterator[None]:
        """Within the block, this process ends if others give no sign of life for so long.

        The first process watches all others; these watch the first. A process gives signs of life
        while the calling thread computes or waits for the others, and none while it hangs in a file
        system. The first one also ends if for so long all have waited for each other, each where it
        was. Beats are counted, not seconds: if all are suspended together, none is given up.

        Args:
            patience: seconds.
        """
        over, thread = threading.Event(), threading.get_ident()
        watch = threading.Thread(target=self._watch, args=(patience, over, thread), daemon=True)
        watch.start()
        try:
            yield
        finally:
            over.set()
            watch.join(1)  # a store that does not answer blocks nobody

    def _watch(self, patience: float, over: threading.Event, thread: int) -> None:
        others = range(1, self.count) if self.rank == 0 else (0,)
        seen = dict.fromkeys(others, b"")
        missed = dict.fromkeys(others, 0)
        places: list[str] = []
        stuck = 0
        pause = patience / BEATS
        store: Store | None = None
        beat, spent = 0, -1
        while True:
            before, spent = spent, _spent(thread)
            waits = _waits
            beat += spent != before or bool(waits)
            with contextlib.suppress(RuntimeError):
                store = store or self.store(pause)
                store.set(f"alive/{self.rank}", f"{beat} {waits}")
            for other in others:
                key, state = f"alive/{other}", None
                with contextlib.suppress(RuntimeError):
                    if store and (seen[other] or store.check([key])):
                        state = store.get(key)
                missed[other] = missed[other] + 1 if state in (None, seen[other]) else 0
                seen[other] = state or seen[other]
                if missed[other] > BEATS and not over.is_set():
                    self._give_up(self._silent(other, patience))
            now = [waits, *(state.decode().partition(" ")[2] for state in seen.values())]
            stuck = stuck + 1 if places == now and all(now) else 0
            places = now
            if stuck > BEATS and self.rank == 0 and not over.is_set():
                told = f"all {self.count} processes have waited for each other"
                self._give_up(f"{told} {_patience(patience)}")
            if over.wait(pause):
                return

    def _silent(self, other: int, patience: float) -> str:
        told = f"process {other} of {self.count} has given no sign of life"
        return f"{told} {_patience(patience)}"

    def _give_up(self, sentence: str) -> None:
        """End as if killed: the main thread may wait in a library forever."""
        if self.speaks(sentence, lost=True):
            print(f"advlens: {sentence}", file=sys.stderr, flush=True)
        os._exit(LostError.exit_code)


def _patience(seconds: float) -> str:
    return f"for {seconds / 60:g} minutes (--patience); start the same command again"


def _spent(thread: int) -> int:
    """Nanoseconds that a thread has computed; if the system does not tell, a clock's."""
    if not hasattr(time, "pthread_getcpuclockid"):
        return time.monotonic_ns()
    return time.clock_gettime_ns(time.pthread_getcpuclockid(thread))


def _comes(store: Store, key: str) -> bool:
    """Whether a process sets the key soon; the store's own `wait` prints when it fails."""
    latest = time.monotonic() + GRACE
    while not store.check([key]):
        if time.monotonic() > latest:
            return False
        time.sleep(GRACE / 100)
    return True
