"""The notebooks of `examples/`: they run from top to bottom, and hold the outputs of such a run."""

import ast
import json
from pathlib import Path

import matplotlib
import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "examples").glob("*.ipynb"))


@pytest.mark.usefixtures("no_rendering")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_shows_what_it_says(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    matplotlib.use("Agg")
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    names: dict[str, object] = {}
    pictures = 0
    for cell in (cell for cell in cells if cell["cell_type"] == "code"):
        kinds = [kind for output in cell["outputs"] for kind in output.get("data", ())]
        *lines, last = ast.parse("".join(cell["source"])).body
        exec(compile(ast.Module(lines, []), str(path), "exec"), names)
        shown = None
        if isinstance(last, ast.Expr):
            shown = eval(compile(ast.Expression(last.value), str(path), "eval"), names)
        else:
            exec(compile(ast.Module([last], []), str(path), "exec"), names)
        assert not any(output["output_type"] == "error" for output in cell["outputs"])
        assert kinds or shown is None
        pictures += "image/png" in kinds or "<img" in str(cell["outputs"])
    assert pictures


def test_there_are_notebooks():
    assert len(NOTEBOOKS) == 3
