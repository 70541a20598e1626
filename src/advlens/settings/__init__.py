"""Settings that the command line and the library share; importing them does not import torch."""

from advlens.settings.audit import AttackSettings, AuditSettings, Norm
from advlens.settings.choices import UNITS, parse_unit, units_by_layer
from advlens.settings.dissection import DissectSettings
from advlens.settings.models import ModelSettings
from advlens.settings.numbers import DRAWS, AutoRadius, NoHint, Radius, parse_number, show_number
from advlens.settings.pruning import PruneSettings
from advlens.settings.reproduction import ReproduceSettings
from advlens.settings.spec import MethodSpec, parse_method
from advlens.settings.training import TrainSettings, train_settings

__all__ = [
    "DRAWS",
    "UNITS",
    "AttackSettings",
    "AuditSettings",
    "AutoRadius",
    "DissectSettings",
    "MethodSpec",
    "ModelSettings",
    "NoHint",
    "Norm",
    "PruneSettings",
    "Radius",
    "ReproduceSettings",
    "TrainSettings",
    "parse_method",
    "parse_number",
    "parse_unit",
    "show_number",
    "train_settings",
    "units_by_layer",
]
