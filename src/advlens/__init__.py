"""Audit, train and compare image classifiers on real and adversarial images."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from advlens.attacks import (
        AdamAttack,
        Bim,
        Divergence,
        FeatureAttack,
        Fgsm,
        GaussianNoise,
        LeastLikely,
        Pgd,
    )
    from advlens.attacks.threat import L2, Linf, Uniform
    from advlens.attribution import ExpectedGradients, IntegratedGradients
    from advlens.auditing import audit, dissect
    from advlens.auditing.comparison import compare
    from advlens.consistency import Consistency
    from advlens.datasets import load_data
    from advlens.dissection import Dissection
    from advlens.errors import (
        AdvlensError,
        CheckpointError,
        DataError,
        ModelError,
        NumericError,
        RunError,
        SettingsError,
    )
    from advlens.features import ClassGeneration, FeatureVisualization, Inversion
    from advlens.interop import AutoAttack, make_attack, make_attribution
    from advlens.maps import DiscrepancyMap
    from advlens.models import Classifier, load_model
    from advlens.runs.reader import RunResults, read_run
    from advlens.runs.trackers import log_to_mlflow, log_to_tensorboard, log_to_wandb
    from advlens.settings import AuditSettings, DissectSettings
    from advlens.training import Augmentation, Training
    from advlens.training.objectives import (
        Adversarial,
        FeatureConsistency,
        Standard,
        Trades,
        Unrelaxed,
    )

__version__ = "0.1.0"

__all__ = [
    "L2",
    "AdamAttack",
    "Adversarial",
    "AdvlensError",
    "AuditSettings",
    "Augmentation",
    "AutoAttack",
    "Bim",
    "CheckpointError",
    "ClassGeneration",
    "Classifier",
    "Consistency",
    "DataError",
    "DiscrepancyMap",
    "DissectSettings",
    "Dissection",
    "Divergence",
    "ExpectedGradients",
    "FeatureAttack",
    "FeatureConsistency",
    "FeatureVisualization",
    "Fgsm",
    "GaussianNoise",
    "IntegratedGradients",
    "Inversion",
    "LeastLikely",
    "Linf",
    "ModelError",
    "NumericError",
    "Pgd",
    "RunError",
    "RunResults",
    "SettingsError",
    "Standard",
    "Trades",
    "Training",
    "Uniform",
    "Unrelaxed",
    "__version__",
    "audit",
    "compare",
    "dissect",
    "load_data",
    "load_model",
    "log_to_mlflow",
    "log_to_tensorboard",
    "log_to_wandb",
    "make_attack",
    "make_attribution",
    "read_run",
]

_HOMES = {
    "attacks": (
        "AdamAttack",
        "Bim",
        "Divergence",
        "FeatureAttack",
        "Fgsm",
        "GaussianNoise",
        "LeastLikely",
        "Pgd",
    ),
    "attribution": ("ExpectedGradients", "IntegratedGradients"),
    "auditing": ("audit", "dissect"),
    "auditing.comparison": ("compare",),
    "settings": ("AuditSettings", "DissectSettings"),
    "consistency": ("Consistency",),
    "datasets": ("load_data",),
    "dissection": ("Dissection",),
    "errors": (
        "AdvlensError",
        "CheckpointError",
        "DataError",
        "ModelError",
        "NumericError",
        "RunError",
        "SettingsError",
    ),
    "features": ("ClassGeneration", "FeatureVisualization", "Inversion"),
    "interop": ("AutoAttack", "make_attack", "make_attribution"),
    "maps": ("DiscrepancyMap",),
    "models": ("Classifier", "load_model"),
    "training.objectives": ("Adversarial", "FeatureConsistency", "Standard", "Trades", "Unrelaxed"),
    "runs.reader": ("RunResults", "read_run"),
    "runs.trackers": ("log_to_mlflow", "log_to_tensorboard", "log_to_wandb"),
    "attacks.threat": ("L2", "Linf", "Uniform"),
    "training": ("Augmentation", "Training"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    """Import a public name when it is first used (PEP 562), so that `import advlens` is quick."""
    if name not in _HOME:
        raise AttributeError(f"module 'advlens' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"advlens.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__]
