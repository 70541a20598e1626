"""Fixtures of the tests of data sets."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def cifar10_folder() -> Path:
    folder = os.environ.get("ADVLENS_CIFAR10")
    if folder is None:
        pytest.skip("ADVLENS_CIFAR10 does not name the folder of CIFAR-10's binary version")
    return Path(folder)
