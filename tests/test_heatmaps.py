"""Heat maps: colors and scale derived a second time, pixel by pixel."""

import pytest
import torch

from advlens.auditing.pictures import heat_map
from advlens.colors import AGAINST, FOR
from advlens.errors import SettingsError

IMAGE = torch.rand(3, 6, 5, generator=torch.Generator().manual_seed(1))
ATTRIBUTION = torch.randn(6, 5, generator=torch.Generator().manual_seed(2))


def test_each_pixel_is_covered_by_its_share_of_the_scale() -> None:
    assert (FOR[1:3] > FOR[5:], AGAINST[1:3] < AGAINST[5:]) == (True, True)  # red and blue
    found = heat_map(IMAGE, ATTRIBUTION, 1.25)
    assert found.shape == IMAGE.shape
    for y in range(6):
        for x in range(5):
            red, green, blue = IMAGE[:, y, x].double().tolist()
            faint = 0.7 + 0.3 * (0.299 * red + 0.587 * green + 0.114 * blue)
            share = min(abs(float(ATTRIBUTION[y, x])) / 1.25, 1.0)
            color = FOR if ATTRIBUTION[y, x] > 0 else AGAINST
            for channel, start in enumerate((1, 3, 5)):
                wanted = share * (int(color[start : start + 2], 16) / 255) + (1 - share) * faint
                assert float(found[channel, y, x]) == pytest.approx(wanted, abs=1e-6)


def test_pixels_stay_in_their_range_and_zeros_leave_the_faint_gray_image():
    for scale in (1e-30, 0.01, 1e30):
        found = heat_map(IMAGE, ATTRIBUTION, scale)
        assert found.min() >= 0
        assert found.max() <= 1
    nothing = torch.zeros(6, 5)
    found = heat_map(IMAGE, nothing, 0.0)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found, heat_map(IMAGE, nothing, 1.0))
    assert found.min() >= 0.7


@pytest.mark.parametrize("scale", [-1.0, float("nan"), float("inf")])
def test_a_scale_that_is_none_is_refused(scale: float) -> None:
    with pytest.raises(SettingsError, match="scale must be finite"):
        heat_map(IMAGE, torch.zeros(6, 5), scale)
