"""Image files: pixels equal to torchvision's, and no harm from files that lie."""

import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile
from torchvision.datasets.folder import pil_loader
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, PILToTensor, Resize

from advlens.datasets import Transform, read_image, read_rgb
from advlens.datasets.decoding import MAX_PIXELS
from advlens.errors import DataError


def picture(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """Smooth shapes with some noise, so that filters and compression have something to do."""
    y, x = np.mgrid[:height, :width] / max(width, height)
    waves = [np.sin(9 * x * k + 5 * y * (4 - k)) * 110 + 128 for k in range(4)]
    noise = np.random.default_rng(width).normal(0, 8, (height, width, 4))
    pixels = (np.stack(waves, -1) + noise).clip(0, 255).astype(np.uint8)
    if mode in ("RGBA", "CMYK"):
        return Image.fromarray(pixels, mode=None if mode == "RGBA" else mode)
    if mode == "LA":
        return Image.merge("LA", Image.fromarray(pixels).split()[:2])
    image = Image.fromarray(pixels[..., :3])
    return image.quantize(64) if mode == "P" else image.convert(mode)


def torchvision_image(path: Path, transform: Transform) -> torch.Tensor:
    mode = InterpolationMode(transform.interpolation)
    steps = [Resize(transform.resize, mode), CenterCrop(transform.size), PILToTensor()]
    return Compose(steps)(pil_loader(str(path)))


# equality with torchvision


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("size", "resize"), [(224, 256), (64, 64), (75, 100), (1, 2)])
@pytest.mark.parametrize(
    "shape", [(500, 375), (375, 500), (64, 64), (257, 256), (300, 20), (101, 333), (1, 1), (7, 3)]
)
def test_pixels_equal_torchvision(
    tmp_path: Path, shape: tuple[int, int], size: int, resize: int, interpolation: str
) -> None:
    path = tmp_path / "a.png"
    picture(*shape).save(path)
    transform = Transform(size=size, resize=resize, interpolation=interpolation)
    image = read_image(path, transform)
    assert image.dtype == torch.uint8
    assert image.is_contiguous()
    assert image.shape == (3, size, size)
    assert torch.equal(image, torchvision_image(path, transform))


@pytest.mark.parametrize(
    ("mode", "format"),
    [
        *(("RGB", "JPEG"), ("L", "JPEG"), ("CMYK", "JPEG"), ("1", "PNG"), ("L", "PNG")),
        *(("LA", "PNG"), ("P", "PNG"), ("RGBA", "PNG"), ("RGB", "PNG")),
    ],
)
def test_modes_equal_torchvision(tmp_path: Path, mode: str, format: str) -> None:
    path = tmp_path / "a.png"  # of any suffix: some of ImageNet's JPEG files are PNG
    picture(90, 70, mode).save(path, format)
    transform = Transform(size=48, resize=60)
    assert torch.equal(read_image(path, transform), torchvision_image(path, transform))


def test_photographs_equal_torchvision(shared_data: Path) -> None:
    files = sorted((shared_data / "imagenet-500").glob("*/*.jpg"))[::25]
    assert len(files) == 20
    for path in files:
        for transform in (Transform(), Transform(size=240, resize=272, interpolation="bicubic")):
            assert torch.equal(read_image(path, transform), torchvision_image(path, transform))


# what Pillow's conversion leaves open


@pytest.mark.parametrize("transparency", [3, bytes(range(64))])
def test_transparent_palettes_keep_their_colors(tmp_path: Path, transparency: object) -> None:
    image = picture(20, 10, "P")
    image.save(tmp_path / "a.png", transparency=transparency)
    assert np.array_equal(read_rgb(tmp_path / "a.png"), image.convert("RGB"))


