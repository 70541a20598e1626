"""Methods of other libraries under our interfaces, by name; none is imported before it is used."""

from advlens.interop.attacks import ForeignAttack, make_attack
from advlens.interop.attributions import CaptumAttribution, OwnAttribution, make_attribution
from advlens.interop.autoattack import AutoAttack

__all__ = [
    "AutoAttack",
    "CaptumAttribution",
    "ForeignAttack",
    "OwnAttribution",
    "make_attack",
    "make_attribution",
]
