"""Shapes of the arrays that the library passes around, as jaxtyping aliases.

n images, c classes, u units. Pixels are float32 in [0, 1], RGB; ids are the images' stable numbers.
"""

from jaxtyping import Bool, Float, Int64
from torch import Tensor

Images = Float[Tensor, "n 3 h w"]
Labels = Int64[Tensor, " n"]
Ids = Int64[Tensor, " n"]
Logits = Float[Tensor, "n c"]
PerImage = Float[Tensor, " n"]
Mask = Bool[Tensor, " n"]
