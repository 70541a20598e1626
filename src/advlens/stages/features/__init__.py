"""What a model has learned, as images: features visualized, representations inverted, classes made.

B23, sections 2.3.2 and 2.5.
"""

from advlens.stages.features.generation import GenerationStage, fitted_half
from advlens.stages.features.inversion import InversionStage
from advlens.stages.features.visualization import VisualizationStage

__all__ = ["GenerationStage", "InversionStage", "VisualizationStage", "fitted_half"]
