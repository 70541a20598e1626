"""Images of a batch, varied or streamed, against loops and torchvision; its learning rate."""

import math

import numpy as np
import pytest
import torch
from tiny import images
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as reference

from advlens.progress import Progress
from advlens.training import images as images_module
from advlens.training.augmentation import Augmentation, rotated
from advlens.training.images import TrainingImages
from advlens.training.schedule import PATIENCE, plateaus, rate

IMAGES = torch.randint(
    0, 256, (7, 3, 12, 12), generator=torch.Generator().manual_seed(1), dtype=torch.uint8
)
CPU = torch.device("cpu")
IDS = [torch.tensor([59, 0, 13]), torch.tensor([7]), torch.tensor([6, 7])]


def draws(seed: int = 0, count: int = 7) -> Tensor:
    return torch.rand(Augmentation.DRAWS, count, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("padding", "size"), [(4, 12), (2, 9), (0, 12)])
def test_crops_and_flips_equal_a_loop_over_pixels(padding: int, size: int) -> None:
    numbers = draws()
    numbers[:2, 0], numbers[:2, 1] = 0, 1 - 2**-24
    varied, room = Augmentation(crop=padding)(IMAGES, numbers, size), 12 + 2 * padding - size
    corners, flips = [], []
    for i in range(7):
        top, left = (int(numbers[axis, i].item() * (room + 1)) for axis in (0, 1))
        corners.append((top, left))
        flips.append(numbers[2, i].item() < 0.5)
        for row in range(size):
            for column in range(size):
                x = row + top - padding
                y = (size - 1 - column if flips[-1] else column) + left - padding
                inside = 0 <= x < 12 and 0 <= y < 12
                expected = IMAGES[i, :, x, y].double() / 255 if inside else torch.zeros(3)
                assert torch.equal(varied[i, :, row, column], expected.float())
    assert corners[:2] == [(0, 0), (room, room)]
    assert 0 < sum(flips) < 7
    assert varied.is_contiguous(memory_format=torch.channels_last)
    unflipped = Augmentation(crop=padding, flip=False)(IMAGES, numbers, size)
    for i in range(7):
        assert torch.equal(unflipped[i], varied[i].flip(2) if flips[i] else varied[i])


def test_a_resized_crop_is_torchvisions_of_the_same_box() -> None:
    """Boxes of whole pixels, inside of which both interpolate alike."""
    pixels = (torch.rand(4, 3, 40, 40, generator=torch.Generator().manual_seed(0)) * 255).byte()
    numbers = torch.zeros(Augmentation.DRAWS, 4)
    numbers[2] = torch.tensor([0.0, 0.9, 0.0, 0.9])  # the first and third are flipped
    numbers[5] = 0.5  # square
    numbers[4] = ((torch.tensor([20 / 40, 30 / 40, 10 / 40, 1.0]) ** 2) - 0.05) / 0.95
    boxes = [(20, 5, 12), (30, 10, 0), (10, 17, 30), (40, 0, 0)]
    for i, (side, top, left) in enumerate(boxes):
        room = max(40 - side, 1)
        numbers[6, i], numbers[7, i] = left / room, top / room
    varied = Augmentation(crop=0, resized_crop=(0.05, 1.0))(pixels, numbers, 40)
    for i, (side, top, left) in enumerate(boxes):
        box, bilinear = (top, left, side, side), InterpolationMode.BILINEAR
        expected = pixels[i].double() / 255
        expected = reference.resized_crop(expected, *box, [40, 40], bilinear, antialias=False)
        expected = expected.flip(2) if i in (0, 2) else expected
        edge = 40 // side + 1  # there the neighbors outside the box count here
        inner = (slice(None), slice(edge, 40 - edge), slice(edge, 40 - edge))
        torch.testing.assert_close(varied[i][inner].double(), expected[inner], atol=1e-5, rtol=0)


def test_areas_and_shapes_of_boxes_follow_their_draws() -> None:
    """A picture whose pixels say where they are tells which box was taken."""
    side = 64
    line = torch.arange(side).float()
    columns, rows = torch.meshgrid(line, line, indexing="xy")
    pixels = torch.stack([columns * 2, rows * 2, columns * 0]).byte().expand(500, -1, -1, -1)
    numbers = draws(3, 500)
    varied = Augmentation(crop=0, flip=False, resized_crop=(0.2, 0.6))(pixels, numbers, side)
    varied = varied.double() * 255 / 2
    width = (varied[:, 0, 32, 60] - varied[:, 0, 32, 4]) / 56
    height = (varied[:, 1, 60, 32] - varied[:, 1, 4, 32]) / 56
    area, ratio = width * height, width / height
    free = (width < 0.98) & (height < 0.98)  # else the side was cut
    assert free.double().mean() > 0.8
    torch.testing.assert_close(area[free], 0.2 + 0.4 * numbers[4][free].double(), atol=0.02, rtol=0)
    expected = (4 / 3) ** (2 * numbers[5].double() - 1)
    torch.testing.assert_close(ratio[free], expected[free], atol=0.06, rtol=0)
    for first, length, number in (
        (varied[:, 0, 32, 4], width, numbers[6]),
        (varied[:, 1, 4, 32], height, numbers[7]),
    ):
        start = first - 4 * length  # of the box, up to half a pixel
        wanted = number.double() * 64 * (1 - length)
        torch.testing.assert_close(start[free], wanted[free], atol=1.0, rtol=0)


