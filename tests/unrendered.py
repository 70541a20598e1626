"""Figures that are made but not rendered, for tests that look at none."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from PIL import Image


@contextmanager
def unrendered(*formats: str) -> Iterator[None]:
    """Within the block every figure is saved as an empty one: rendering takes seconds a report.

    Where formats are named, only files of these; the others are drawn, but not laid out.
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

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Figure, "savefig", savefig)
        patched.setattr(ConstrainedLayoutEngine, "execute", lambda engine, figure: None)
        yield
