"""Networks of recipes that have no other name; each function builds one for `load_model`."""

from torchvision.models import resnet50

from advlens.models import Classifier
from advlens.models.sources import IMAGENET_MEAN, IMAGENET_STD


def small_imagenet_150() -> Classifier:
    """ResNet-50 for 150 classes at 128 pixels (B23, section 3.2); the data names the classes."""
    return Classifier(
        resnet50(num_classes=150),
        name="resnet50",
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        image_size=128,
        resize=128,
    )
