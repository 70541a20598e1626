"""The color names of pixels, by a rule that needs no learned table.

Each pixel gets the nearest of eleven focal colors by Euclidean distance in CIELAB (CIE 1976; sRGB
of IEC 61966-2-1, white point D65). The focal colors are centroids of the ISCC-NBS system (Kelly,
Central notations for the revised ISCC-NBS color-name blocks, 1958). Broden's own colors come from
probabilities learned from web images (van de Weijer et al., TIP 2009), so numbers on colors made
here cannot be compared with those on Broden.
"""

import numpy as np
from jaxtyping import Float64, Int64, UInt8

FOCAL = {
    "black-c": 0x222222,
    "blue-c": 0x0067A5,
    "brown-c": 0x80461B,
    "green-c": 0x008856,
    "grey-c": 0x848482,
    "orange-c": 0xF38400,
    "pink-c": 0xEA9399,
    "purple-c": 0x875692,
    "red-c": 0xBE0032,
    "white-c": 0xF2F3F4,
    "yellow-c": 0xF3C300,
}
"""sRGB of each color; the names end in -c, as in Broden."""
TO_XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)
WHITE = TO_XYZ.sum(axis=1)


def lab(rgb: UInt8[np.ndarray, "... 3"]) -> Float64[np.ndarray, "... 3"]:
    """CIELAB of sRGB pixels: L* from 0 to 100, a*, b*."""
    levels = np.arange(256) / 255
    linear = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)[rgb]
    xyz = linear @ TO_XYZ.T / WHITE
    x, y, z = np.moveaxis(
        np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz * (29 / 6) ** 2 / 3 + 4 / 29), -1, 0
    )
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def color_index(rgb: UInt8[np.ndarray, "h w 3"]) -> Int64[np.ndarray, "h w"]:
    """Index into `FOCAL` of each pixel; ties go to the first."""
    focal = lab(np.array([list(value.to_bytes(3)) for value in FOCAL.values()], np.uint8))
    distance = ((lab(rgb)[..., None, :] - focal) ** 2).sum(axis=-1)
    index: Int64[np.ndarray, "h w"] = distance.argmin(axis=-1)
    return index
