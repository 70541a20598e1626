"""Images made from a model: visualized features, inverted representations, generated classes."""

from advlens.features.methods import ClassGeneration, FeatureVisualization, Inversion
from advlens.features.starts import ClassGaussian, noise_images
from advlens.features.steps import Steps, Synthesis, Synthesized

__all__ = [
    "ClassGaussian",
    "ClassGeneration",
    "FeatureVisualization",
    "Inversion",
    "Steps",
    "Synthesis",
    "Synthesized",
    "noise_images",
]
