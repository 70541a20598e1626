"""What a piece of code costs, counted so that every machine finds the same."""

import cProfile
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def at_most(calls: int) -> Iterator[None]:
    """Fail where the block makes more calls of functions than that, Python's or C's."""
    with cProfile.Profile() as profile:
        yield
    made = sum(entry.callcount for entry in profile.getstats())
    assert made <= calls, f"{made} calls of functions, more than {calls}"
