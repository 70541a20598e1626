"""Steps a second time, in float64 and for one image, and an image's own random numbers."""

import numpy as np

from advlens.attacks.threat import Linf


def stream(seed: int, number: int, use: int) -> np.random.Generator:
    """The random numbers of the image with this number."""
    return np.random.Generator(np.random.Philox(key=[seed, number], counter=[0, 0, 0, int(use)]))


def moved(norm, current, gradient, size, image, epsilon):
    """A step along the gradient, then into the ball around the image, then into [0, 1]."""
    if norm is Linf:
        change = (current + size * gradient.sign() - image).clamp(-epsilon, epsilon)
    else:
        change = current + size * gradient / (gradient**2).sum() ** 0.5 - image
        change = change * min(1, epsilon / (change**2).sum().item() ** 0.5)
    return (image + change).clamp(0, 1)
