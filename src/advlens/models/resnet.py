"""ResNets for 32×32 images: a 3×3 stem, stages of basic blocks, global average pooling."""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Shortcut = Literal["pad", "projection"]


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut (He et al. 2016, figure 2).

    Where the shape changes, the shortcut takes every `stride`-th pixel and pads channels with zeros
    ("pad", option A of the paper, no parameters) or projects with a 1×1 convolution (option B).
    """

    def __init__(self, inputs: int, outputs: int, stride: int, shortcut: Shortcut):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride = stride
        self.added = outputs - inputs
        changes = stride != 1 or inputs != outputs
        self.pads = changes and shortcut == "pad"
        self.shortcut = nn.Sequential()
        if changes and shortcut == "projection":
            projection = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.pads:
            thinned = x[:, :, :: self.stride, :: self.stride]
            half = self.added // 2
            kept = F.pad(thinned, (0, 0, 0, 0, half, self.added - half))
        else:
            kept = self.shortcut(x)
        return F.relu(out + kept)


class CifarResNet(nn.Module):
    """A ResNet with one stage per width; every stage but the first halves the resolution.

    `blocks=(n, n, n), widths=(16, 32, 64), shortcut="pad"` is He et al.'s network of depth 6n + 2;
    `blocks=(2, 2, 2, 2), widths=(64, 128, 256, 512), shortcut="projection"` is ResNet-18.
    """

    def __init__(
        self, blocks: Sequence[int], widths: Sequence[int], shortcut: Shortcut, classes: int = 10
    ):
        super().__init__()
        self.conv1 = nn.Conv2d(3, widths[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        inputs = widths[0]
        for number, (count, width) in enumerate(zip(blocks, widths, strict=True), start=1):
            stage = []
            for index in range(count):
                stride = 2 if number > 1 and index == 0 else 1
                stage.append(BasicBlock(inputs, width, stride, shortcut))
                inputs = width
            self.add_module(f"layer{number}", nn.Sequential(*stage))
        self.stages = len(blocks)
        self.linear = nn.Linear(inputs, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        for number in range(1, self.stages + 1):
            out = self.get_submodule(f"layer{number}")(out)
        logits: Tensor = self.linear(torch.flatten(F.adaptive_avg_pool2d(out, 1), 1))
        return logits
