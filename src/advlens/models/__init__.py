"""Classifiers: advlens's networks, users' own, and their weights."""

from advlens.models.classifier import Classifier, check_images
from advlens.models.matching import Matched
from advlens.models.sources import imagenet_classes, imagenet_synsets, places365_classes
from advlens.models.weights import load_weights, read_weights, save_weights
from advlens.models.zoo import (
    CIFAR10_CLASSES,
    CIFAR10_MEAN,
    CIFAR10_STD,
    convert_model,
    list_models,
    load_model,
    network_of,
)

__all__ = [
    "CIFAR10_CLASSES",
    "CIFAR10_MEAN",
    "CIFAR10_STD",
    "Classifier",
    "Matched",
    "check_images",
    "convert_model",
    "imagenet_classes",
    "imagenet_synsets",
    "list_models",
    "load_model",
    "load_weights",
    "network_of",
    "places365_classes",
    "read_weights",
    "save_weights",
]
