"""Radii that are right in one norm and absurd in another."""

import math
from collections.abc import Sequence

from advlens.attacks import Attack
from advlens.errors import SettingsError
from advlens.words import NORMS, attack_name

SMALLEST = 0.1
"""L2 radius below which an attack leaves images practically as they are."""
LARGEST = 1 / 4
"""Share of the way from black to white beyond which people do not see the image either."""


def doubt(attack: Attack, shape: Sequence[int]) -> str:
    """A warning if a radius is absurd for its norm, or an empty string.

    Args:
        attack: the attack; one without a ball in L∞ or L2 has no such radius.
        shape: of the images, channels × height × width.

    Raises:
        SettingsError: the radius is longer than the way from a black to a white image.
    """
    row = attack.columns()
    norm, radius = row["norm"], row["epsilon"]
    if norm not in NORMS or radius is None:
        return ""
    way, name = 1.0 if norm == "Linf" else math.sqrt(math.prod(shape)), attack_name(row)
    if radius > way:
        raise SettingsError(
            f"{name} is more than the way from a black to a white image, {way:.3g}; radii are of "
            "pixels between 0 and 1, so 8 gray levels are 8/255"
        )
    if radius > LARGEST * way:
        return (
            f"{name} is more than a quarter of the way from black to white, so people do not see "
            "what these images show either; usual radii are 4/255 and 8/255 in L∞, 0.5 and 3 in L2"
        )
    if norm == "L2" and radius < SMALLEST:
        return (
            f"{name} leaves images practically as they are: an L2 radius is the length of the "
            "change of a whole image, usually 0.5 to 3, where one of L∞ is 4/255 or 8/255"
        )
    return ""
