"""Steps a second time, in float64 and for one image, and an image's own random numbers."""

import numpy as np
import torch
import torch.nn.functional as F

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


def adam(network, images, classes, weight, steps, sign=1, size=5 / 255):
    """The formula of D22 eq. 4 (targeted) and eq. 2, minimized by torch.optim.Adam."""
    current = images.clone().requires_grad_()
    optimizer = torch.optim.Adam([current], lr=size)
    for _ in range(steps):
        with torch.enable_grad():
            loss = F.cross_entropy(network(current), classes, reduction="sum")
            ((current - images).square().sum() + sign * weight * loss).backward(inputs=[current])
        optimizer.step()
        optimizer.zero_grad()
        current.data.clamp_(0, 1)
    return current.detach()
