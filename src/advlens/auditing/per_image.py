"""Values of single images in a table: some hundreds in the text of each row."""

from collections.abc import Iterator, Sequence
from typing import Any

from advlens.runs.tables import Row

BLOCK = 500
"""Images in a row."""


def in_blocks(
    column: str, values: Sequence[float], separator: str = " "
) -> Iterator[dict[str, Any]]:
    """For each block of images its first number, and the values in one text."""
    for first in range(0, len(values), BLOCK):
        part = values[first : first + BLOCK]
        yield {"first": first, column: separator.join(f"{value:.6g}" for value in part)}


def by_model(rows: Sequence[Row], *keys: str) -> dict[tuple[Any, ...], dict[str, list[Row]]]:
    """The blocks of each model in the order of their images, by what some columns hold."""
    blocks: dict[tuple[Any, ...], dict[str, list[Row]]] = {}
    for row in sorted(rows, key=lambda row: row["first"]):
        models = blocks.setdefault(tuple(row[key] for key in keys), {})
        models.setdefault(row["model"], []).append(row)
    return blocks
