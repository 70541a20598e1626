"""What names an attack in the tables of a run."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from advlens.attacks.base import Attack

NATURAL: Mapping[str, Any] = {"attack": "natural", "norm": "", "epsilon": 0.0, "steps": 0}
"""`attack_columns` of images as they are."""


def attack_columns(attack: Any) -> dict[str, Any]:
    """The columns that name an attack in every table; `attack_settings` tells the rest."""
    threat = getattr(attack, "threat", None)
    return {
        "attack": getattr(attack, "name", type(attack).__name__),
        "norm": threat.norm if threat else "",
        "epsilon": float(threat.epsilon) if threat else "",
        "steps": getattr(attack, "steps", 1),
    }


def attack_settings(attack: Attack, **usual: object) -> str:
    """What `attack_columns` leaves out, as in "step_size=0.1, restarts=3"; empty for the defaults.

    Args:
        attack: one of ours, or of another library, whose name tells its settings.
        usual: what counts as default in this run in place of the attack's own, such as its seed.
    """
    told = ("threat", "steps", "name", "kind", "settings")
    values = {
        field.name: (getattr(attack, field.name), usual.get(field.name, field.default))
        for field in fields(attack)
        if field.name not in told
    }
    return ", ".join(
        f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}"
        for name, (value, default) in values.items()
        if value != default
    )
