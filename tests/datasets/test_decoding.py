"""Image files: pixels equal to torchvision's, and no harm from files that lie."""

import io
import warnings
from itertools import product
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
from advlens.datasets.decoding import MAX_PIXELS, ImageError
from advlens.errors import DataError
from tiny_imagenet import png


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.png"


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
    size = (transform.resize, transform.resize) if transform.squeeze else transform.resize
    steps = [Resize(size, mode), CenterCrop(transform.size), PILToTensor()]
    return Compose(steps)(pil_loader(str(path)))


@pytest.mark.parametrize(
    "shape", [(500, 375), (375, 500), (64, 64), (257, 256), (300, 20), (101, 333), (1, 1), (7, 3)]
)
def test_pixels_equal_torchvision(path, shape):
    picture(*shape).save(path, compress_level=1)
    sizes = [(224, 256), (64, 64), (75, 100), (1, 2)]
    filters = [("bilinear", False), ("bicubic", False), ("bilinear", True)]
    for (size, resize), (interpolation, squeeze) in product(sizes, filters):
        given = {"interpolation": interpolation, "squeeze": squeeze}
        transform = Transform(size=size, resize=resize, **given)
        image = read_image(path, transform)
        assert image.dtype == torch.uint8
        assert image.is_contiguous()
        assert image.shape == (3, size, size)
        assert torch.equal(image, torchvision_image(path, transform)), transform


@pytest.mark.parametrize("shape", [(500, 375), (375, 500), (64, 64), (90, 30), (30, 90), (3, 2)])
def test_a_crop_that_is_not_square_lies_in_an_image_that_just_covers_its_area(path, shape):
    picture(*shape).save(path, compress_level=1)
    for (rows, columns), resize in product([(32, 48), (48, 32), (20, 61)], [None, 40, 64]):
        resize = resize or min(rows, columns)
        transform = Transform(size=rows, width=columns, resize=resize)
        area = [side * resize / min(rows, columns) for side in (rows, columns)]  # rows, columns
        scale = max(area[0] / shape[1], area[1] / shape[0])
        image = read_image(path, transform)
        assert image.shape == (3, rows, columns)
        for near in product((-1, 0, 1), repeat=2):
            covering = [round(side * scale) + n for side, n in zip(shape[::-1], near, strict=True)]
            steps = [Resize(covering), CenterCrop((rows, columns)), PILToTensor()]
            if torch.equal(image, Compose(steps)(pil_loader(str(path)))):
                break
        else:
            pytest.fail(f"{transform} is no crop of a size near {area}")


FORM_MODES = [
    *[("JPEG", "RGB L CMYK"), ("PNG", "1 L LA P RGBA RGB"), ("WEBP", "RGB RGBA")],
    *[("BMP", "1 L P RGB"), ("TIFF", "1 L LA P RGBA RGB CMYK")],
]


@pytest.mark.parametrize(("form", "modes"), FORM_MODES)
def test_modes_equal_torchvision(path, form, modes):
    transform = Transform(size=48, resize=60)
    for mode in modes.split():
        # a file of any suffix: some of ImageNet's JPEG files are PNG
        picture(90, 70, mode).save(path, form)
        assert torch.equal(read_image(path, transform), torchvision_image(path, transform)), mode


def test_photographs_equal_torchvision(shared_data):
    files = sorted((shared_data / "imagenet-500").glob("*/*.jpg"))[::25]
    assert len(files) == 20
    for path in files:
        for transform in (Transform(), Transform(size=240, resize=272, interpolation="bicubic")):
            assert torch.equal(read_image(path, transform), torchvision_image(path, transform))


@pytest.mark.parametrize("transparency", [3, bytes(range(64))])
def test_transparent_palettes_keep_their_colors(path, transparency):
    image = picture(20, 10, "P")
    image.save(path, transparency=transparency)
    assert np.array_equal(read_rgb(path), image.convert("RGB"))