@pytest.mark.parametrize("degrees", [0.0, 20.0, -35.0, 90.0])
def test_rotation_is_torchvisions(degrees: float) -> None:
    pixels = IMAGES.double() / 255
    varied = rotated(pixels, torch.full((7,), math.radians(degrees), dtype=torch.float64))
    expected = reference.rotate(pixels, degrees, InterpolationMode.BILINEAR)
    inner, line = torch.zeros(12, 12, dtype=torch.bool), torch.arange(12) - 5.5
    inner[(line.view(-1, 1) ** 2 + line.view(1, -1) ** 2) < 25] = True  # corners blend otherwise
    torch.testing.assert_close(varied[:, :, inner], expected[:, :, inner], atol=1e-6, rtol=0)


def test_angles_are_uniform_between_the_bounds() -> None:
    pixels = torch.zeros(400, 3, 33, 33, dtype=torch.uint8)
    pixels[:, :, 16, 28:] = 255  # a line from the center to the right
    numbers = draws(5, 400)
    varied = Augmentation(crop=0, flip=False, rotation=20)(pixels, numbers, 33).double()
    line = torch.arange(33.0, dtype=torch.float64) - 16
    weight = varied[:, 0] / varied[:, 0].sum(dim=(1, 2), keepdim=True)
    x = (weight * line).sum(dim=(1, 2))
    angles = torch.rad2deg(torch.atan2(-(weight * line.view(-1, 1)).sum(dim=(1, 2)), x))
    torch.testing.assert_close(angles, 20 * (2 * numbers[3].double() - 1), atol=1.0, rtol=0)


@pytest.mark.parametrize("chunk", [7, 60, 1024])
def test_resident_images_are_read_whole_by_chunks(chunk, monkeypatch, capsys):
    monkeypatch.setattr(images_module, "CHUNK", chunk)
    monkeypatch.setattr(Progress, "said", -math.inf)
    data = images()
    resident = TrainingImages(data, CPU, shown=True)
    assert "reading: 0/60 images" in capsys.readouterr().err
    assert all(map(torch.equal, resident.batches(IDS), [data.pixels[ids] for ids in IDS]))


@pytest.mark.parametrize(("memory", "kept"), [(4 * 60 * 192, True), (4 * 60 * 192 - 1, False)])
def test_a_quarter_of_the_memory_may_be_taken(memory, kept, monkeypatch):
    monkeypatch.setattr(images_module, "_memory", lambda device: memory)
    source = TrainingImages(images(), CPU, shown=False)
    assert (source._pixels is not None) == kept
    assert all(map(torch.equal, source.batches(IDS), [images().pixels[ids] for ids in IDS]))


def test_processes_of_one_machine_share_its_memory(monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    whole = images_module._memory(CPU)
    assert whole > 2**28
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert images_module._memory(CPU) == whole // 4


def test_one_cycle_cosine_and_constant():
    progress = np.linspace(0, 1, 101)
    expected = np.interp(progress, [0, 0.25, 1], [0, 1, 0])
    rates = [rate("one-cycle", p, []) for p in progress]
    np.testing.assert_allclose(rates, expected, atol=1e-15)
    progress = np.linspace(0, 1, 11)
    rates = [rate("cosine", p, []) for p in progress]
    np.testing.assert_allclose(rates, np.cos(progress * np.pi / 2) ** 2, atol=1e-15)
    assert [rate("constant", p, [1.0, 2.0]) for p in progress] == [1.0] * 11


@pytest.mark.parametrize("seed", range(5))
def test_plateaus_are_those_of_torch(seed: int) -> None:
    losses = (2 + np.cumsum(np.random.default_rng(seed).normal(-0.02, 0.3, 60))).clip(0.1).tolist()
    losses[9] = min(losses[:9]) * 0.9
    losses[10:14] = [losses[9] * 0.99995] * 4  # a fall too small to count
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 1.0)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=0.1, patience=PATIENCE, min_lr=0.0, eps=0.0
    )
    count = 0
    for end, loss in enumerate(losses, start=1):
        optimizer.step()
        scheduler.step(loss)
        (group,) = optimizer.param_groups
        count = plateaus(losses[:end])
        assert group["lr"] == pytest.approx(0.1**count, rel=1e-9)
        assert rate("plateau", 0.5, losses[:end]) == 0.1**count
    assert count >= 2
