"""Color names: against a second derivation, and on real images whose maps were made elsewhere."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from advlens.datasets import BrodenData, read_rgb
from advlens.datasets.broden.colors import FOCAL, color_index, lab
from advlens.datasets.broden.data import read_label_map

PRIMARIES = np.array([[0.64, 0.30, 0.15], [0.33, 0.60, 0.06], [0.03, 0.10, 0.79]])
WHITE = np.array([0.3127 / 0.3290, 1.0, (1 - 0.3127 - 0.3290) / 0.3290])
TO_XYZ = PRIMARIES @ np.diag(np.linalg.solve(PRIMARIES, WHITE))
PIXELS = st.lists(st.tuples(*[st.integers(0, 255)] * 3), min_size=1, max_size=9)
FOCI = [(value >> 16, value >> 8 & 255, value & 255) for value in FOCAL.values()]


def lab_by_hand(red: int, green: int, blue: int) -> tuple[float, float, float]:
    """CIE 1976 L*a*b* of an sRGB color, from the primaries' chromaticities and D65."""
    linear = [
        value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
        for value in (red / 255, green / 255, blue / 255)
    ]
    xyz = TO_XYZ @ linear / WHITE
    f = [v ** (1 / 3) if v > 216 / 24389 else (24389 / 27 * v + 16) / 116 for v in xyz]
    return 116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])


@settings(deadline=None)
@given(PIXELS)
def test_lab_and_the_nearest_color(pixels):
    found = lab(np.array(pixels, np.uint8))
    for pixel, values in zip(pixels, found, strict=True):
        assert values == pytest.approx(lab_by_hand(*pixel), abs=0.02)
    focal = [lab_by_hand(*focus) for focus in FOCI]
    for pixel, index in zip(pixels, color_index(np.array([pixels], np.uint8))[0], strict=True):
        distances = [np.linalg.norm(np.subtract(lab_by_hand(*pixel), other)) for other in focal]
        assert distances[index] < min(distances) + 0.05


def test_focal_colors_are_themselves() -> None:
    assert color_index(np.array([FOCI], np.uint8)).tolist() == [[*range(11)]]


def test_real_images(shared_data: Path) -> None:
    """The maps were computed by this rule from the photographs; these are their JPEG copies."""
    data = BrodenData(shared_data / "mini-broden")
    numbers = {concept.name: concept.number for concept in data.concepts}
    number, agreement = np.array([numbers[name] for name in FOCAL]), []
    for row in data.rows[::20]:
        image = read_rgb(data.root / "images" / row.image)
        small = image.resize((112, 112), Image.Resampling.BICUBIC)
        theirs = read_label_map(data.root / "images" / row.maps[0], (112, 112))
        agreement.append((number[color_index(np.asarray(small))] == theirs).mean())
    assert np.mean(agreement) > 0.97
    assert min(agreement) > 0.85
