"""Heat maps: colors and scale derived a second time, pixel by pixel."""

import pytest
import torch

from advlens.auditing.pictures import heat_map
from advlens.colors import AGAINST, FOR
from advlens.errors import SettingsError


@pytest.fixture
def image() -> torch.Tensor:
    return torch.rand(3, 6, 5, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def attribution() -> torch.Tensor:
    return torch.randn(6, 5, generator=torch.Generator().manual_seed(2))


def test_each_pixel_is_covered_by_its_share_of_the_scale(
    image: torch.Tensor, attribution: torch.Tensor
) -> None:
    found = heat_map(image, attribution, 1.25)
    assert found.shape == image.shape
    for y in range(6):
        for x in range(5):
            red, green, blue = image[:, y, x].double().tolist()
            faint = 0.7 + 0.3 * (0.299 * red + 0.587 * green + 0.114 * blue)
            size = float(attribution[y, x])
            share = min(abs(size) / 1.25, 1.0)
            color = FOR if size > 0 else AGAINST
            for channel, start in enumerate((1, 3, 5)):
                ink = int(color[start : start + 2], 16) / 255
                wanted = share * ink + (1 - share) * faint
                assert float(found[channel, y, x]) == pytest.approx(wanted, abs=1e-6)


def test_pixels_stay_in_their_range(image: torch.Tensor, attribution: torch.Tensor) -> None:
    for scale in (1e-30, 0.01, 1e30):
        found = heat_map(image, attribution, scale)
        assert found.min() >= 0
        assert found.max() <= 1


def test_a_map_of_zeros_leaves_the_faint_gray_image(image: torch.Tensor) -> None:
    nothing = torch.zeros(6, 5)
    found = heat_map(image, nothing, 0.0)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found, heat_map(image, nothing, 1.0))
    assert found.min() >= 0.7


def test_full_colors_are_red_for_and_blue_against(image: torch.Tensor) -> None:
    attribution = torch.ones(6, 5)
    red, blue = heat_map(image, attribution, 0.5), heat_map(image, -attribution, 0.5)
    assert (red[0] > red[2]).all()
    assert (blue[2] > blue[0]).all()
    assert [f"{round(255 * float(v)):02x}" for v in red[:, 0, 0]] == [FOR[1:3], FOR[3:5], FOR[5:]]


@pytest.mark.parametrize("scale", [-1.0, float("nan"), float("inf")])
def test_a_scale_that_is_none_is_refused(image: torch.Tensor, scale: float) -> None:
    with pytest.raises(SettingsError, match="scale must be finite"):
        heat_map(image, torch.zeros(6, 5), scale)