def test_16_bits_keep_their_high_byte(tmp_path: Path) -> None:
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    Image.fromarray(values).save(tmp_path / "a.png")
    pixels = np.asarray(read_rgb(tmp_path / "a.png"))
    assert pixels.shape == (256, 256, 3)
    assert np.array_equal(pixels, np.stack([values // 256] * 3, -1))


def test_orientation_is_not_applied(tmp_path: Path) -> None:
    image = picture(20, 10)
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.png", exif=exif)
    assert read_rgb(tmp_path / "a.png").size == (20, 10)


# hostile files


def png(width: int, height: int, bits: int = 1) -> bytes:
    """A PNG of zeros, small however large it claims to be."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    packer = zlib.compressobj(9)
    row = bytes(1 + (width * bits + 7) // 8)
    data = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, data) for kind, data in parts)


def test_largest_image(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(5000, MAX_PIXELS // 5000))
    image = read_image(tmp_path / "a.png", Transform(size=8, resize=8))
    assert torch.equal(image, torch.zeros(3, 8, 8, dtype=torch.uint8))


@pytest.mark.parametrize("action", ["ignore", "error"])
@pytest.mark.parametrize(
    "shape",
    [(5000, 5001), (25_000_001, 1), (9400, 9400), (10_000, 10_000), (20_000, 20_000)],
    ids=lambda shape: f"{shape[0] * shape[1] / 1e6:.1f} MP",
)
def test_bombs_are_not_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int], action: str
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png(*shape))
    assert path.stat().st_size < 100_000
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("it was decoded"))
    with warnings.catch_warnings():
        warnings.simplefilter(action, Image.DecompressionBombWarning)
        with pytest.raises(DataError, match=str(path)):
            read_rgb(path)


@pytest.mark.parametrize("shape", [(1, 20_000), (20_000, 1), (2, 800_000)])
def test_narrow_images_are_not_blown_up(tmp_path: Path, shape: tuple[int, int]) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png(*shape))
    with pytest.raises(DataError, match=f"{path} has {shape[0]}x{shape[1]} pixels, too narrow"):
        read_image(path, Transform(size=224, resize=256))


@pytest.mark.parametrize("format", ["GIF", "BMP", "TIFF", "WEBP", "PPM", "ICO"])
def test_other_formats(tmp_path: Path, format: str) -> None:
    path = tmp_path / "a.png"
    picture(32, 32).save(path, format)
    with pytest.raises(DataError, match=str(path)):
        read_rgb(path)


@pytest.mark.parametrize("content", [b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"text" * 99])
def test_no_image(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(DataError, match=str(path)):
        read_rgb(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=str(tmp_path / "a.png")):
        read_rgb(tmp_path / "a.png")


def encoded(mode: str, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture(24, 20, mode).save(buffer, format, **options)
    return buffer.getvalue()


IMAGES = {
    "JPEG": encoded("RGB", "JPEG"),
    "progressive JPEG": encoded("RGB", "JPEG", progressive=True),
    "gray JPEG": encoded("L", "JPEG"),
    "CMYK JPEG": encoded("CMYK", "JPEG"),
    "PNG": encoded("RGB", "PNG"),
    "palette PNG": encoded("P", "PNG", transparency=2),
    "transparent PNG": encoded("RGBA", "PNG"),
    "black and white PNG": encoded("1", "PNG"),
}


@pytest.mark.parametrize("kind", IMAGES)
def test_truncated(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.jpg"
    content = IMAGES[kind]
    for end in range(0, len(content) * 3 // 4, 29):
        path.write_bytes(content[:end])
        with pytest.raises(DataError, match=str(path)):
            read_rgb(path)


@settings(max_examples=250, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), max_size=8),
    cut=st.one_of(st.just(1.0), st.floats(0, 1)),
)
def test_damaged(tmp_path: Path, flips: list[tuple[float, int]], cut: float) -> None:
    path = tmp_path / "a.jpg"
    for original in IMAGES.values():
        content = bytearray(original)
        for place, change in flips:
            content[int(place * len(content))] ^= change
        path.unlink(missing_ok=True)  # a file cut to nothing makes some disks wait
        path.write_bytes(content[: round(cut * len(content))])
        result: object
        try:
            result = read_image(path, Transform(size=16, resize=16))
        except DataError as error:
            result = str(error)
        if isinstance(result, str):
            assert str(path) in result
            assert "\n" not in result
        else:
            assert (result.shape, result.dtype) == ((3, 16, 16), torch.uint8)
