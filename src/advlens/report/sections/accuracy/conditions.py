"""Natural images and the strongest attack of each norm, as the tables of predictions have them."""

from advlens.runs.results import Rows
from advlens.words import NORMS, attack_name


def conditions(rows: Rows) -> dict[str, Rows]:
    """The rows of each, by name; where models met different attacks of a norm, by the norm."""
    found: dict[str, Rows] = {}
    for norm, mine in rows.grouped("norm").items():
        names = list(dict.fromkeys(map(attack_name, mine)))
        found[names[0] if len(names) == 1 else f"attacks in {NORMS.get(norm, norm)}"] = mine
    return found


def phrase(name: str) -> str:
    """The name of a condition behind a value: "on natural images", "under PGD-20, L2 ε = 0.5"."""
    return f"{'on' if name == 'natural images' else 'under'} {name}"