def test_16_bits_orientation_and_the_largest_image(path):
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    for form in ("PNG", "TIFF"):
        Image.fromarray(values).save(path, form)
        assert np.array_equal(read_rgb(path), np.stack([values // 256] * 3, -1))
    for kind in (np.int32, np.float32):
        Image.fromarray(values.astype(kind)).save(path, "TIFF")
        with pytest.raises(DataError, match="32 bits"):
            read_rgb(path)
    exif = Image.Exif()
    exif[0x0112] = 6
    for format in ("JPEG", "PNG"):
        picture(20, 10).save(path, format, exif=exif)
        assert read_rgb(path).size == (20, 10)
    for form in ("PNG", "TIFF", "WEBP"):  # Pillow turns TIFF in any case
        for side in range(1, 9):
            exif[0x0112] = side
            image = Image.fromarray(np.arange(6 * 8, dtype=np.uint8).reshape(6, 8)).convert("RGB")
            image.save(path, form, exif=exif, **{"lossless": True} if form == "WEBP" else {})
            turned = np.asarray(read_rgb(path, exif_orientation=True))[..., 0]
            y, x = np.mgrid[:6, :8]
            row = {1: y, 2: y, 3: 5 - y, 4: 5 - y, 5: x, 6: x, 7: 7 - x, 8: 7 - x}[side]
            column = {1: x, 2: 7 - x, 3: 7 - x, 4: x, 5: y, 6: 5 - y, 7: 5 - y, 8: y}[side]
            assert np.array_equal(turned[row, column], 8 * y + x), (form, side)
    transform = Transform(size=6, resize=6, exif_orientation=True)
    exif[0x0112] = 3
    picture(9, 6).save(path, "PNG", exif=exif)
    upside = read_image(path, transform)
    picture(9, 6).rotate(180).save(path, "PNG")
    assert torch.equal(upside, read_image(path, transform))
    height = MAX_PIXELS // 5000
    path.write_bytes(png(5000, height, data=bytes(height * (1 + 5000 // 8))))
    image = read_image(path, Transform(size=8, resize=8))
    assert torch.equal(image, torch.zeros(3, 8, 8, dtype=torch.uint8))


FRAMES = {  # form of a file of two images, subfile type of the second → whether the first is read
    ("PNG", None): False,
    ("WEBP", None): False,
    ("TIFF", None): False,
    ("TIFF", 2): False,  # a page of a document
    ("TIFF", 1): True,  # a smaller copy
    ("TIFF", 5): True,  # its mask
    ("MPO", None): True,  # how telephones store a photograph
}


@pytest.mark.parametrize(("form", "subfile"), FRAMES)
def test_a_file_of_several_images_is_refused_unless_the_first_is_meant(path, form, subfile):
    first, second = picture(20, 10), picture(20, 10).rotate(180)
    second.encoderinfo = {} if subfile is None else {"tiffinfo": {254: subfile}}
    first.save(path, form, save_all=True, append_images=[second])
    with Image.open(path) as image:
        assert image.n_frames == 2
        whole = np.asarray(image.convert("RGB"))
    if FRAMES[form, subfile]:
        assert np.array_equal(read_rgb(path), whole)
    else:
        with pytest.raises(ImageError, match=f"{path} is an animation or has several pages"):
            read_rgb(path)


BOMBS = [(5000, 5001), (25_000_001, 1), (9400, 9400), (10_000, 10_000), (20_000, 20_000)]


@pytest.mark.parametrize("action", ["ignore", "error"])
@pytest.mark.parametrize("shape", BOMBS, ids=lambda shape: f"{shape[0] * shape[1] / 1e6:.1f} MP")
def test_bombs_are_not_decoded(path, monkeypatch, shape, action):
    path.write_bytes(png(*shape))
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("it was decoded"))
    with warnings.catch_warnings():
        warnings.simplefilter(action, Image.DecompressionBombWarning)
        with pytest.raises(DataError, match=str(path)):
            read_rgb(path)


@pytest.mark.parametrize("shape", [(1, 20_000), (20_000, 1), (2, 800_000)])
def test_narrow_images_are_not_blown_up(path, shape):
    width, height = shape
    path.write_bytes(png(width, height, data=bytes(height * (1 + -(-width // 8)))))
    with pytest.raises(DataError, match=f"{path} has {width}x{height} pixels, too narrow"):
        read_image(path, Transform(size=224, resize=256))


def encoded(mode: str, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture(24, 20, mode).save(buffer, format, **options)
    return buffer.getvalue()


FORMS = {
    **{"JPEG": ("RGB", "JPEG", {}), "progressive JPEG": ("RGB", "JPEG", {"progressive": True})},
    **{
        "gray JPEG": ("L", "JPEG", {}),
        "CMYK JPEG": ("CMYK", "JPEG", {}),
        "PNG": ("RGB", "PNG", {}),
    },
    **{"palette PNG": ("P", "PNG", {"transparency": 2}), "transparent PNG": ("RGBA", "PNG", {})},
    "black and white PNG": ("1", "PNG", {}),
    **{"WebP": ("RGB", "WEBP", {}), "transparent WebP": ("RGBA", "WEBP", {"lossless": True})},
    **{"BMP": ("RGB", "BMP", {}), "palette BMP": ("P", "BMP", {}), "TIFF": ("RGB", "TIFF", {})},
    **{f"{how} TIFF": ("RGB", "TIFF", {"compression": how}) for how in ("tiff_lzw", "jpeg")},
}
IMAGES = {name: encoded(mode, form, **more) for name, (mode, form, more) in FORMS.items()}


NONE = {"absent": b"", "empty": b"", "JPEG": b"\xff\xd8\xff", "PNG": IMAGES["PNG"][:8]}
NONE |= {"text": b"a" * 9}
NONE |= {format: encoded("RGB", format) for format in ("GIF", "PPM", "ICO")}


@pytest.mark.parametrize("kind", NONE)
def test_no_image(path, kind):
    if kind != "absent":
        path.write_bytes(NONE[kind])
    with pytest.raises(DataError, match=str(path)):
        read_rgb(path)


@pytest.mark.parametrize("kind", IMAGES)
def test_truncated(path, kind):
    content = IMAGES[kind]
    for end in range(0, len(content) * 3 // 4, 29):
        path.write_bytes(content[:end])
        with pytest.raises(DataError, match=str(path)):
            read_rgb(path)


@settings(max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), max_size=8),
    cut=st.one_of(st.just(1.0), st.floats(0, 1)),
)
def test_damaged(path, flips, cut):
    for original in IMAGES.values():
        content = bytearray(original)
        for place, change in flips:
            content[int(place * len(content))] ^= change
        path.unlink(missing_ok=True)  # a file cut to nothing makes some disks wait
        path.write_bytes(content[: round(cut * len(content))])
        try:
            result = read_image(path, Transform(size=16, resize=16))
        except DataError as error:
            reason = str(error)
            assert str(path) in reason
            assert "\n" not in reason
        else:
            assert (result.shape, result.dtype) == ((3, 16, 16), torch.uint8)
