"""The list of faults that `tests/mutate.py` tries fits the source."""

import ast
from collections import Counter

import pytest

from mutate import ROOT, Mutant, mutants

ALL = mutants()


@pytest.mark.parametrize("mutant", ALL, ids=lambda mutant: mutant.name)
def test_a_fault_has_its_one_place_and_tests(mutant: Mutant) -> None:
    ast.parse(mutant.text())
    assert mutant.before != mutant.after
    assert mutant.tests
    assert all((ROOT / "tests" / test).is_file() for test in mutant.tests)


def test_names_of_faults_differ() -> None:
    assert max(Counter(mutant.name for mutant in ALL).values()) == 1
