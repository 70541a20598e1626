"""How alike classes are: paths in a hierarchy, the matrix C of D22 eq. 10, and files with either.

A file holds lines of cells separated by commas, of one of three kinds:

- a matrix C: the first line and the first column name the classes; values in [0, 1], 1 within a
  class;
- a tree: lines parent,child; the distance of two classes is the number of edges of the shortest
  path through a common ancestor, as in WordNet, and classes without one have similarity 0;
- pairs: lines class,class,distance, one for each pair.

Distances d become C = exp(−d²/2σ²).
"""

import csv
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from advlens.checks import check_number
from advlens.errors import DataError, NumericError, SettingsError

Matrix = Float64[np.ndarray, "classes classes"]
Cells = list[list[str]]
ROUNDING = 1e-6
"""Difference of two values in a file that are meant to be the same."""
FLOOR = 1e-6
"""How far from singular a matrix is made that `nearest_definite` finds."""
MOST_PROJECTIONS = 10_000


def ancestors(node: str, parents: Callable[[str], Iterable[str]]) -> dict[str, int]:
    """Every ancestor of a node, including itself, with the fewest steps up to it."""
    steps = {node: 0}
    for child in (queue := [node]):  # breadth first: the first visit takes the shortest path
        for parent in parents(child):
            if parent not in steps:
                steps[parent] = steps[child] + 1
                queue.append(parent)
    return steps


def path_lengths(nodes: Sequence[str], parents: Callable[[str], Iterable[str]]) -> Matrix:
    """Edges of the shortest path of each pair through a common ancestor; ∞ without one."""
    below: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for index, node in enumerate(nodes):
        for ancestor, steps in ancestors(node, parents).items():
            below[ancestor].append((index, steps))
    lengths = np.full((len(nodes), len(nodes)), np.inf)
    for reached in below.values():
        indices, steps_up = np.array(reached).T
        pairs = np.ix_(indices, indices)
        lengths[pairs] = np.minimum(lengths[pairs], steps_up[:, None] + steps_up)
    return lengths


def gaussian(distances: Matrix, sigma: float) -> Matrix:
    """C[l, m] = exp(−d(l, m)² / (2σ²)), values in [0, 1] (D22 eq. 10).

    Raises:
        SettingsError: `sigma` is not a positive number.
    """
    check_number("sigma", sigma, above=0)
    similarity: Matrix = np.exp(-((distances / sigma) ** 2) / 2)
    return similarity


def check_definite(similarity: Matrix, what: str, mend: str) -> None:
    """Raise NumericError if a similarity is not positive definite, so that √(vᵀCv) is no norm.

    Args:
        similarity: C, of classes that differ.
        what: what it is, for the error.
        mend: how to get another.
    """
    eigenvalues = np.linalg.eigvalsh(similarity)
    rounding = len(similarity) * np.finfo(np.float64).eps * eigenvalues[-1]
    if eigenvalues[0] <= rounding:
        raise NumericError(
            f"{what} has the eigenvalue {eigenvalues[0]:.2g}, so it is not positive definite and "
            f"defines no norm; {mend}"
        )


def nearest_definite(similarity: Matrix) -> Matrix:
    """The nearest positive definite similarity in the Frobenius norm, within about `FLOOR`.

    Its diagonal is 1, its values lie in [0, 1] and its eigenvalues are at least `FLOOR` / 2. The
    projections on these two convex sets alternate, with Dykstra's corrections (Higham 2002,
    Computing the nearest correlation matrix).

    Raises:
        NumericError: the projections do not converge.
    """
    nearest = similarity
    beyond, outside = np.zeros_like(nearest), np.zeros_like(nearest)
    for _ in range(MOST_PROJECTIONS):
        values, vectors = np.linalg.eigh(nearest + beyond)
        semidefinite = (vectors * values.clip(0)) @ vectors.T
        beyond += nearest - semidefinite
        nearest = (semidefinite + outside).clip(0, 1)
        np.fill_diagonal(nearest, 1)
        outside += semidefinite - nearest
        if np.linalg.norm(nearest - semidefinite) < FLOOR / 4:
            regular: Matrix = (nearest + FLOOR * np.eye(len(nearest))) / (1 + FLOOR)
            return regular
    raise NumericError("no positive definite similarity is found near this one; give another")


