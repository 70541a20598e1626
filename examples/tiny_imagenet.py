"""A small network for Tiny-ImageNet at 64 pixels: a ResNet-14 whose first convolution halves.

IMAGES has Tiny-ImageNet's train, and val sorted into a folder for each class; FEWER has the first
120 images of each class in train and ten of each in val.

cd examples
advlens train --model tiny_imagenet:network --data folder:IMAGES --out runs/standard \\
    --objective standard --epochs 3 --batch-size 128 --learning-rate 0.2 --threads 1
advlens train --model tiny_imagenet:network@runs/standard/model.safetensors --data folder:FEWER \\
    --out runs/consistency --objective consistency --beta 1 --epsilon-range 2/255 8/255 \\
    --epochs 2 --batch-size 100 --learning-rate 0.02 --norm linf --epsilon 1/255 --threads 1
advlens audit --model tiny_imagenet:network@runs/standard/model.safetensors \\
    --model tiny_imagenet:network@runs/consistency/model.safetensors --data folder:FEWER \\
    --concepts broden:DIR --epsilon 0.5 --steps 10 --neuron-steps 5 --sweep-images 200 \\
    --sweep-steps 5 --explained 8 --inverted 4 --inversion-steps 200 --out runs/audit \\
    --stages accuracy sweep neurons dissection attribution visualization inversion

WNIDS names a file of the 200 wnids, such as Tiny-ImageNet's own wnids.txt.
"""

import os
from pathlib import Path

from advlens import Classifier
from advlens.models.resnet import CifarResNet


def network() -> Classifier:
    """Classes in the order of their wnids, as class folders are."""
    layers = CifarResNet((2, 2, 2), (32, 64, 128), "projection", classes=200)
    layers.conv1.stride = (2, 2)
    return Classifier(
        layers,
        name="tiny",
        synsets=sorted(Path(os.environ["WNIDS"]).read_text().split()),
        image_size=64,
        resize=64,
        mean=(0.4802, 0.4481, 0.3975),
        std=(0.2770, 0.2691, 0.2821),
    )
