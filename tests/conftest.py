"""Fixtures that several test files share."""

from pathlib import Path

import pytest

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real images and weights that may lie beside the checkout."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"no folder of real data at {SHARED_DATA}")
    return SHARED_DATA
