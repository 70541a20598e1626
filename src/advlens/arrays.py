"""Shapes of the arrays that the library passes around, as jaxtyping aliases.

n images, c classes, u units. Pixels are float32 in [0, 1], RGB; ids are the images' stable numbers.
"""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

Images = Float[Tensor, "n 3 h w"]
Labels = Int64[Tensor, " n"]
Ids = Int64[Tensor, " n"]
Logits = Float[Tensor, "n c"]
PerImage = Float[Tensor, " n"]
Mask = Bool[Tensor, " n"]


def conversion(tensor: Tensor, name: str) -> str:
    """How to make a plain tensor, dense and with values, of one that is not; empty if it is plain.

    Args:
        tensor: any tensor.
        name: what it is called in the answer, such as "images".
    """
    if tensor.is_nested:
        return f"give one tensor, torch.stack({name}.unbind())"
    if tensor.layout != torch.strided:
        return f"convert them with {name}.to_dense()"
    if tensor.is_quantized:
        return f"convert them with {name}.dequantize()"
    if tensor.device.type == "meta":
        return f"{name} on meta hold no values; make them on the CPU"
    if tensor.is_floating_point() and tensor.dtype.itemsize == 1:
        return f"convert them with {name}.float()"
    return ""
