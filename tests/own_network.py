"""The file of a user with a network of their own, for images of cats, dogs and ships."""

NETWORK = """
import torch
from torch import nn
from advlens import Classifier

KNOWN = {"classes": ("cat", "dog", "ship"), "synsets": ("n02121620", "n02084071", "n04194289")}

def network():
    torch.manual_seed(0)
    maps = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1)
    layers = nn.Sequential(*maps, nn.Flatten(), nn.Linear(6, 3))
    return Classifier(layers, name="tiny", image_size=8, resize=8, **KNOWN)
"""
