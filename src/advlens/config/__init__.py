"""Settings that the command line and the library share; importing them does not import torch."""

from advlens.config.dissection import DissectSettings
from advlens.config.models import ModelSettings
from advlens.config.numbers import DRAWS, AutoRadius, NoHint, Radius, parse_number, show_number
from advlens.config.pruning import PruneSettings
from advlens.config.settings import STAGES, AttackSettings, AuditSettings, Norm, StageName
from advlens.config.spec import MethodSpec, parse_method
from advlens.config.training import TrainSettings, train_settings

__all__ = [
    "DRAWS",
    "STAGES",
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
    "StageName",
    "TrainSettings",
    "parse_method",
    "parse_number",
    "show_number",
    "train_settings",
]