def read_similarity(
    path: Path, classes: Sequence[str], synsets: Sequence[str] | None, sigma: float
) -> Matrix:
    """The similarity C of classes that a file gives; it may not be positive definite.

    Args:
        path: a file of one of the kinds at the top of this module.
        classes: the names of the classes, in the order of the result.
        synsets: their WordNet ids, which a file may use instead.
        sigma: the width of C where the file holds distances.

    Raises:
        DataError: it cannot be read, is of no such kind, lacks a class, or contradicts itself.
        SettingsError: `sigma` is not 1 where the file holds no distances.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [[cell.strip() for cell in row] for row in csv.reader(file) if any(row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot read the similarity of classes {path}: {error}") from error
    width = len(rows[0]) if rows else 0
    if uneven := next((row for row in rows if len(row) != width), None):
        raise DataError(
            f"{path}: the line {','.join(uneven)!r} has {len(uneven)} cells, the first line "
            f"{width}; give all lines the same cells"
        )
    square = len(rows) == width > 0
    if square and sorted(rows[0][1:]) == sorted(row[0] for row in rows[1:]):
        if sigma != 1:
            raise SettingsError(
                f"sigma means nothing to {path}, which holds similarities; leave it out"
            )
        return _matrix(path, rows, _named(path, rows[0][1:], classes, synsets))
    if width == 2:
        return gaussian(_tree(path, rows, classes, synsets), sigma)
    if width == 3:
        return gaussian(_pairs(path, rows, classes, synsets), sigma)
    raise DataError(
        f"{path} holds no similarity of classes: give lines parent,child, lines "
        "class,class,distance, or a matrix with the names of the classes in its first line and its "
        "first column"
    )


def _named(
    path: Path, known: Iterable[str], classes: Sequence[str], synsets: Sequence[str] | None
) -> Sequence[str]:
    """The names of the classes in a file: class names, or else WordNet ids."""
    known = set(known)
    names = next((names for names in (classes, synsets) if names and known >= {*names}), None)
    if names is None:
        missing = [name for name in classes if name not in known]
        raise DataError(
            f"{path} lacks {len(missing)} of {len(classes)} classes ({', '.join(missing[:5])}"
            f"{', …' * (len(missing) > 5)}); add them, named like this"
        )
    return names


def _number(path: Path, text: str, most: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= most or math.isinf(value):
        limit = f"from 0 to {most:g}" if math.isfinite(most) else "of at least 0"
        raise DataError(f"{path}: {text!r} is not a number {limit}; change it")
    return value


def _matrix(path: Path, rows: Cells, names: Sequence[str]) -> Matrix:
    column = {name: number for number, name in enumerate(rows[0][1:], start=1)}
    row_of = {row[0]: row for row in rows[1:]}
    if len(row_of) < len(rows) - 1:
        raise DataError(f"{path} has two lines for one class; give each class one")
    similarity = np.array(
        [[_number(path, row_of[one][column[other]], 1) for other in names] for one in names]
    )
    apart = np.abs(similarity - similarity.T) > ROUNDING
    for wrong, fault in (
        (np.diag(np.abs(similarity.diagonal() - 1) > ROUNDING), "must be 1"),
        (apart, "must be that of the two classes the other way round"),
    ):
        if wrong.any():
            one, other = np.argwhere(wrong)[0]
            raise DataError(
                f"{path}: the similarity of {names[one]!r} and {names[other]!r}, "
                f"{similarity[one, other]:g}, {fault}; change it"
            )
    mean: Matrix = (similarity + similarity.T) / 2
    return mean


def _tree(path: Path, rows: Cells, classes: Sequence[str], synsets: Sequence[str] | None) -> Matrix:
    lines = rows[1:] if [cell.lower() for cell in rows[0]] == ["parent", "child"] else rows
    parents: dict[str, set[str]] = defaultdict(set)
    for parent, child in lines:
        parents[child].add(parent)
        parents[parent] |= set()
    names = _named(path, parents, classes, synsets)
    try:
        TopologicalSorter(parents).prepare()
    except CycleError as error:
        raise DataError(
            f"{path}: {error.args[1][0]!r} is its own ancestor; give lines parent,child"
        ) from error
    return path_lengths(names, parents.__getitem__)


def _pairs(
    path: Path, rows: Cells, classes: Sequence[str], synsets: Sequence[str] | None
) -> Matrix:
    try:
        float(rows[0][2])
    except ValueError:  # a line of titles
        rows = rows[1:]
    names = _named(path, {name for row in rows for name in row[:2]}, classes, synsets)
    index = {name: number for number, name in enumerate(names)}
    distances = np.full((len(names), len(names)), np.nan)
    np.fill_diagonal(distances, 0)
    for one, other, text in rows:
        if one in index and other in index:
            i, j, distance = index[one], index[other], _number(path, text, math.inf)
            if abs(distances[i, j] - distance) > ROUNDING:  # false of a pair that is new
                raise DataError(
                    f"{path}: {one!r} and {other!r} have the distance {text}, and "
                    f"{distances[i, j]:g} too; keep one"
                )
            distances[i, j] = distances[j, i] = distance
    if np.isnan(distances).any():
        i, j = np.argwhere(np.isnan(distances))[0]
        raise DataError(
            f"{path} has no distance of {names[i]!r} and {names[j]!r}; give a line for each pair"
        )
    return distances
