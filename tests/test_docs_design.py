"""The map of the house, docs/design.md, names what there is."""

import importlib
import inspect
import re
import runpy
from pathlib import Path

import pytest

import advlens

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = Path(advlens.__file__).parent


def table(section: str) -> list[list[str]]:
    """The cells of the table of a section, without its header."""
    text = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    (body,) = re.findall(rf"^## {re.escape(section)}\n(.*?)(?=^## |\Z)", text, re.S | re.M)
    return [line.strip("| ").split(" | ") for line in body.splitlines() if line.startswith("|")][2:]


def codes(cell: str) -> list[str]:
    return re.findall("`([^`]+)`", cell)


FORMULAS = [
    pytest.param(file, name, id=name)
    for _, place, _ in table("Where do I find …")
    for file, *names in [codes(place)]
    for name in names
]


@pytest.mark.parametrize(("file", "name"), FORMULAS)
def test_a_formula_is_where_the_table_says(file, name):
    thing = importlib.import_module("advlens." + file.removesuffix(".py").replace("/", "."))
    for part in name.split("."):
        thing = getattr(thing, part)
    assert inspect.getsourcefile(inspect.unwrap(thing)) == str(PACKAGE / file)


def test_the_rooms_are_all_there_are():
    ignored = {"__init__.py", "__pycache__", "py.typed"}
    rooms = {
        path.name.removesuffix(".py")
        for path in PACKAGE.iterdir()
        # a folder that has gone leaves its compiled modules behind
        if path.name not in ignored
        and any(each.suffix != ".pyc" for each in (path, *path.rglob("*")) if each.is_file())
    }
    assert sorted([room for cell, _ in table("The rooms") for room in codes(cell)]) == sorted(rooms)


def test_the_picture_is_what_the_script_draws_and_has_every_room_that_imports():
    """Recipes hold a network for the command line, all others without a layer hold no code."""
    script = runpy.run_path(str(ROOT / "tools" / "draw_rooms.py"))
    picture = script["PICTURE"].read_text(encoding="utf-8")
    assert picture == script["drawn"](), "python tools/draw_rooms.py draws it again"
    listed = {room for cell, _ in table("The rooms") for room in codes(cell)}
    bare = listed - {room for layer in script["layers"]() for room in layer}
    assert bare == {"recipes", "reproductions", "tables"}
