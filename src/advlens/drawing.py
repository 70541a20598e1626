"""Pictures of images and attributions, and results as figures, tables and HTML."""

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from advlens.colors import AGAINST, FOR, LUMINANCE
from advlens.errors import SettingsError

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

Picture = Float[Tensor, "3 h w"]
Rows = Sequence[Mapping[str, Any]]
SIDE = 112
"""Minimum side of a picture, in pixels."""
FAINT = 0.3
"""Share of the gray image's contrast that remains under a heat map, above white."""
FULL_COLOR = 6.0
"""Multiple of a map's mean size that gets full color: the same scale for all models."""
MOST = 8
"""Pictures of a kind that a result shows."""
MOST_ROWS = 10
"""Rows of a table that a result shows."""


def gray(image: Float[Tensor, "3 h w"]) -> Float[Tensor, "h w"]:
    """The luminance of an image's pixels."""
    return (image * image.new_tensor(LUMINANCE)[:, None, None]).sum(dim=0)


def enlarged(image: Float[Tensor, "c h w"]) -> Float[Tensor, "c h2 w2"]:
    """A small image enlarged pixel by pixel to a side of at least 112, for drawing."""
    factor = -(-SIDE // min(image.shape[1:]))
    return image.repeat_interleave(factor, dim=1).repeat_interleave(factor, dim=2)


def heat_map(
    image: Float[Tensor, "3 h w"], attribution: Float[Tensor, "h w"], scale: float
) -> Float[Tensor, "3 h w"]:
    """A heat map over the faint gray image: red supports the class, blue opposes it.

    A pixel's color covers the image with opacity |attribution| / scale, at most 1.

    Args:
        image: pixels in [0, 1].
        attribution: the attribution of each pixel, of either sign.
        scale: the attribution with full color; 0 leaves the image as it is.

    Returns:
        Pixels in [0, 1].

    Raises:
        SettingsError: the scale is below 0 or not finite.
    """
    if not 0 <= scale < float("inf"):
        raise SettingsError(f"heat_map: scale must be finite and at least 0, not {scale}")
    faint = 1 - FAINT * (1 - gray(image))
    share = (attribution / scale if scale else torch.zeros_like(attribution)).clamp(-1, 1)
    color = torch.where(share > 0, _rgb(image, FOR), _rgb(image, AGAINST))
    return share.abs() * color + (1 - share.abs()) * faint


def _rgb(image: Tensor, color: str) -> Float[Tensor, "3 1 1"]:
    return image.new_tensor(list(bytes.fromhex(color[1:])))[:, None, None] / 255


def png(picture: Picture) -> bytes:
    """Pixels in [0, 1] as a PNG."""
    pixels = (picture.detach() * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    with io.BytesIO() as file:
        Image.fromarray(pixels).save(file, format="PNG")
        return file.getvalue()


def drawn(kinds: Mapping[str, Sequence[Picture]]) -> "Figure":
    """A figure with a row of pictures for each kind, under its name."""
    from matplotlib.figure import Figure

    columns = max(map(len, kinds.values()))
    figure = Figure(figsize=(1.2 * columns, 1.4 * len(kinds)), layout="constrained")
    axes = figure.subplots(len(kinds), columns, squeeze=False)
    for line in axes.flat:
        line.axis("off")
    for line, (kind, pictures) in zip(axes, kinds.items(), strict=True):
        line[0].set_title(kind, loc="left", fontsize="small")
        for place, picture in zip(line, pictures, strict=False):
            place.imshow(enlarged(picture.detach().cpu()).permute(1, 2, 0).clamp(0, 1).numpy())
    return figure


def scattered(x: Tensor, y: Tensor, x_name: str, y_name: str, most: float = 1.0) -> "Figure":
    """A figure with a point for each pair of shares up to `most`, as those of units; not of NaN."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.5, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.scatter(x.tolist(), y.tolist(), s=8, alpha=0.6)
    limits = -0.02 * most, 1.02 * most
    axes.set(xlim=limits, ylim=limits, xlabel=x_name, ylabel=y_name)
    return figure


def ranged(rows: Mapping[str, Mapping[str, Any]], value: str, name: str) -> "Figure":
    """A figure with a share in [0, 1] and its interval for each row, by name.

    Args:
        rows: their cells `<value>`, `<value>_low` and `<value>_high`.
        value: the column with the shares.
        name: what they are.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 0.8 + 0.25 * len(rows)), layout="constrained")
    axes = figure.subplots()
    places, cells = range(len(rows)), rows.values()
    low, high = ([row[f"{value}_{end}"] for row in cells] for end in ("low", "high"))
    axes.hlines(places, low, high)
    axes.plot([row[value] for row in cells], places, "o", markersize=4, clip_on=False)
    axes.set_yticks(places, [*rows])
    axes.set(xlim=(0, 1), ylim=(len(rows) - 0.5, -0.5), xlabel=name)
    return figure


def figure_html(figure: "Figure") -> str:
    """A figure as an HTML image."""
    with io.BytesIO() as file:
        figure.savefig(file, format="png")
        return _image(file.getvalue())


def file_html(path: Path) -> str:
    """A picture file as a small HTML image."""
    with Image.open(path) as image, io.BytesIO() as file:
        image.thumbnail((3 * SIDE, 3 * SIDE))
        image.save(file, format="PNG")
        return _image(file.getvalue())


def pictures_html(kinds: Mapping[str, Sequence[Picture]]) -> str:
    """A line of small pictures for each kind, in an HTML table."""
    lines = []
    for kind, pictures in kinds.items():
        images = " ".join(_image(png(enlarged(picture)), width=SIDE) for picture in pictures)
        lines.append(f"<tr><th>{escape(kind)}</th><td>{images}</td></tr>")
    return f"<table>{''.join(lines)}</table>"


def table_html(rows: Rows) -> str:
    """The first rows as an HTML table, and how many there are."""
    if not rows:
        return "<p>no rows</p>"
    head = "".join(f"<th>{escape(name)}</th>" for name in rows[0])
    body = "".join(
        f"<tr>{''.join(f'<td>{escape(_text(value))}</td>' for value in row.values())}</tr>"
        for row in rows[:MOST_ROWS]
    )
    more = f"<p>{len(rows)} rows</p>" if len(rows) > MOST_ROWS else ""
    return f"<table><tr>{head}</tr>{body}</table>{more}"


def frame_of(rows: Rows, columns: Sequence[str] | None = None) -> "pandas.DataFrame":
    """Rows as a pandas DataFrame.

    Raises:
        SettingsError: pandas is not installed.
    """
    try:
        import pandas
    except ImportError as error:
        raise SettingsError(
            "a frame needs pandas; install it with: pip install 'advlens[pandas]'"
        ) from error
    return pandas.DataFrame(rows, columns=columns)


def _image(content: bytes, width: int | None = None) -> str:
    size = f' width="{width}"' if width else ""
    return f'<img alt=""{size} src="data:image/png;base64,{base64.b64encode(content).decode()}">'


def _text(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
