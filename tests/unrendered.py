"""Figures that are made but not rendered, and empty reports, for tests that look at none."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from PIL import Image

from advlens.report import page
from advlens.report.blocks import FigureBlock


@contextmanager
def unrendered(*formats: str) -> Iterator[None]:
    """Within the block every figure is saved as an empty one: rendering takes seconds a report.

    A page shows the wide drawing of a figure in place of the narrow one. Where formats are named,
    only files of these are empty; the others are drawn, but not laid out.
    """
    png = io.BytesIO()
    Image.new("1", (1, 1)).save(png, "PNG")
    empty = {"png": png.getvalue(), "svg": b'<svg xmlns="http://www.w3.org/2000/svg"/>'}
    save = Figure.savefig

    def savefig(figure: Figure, file: Any, **options: Any) -> None:
        if options["format"] in (formats or empty):
            file.write(empty[options["format"]])
        else:
            save(figure, file, **options)

    def plot(block: FigureBlock, run: Path) -> Any:
        figure = block.draw(width=page.WIDTH)
        saved = page.save_figure(figure, run, block.name)[1].read_text(encoding="utf-8")
        drawing = page._drawing(figure, saved)
        return {"wide": drawing, "narrow": drawing}

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(page, "_plot", plot)
        patched.setattr(Figure, "savefig", savefig)
        patched.setattr(ConstrainedLayoutEngine, "execute", lambda engine, figure: None)
        yield


@contextmanager
def unwritten() -> Iterator[None]:
    """Within the block a report is an empty page, without figures."""

    def write(run: Path, *_: object) -> Path:
        (run / "report.html").write_bytes(b"")
        return run / "report.html"

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(page, "_write", write)
        yield
