"""Classifiers: the networks that advlens knows, users' own, and their weights."""

from advlens.models.classifier import Classifier, check_images
from advlens.models.weights import load_weights, read_weights, save_weights
from advlens.models.zoo import (
    CIFAR10_CLASSES,
    CIFAR10_MEAN,
    CIFAR10_STD,
    imagenet_classes,
    imagenet_synsets,
    list_models,
    load_model,
    network_of,
)

__all__ = [
    "CIFAR10_CLASSES",
    "CIFAR10_MEAN",
    "CIFAR10_STD",
    "Classifier",
    "check_images",
    "imagenet_classes",
    "imagenet_synsets",
    "list_models",
    "load_model",
    "load_weights",
    "network_of",
    "read_weights",
    "save_weights",
]
