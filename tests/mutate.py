"""Whether the tests notice a wrong formula: faults are put into a copy of the source, one by one.

    python tests/mutate.py [--only TEXT] [--write docs/mutants.md]

The faults stand in `tests/mutants/*.toml`: a file, its text before and after, and the tests that
should fail. Results are kept in `.mutants.json`; a fault is tried again where its own lines, or the
code of its source file or its tests, are others. `--only` takes those whose name holds a text.
"""

import argparse
import ast
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.util import cache_from_source
from multiprocessing import get_context
from pathlib import Path

import pytest
import scipy.stats  # noqa: F401
import torch  # noqa: F401
import torchvision  # noqa: F401

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "advlens"
LISTS = ROOT / "tests" / "mutants"
KEPT = ROOT / ".mutants.json"
LONGEST = 900
"""Seconds after which the tests of a fault are ended."""
COUNTS = re.compile(r"^\*\*.*faults are killed.*$", re.MULTILINE)
"""The line of the page that has its numbers; the table ends it, and the rest is written by hand."""


@dataclass(frozen=True)
class Mutant:
    file: str
    fault: str
    before: str
    after: str
    tests: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.file}: {self.fault}"

    def text(self) -> str:
        """The source file with the fault in it; ValueError where its place is not found once."""
        source = (SOURCE / self.file).read_text(encoding="utf-8")
        if source.count(self.before) != 1:
            raise ValueError(
                f"{self.name}: {self.before!r} occurs {source.count(self.before)} times"
            )
        return source.replace(self.before, self.after)

    def key(self) -> str:
        """Another one where the fault, or the code of its source file or its tests, is another."""
        paths = (SOURCE / self.file, *(ROOT / "tests" / test for test in self.tests))
        parts = [self.before, self.after, *map(code, paths)]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()


@cache
def code(path: Path) -> str:
    """What a file does: its tree, without comments and docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            node.value.value = ""
    return ast.dump(tree)


def mutants() -> list[Mutant]:
    return [
        Mutant(place["file"], each["fault"], each["before"], each["after"], tuple(tests))
        for path in sorted(LISTS.glob("*.toml"))
        for place in tomllib.loads(path.read_text(encoding="utf-8"))["place"]
        for each in place["mutant"]
        for tests in [each.get("tests", place["tests"])]
    ]


def attempt(mutant: Mutant, copy: Path) -> str | None:
    """The first test that fails with the fault put into a copy of the source; None: it survives.

    ValueError where that test fails without the fault as well.
    """
    path, text = copy / mutant.file, mutant.text()
    original = path.read_text(encoding="utf-8")
    # a compiled module is told from another by its size and second, which may be the same
    compiled = Path(cache_from_source(str(path)))
    try:
        path.write_text(text, encoding="utf-8")
        compiled.unlink(missing_ok=True)
        test = first_failure(mutant.tests, copy)
    finally:
        path.write_text(original, encoding="utf-8")
        compiled.unlink(missing_ok=True)
    if test and not passes(test, copy):
        raise ValueError(f"{test} fails without the fault too")
    return test


@cache
def passes(test: str, copy: Path) -> bool:
    """Whether a test passes on the source as it is."""
    return first_failure((test,), copy) is None


def first_failure(tests: tuple[str, ...], copy: Path) -> str | None:
    """The first of these tests that fails on a copy of the source."""
    with tempfile.TemporaryFile("w+", encoding="utf-8") as output:
        # a fork has SciPy and PyTorch already, which take longer to import than most tests
        process = get_context("fork").Process(target=run, args=(tests, copy, output.fileno()))
        process.start()
        process.join(LONGEST)
        if process.is_alive():
            process.kill()
            raise ValueError(f"the tests take more than {LONGEST} s")
        output.seek(0)
        text = output.read()
    if process.exitcode == 0:
        return None
    failed = re.search(r"^(?:FAILED|ERROR) tests/(\w\S*::\w+)", text, re.MULTILINE)
    if process.exitcode != 1 or failed is None:
        raise ValueError(f"pytest ended with {process.exitcode}\n{text}")
    return failed[1]


def run(tests: tuple[str, ...], copy: Path, output: int) -> None:
    """Run test files on a copy of the source, in a process of its own."""
    for stream in (1, 2):
        os.dup2(output, stream)
    os.chdir(ROOT)
    sys.path.insert(0, str(copy.parent))
    os.environ["PYTHONPATH"] = os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = str(copy.parent)
    options = ["-x", "-n0", "-rfE", "--hypothesis-seed=0", "-pno:randomly", "-pno:cacheprovider"]
    sys.exit(pytest.main([*options, *(f"tests/{test}" for test in tests)]))


def page(results: dict[str, dict[str, str]], before: str) -> str:
    """What `--write` writes: the page as it was, with the numbers and the table of today."""
    tried = [(mutant, results.get(mutant.key())) for mutant in mutants()]
    killed = sum(bool(result and result["by"]) for _, result in tried)
    last = max((result["date"] for _, result in tried if result), default="no day")
    share = f"{killed} of {len(tried)} faults are killed ({100 * killed / len(tried):.1f}%)"
    head = COUNTS.sub(f"**{share}.** Last tried on {last}.", before.partition("\n| file |")[0])
    lines = ["| file | fault | result |", "| --- | --- | --- |"]
    for mutant, result in tried:
        by = "not tried" if result is None else "**survives**"
        if result and result["by"]:
            by = f"killed by `{result['by'].replace('::', ' ')}`"
        lines.append(f"| `{mutant.file}` | {mutant.fault} | {by} |")
    return head + "\n" + "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="faults whose name holds this text")
    parser.add_argument("--write", type=Path, help="write the page of all results to this file")
    given = parser.parse_args()
    results = json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.exists() else {}
    errors = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "advlens"
        shutil.copytree(SOURCE, copy, ignore=shutil.ignore_patterns("__pycache__"))
        for mutant in mutants():
            if given.only not in mutant.name or mutant.key() in results:
                continue
            try:
                by = attempt(mutant, copy)
            except ValueError as error:
                errors += 1
                print(f"ERROR {mutant.name}: {error}", flush=True)
                continue
            print(f"{mutant.name}: {f'killed by {by}' if by else 'SURVIVES'}", flush=True)
            results[mutant.key()] = {"by": by, "date": datetime.now(UTC).date().isoformat()}
            KEPT.write_text(json.dumps(results, indent=1), encoding="utf-8")
    if given.write:
        before = given.write.read_text(encoding="utf-8")
        given.write.write_text(page(results, before), encoding="utf-8")
    sys.exit(1 if errors else 0)


if __name__ == "__main__":
    main()
