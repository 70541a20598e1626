"""Print the size of the house at some revisions: python tools/measure_house.py REVISION …

A room is a file or folder directly under the package. An arrow goes from a room to one that it
imports; the depth is the number of rooms in the longest chain of arrows.
"""

import ast
import functools
import graphlib
import io
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Mapping

PACKAGE = "src/advlens/"


def files(revision: str) -> dict[str, str]:
    """The Python files of a revision, by path."""
    packed = subprocess.run(["git", "archive", revision], capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        paths = [name for name in archive.getnames() if name.endswith(".py")]
        read = {path: archive.extractfile(path) for path in paths}
        return {path: file.read().decode() for path, file in read.items() if file is not None}


def room(path: str) -> str:
    """The room that a module's path or dotted name lies in."""
    return path.removeprefix(PACKAGE).replace("/", ".").split(".")[0]


def imported(tree: ast.AST) -> Iterator[str]:
    """The rooms that a module imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "advlens":
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("advlens."):
            yield (node.module or "").split(".")[1]
        elif isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
            yield from (parts[1] for parts in names if parts[0] == "advlens" and len(parts) > 1)


def depth(arrows: Mapping[str, set[str]]) -> int:
    """The number of rooms in the longest chain; there must be no circle."""
    graphlib.TopologicalSorter(arrows).prepare()

    @functools.cache
    def below(name: str) -> int:
        return 1 + max(map(below, arrows.get(name, ())), default=0)

    return max(map(below, arrows))


def measured(revision: str) -> dict[str, object]:
    """The figures of a revision."""
    texts = files(revision)
    package = {path: text for path, text in texts.items() if path.startswith(PACKAGE)}
    trees = {path: ast.parse(text) for path, text in package.items()}
    listed = ["git", "ls-tree", "--name-only", revision, PACKAGE]
    entries = subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split()
    rooms = {room(path) for path in package} - {"__init__"}
    arrows = {name: set[str]() for name in rooms}
    for path, tree in trees.items():
        if (own := room(path)) in rooms:
            arrows[own] |= {name for name in imported(tree) if name in rooms} - {own}
    functions = [
        (node.end_lineno or 0) - node.lineno + 1
        for tree in trees.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
    ]
    lines = {path: text.count("\n") for path, text in texts.items()}
    return {
        "entries": len([name for name in entries if not name.endswith("py.typed")]),
        "files": len(package),
        "lines": sum(lines[path] for path in package),
        "longest file": max(lines[path] for path in package),
        "longest function": max(functions),
        "fmt: skip": sum(text.count("# fmt: skip") for text in package.values()),
        "arrows": sum(map(len, arrows.values())),
        "depth": depth(arrows),
        "lines of tests": sum(count for path, count in lines.items() if path.startswith("tests/")),
    }


if __name__ == "__main__":
    columns = [measured(revision) for revision in sys.argv[1:] or ["HEAD"]]
    for name in columns[0]:
        print(f"| {name} |", " | ".join(str(column[name]) for column in columns), "|")
