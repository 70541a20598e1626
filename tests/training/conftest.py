"""Fixtures that tests of training share."""

import pytest
from tiny import Whole, train


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """A training with the settings `SHORT`, which no test writes to."""
    out = tmp_path_factory.mktemp("whole")
    return Whole(train(out), out)
