"""Fixtures of the tests of sections."""

from pathlib import Path

import pytest

from sections import copied


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    """A copy of the file's run, for a test that changes its tables."""
    return copied(made, tmp_path)
