"""The examples of the documentation run as they stand, or say why; design.md names what is."""

import contextlib
import functools
import importlib
import inspect
import io
import os
import re
import runpy
import shlex
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

import advlens
from advlens import datasets
from advlens.cli import main
from advlens.cli.parsing import COMMANDS, parse
from advlens.settings.data import DATA
from advlens.workflows import pruning
from unrendered import unrendered

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(
    r"^(?:<!-- (?P<mark>not run|run with|file): (?P<note>.+?) -->\n)?"
    r"^(?P<indent> *)```(?P<language>.*)\n(?P<body>(?:.*\n)*?)(?P=indent)```$",
    re.MULTILINE,
)
PROSE = {"", "text", "toml"}  # layouts, output, tables
OWN_TEST = {"docs/interop.md": "tests/test_docs.py"}
PACKAGE = Path(advlens.__file__).parent
PAGE = Path(__file__).resolve().parents[1] / "docs" / "interop.md"


@dataclass(frozen=True)
class Block:
    """Code on a page; its mark is why it is not run, flags that make it cheap, or a file's name."""

    language: str
    body: str
    place: str
    mark: str = ""
    note: str = ""


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(*found.group("language", "body"), place, found["mark"] or "", found["note"] or "")
        for found in FENCE.finditer(text)
        for place in [f"{page.relative_to(ROOT)}:{text[: found.start()].count(chr(10)) + 1}"]
        if not found["language"].startswith("{")  # Sphinx's own
    ]


def lines_of(block: Block) -> list[str]:
    return block.body.replace("\\\n", " ").splitlines()


def commands(block: Block) -> list[tuple[list[str], list[str]]]:
    """The words of each command of a console block, and the output that is shown below it."""
    result: list[tuple[list[str], list[str]]] = []
    for line in lines_of(block):
        if line.startswith("$ "):
            result.append((shlex.split(line[2:], comments=True), []))
        elif line:
            result[-1][1].append(line)
    return result


def runs(block: Block) -> bool:
    return block.mark != "not run" and block.language not in PROSE


ALL = {str(page.relative_to(ROOT)): page for page in PAGES}
RUN = {n: page for n, page in ALL.items() if n not in OWN_TEST and any(map(runs, blocks(page)))}


@pytest.mark.parametrize("page", RUN.values(), ids=RUN)
def test_examples_run(page, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pruning, "SAMPLE_TESTED", 10)  # each pruned model is attacked on these
    with unrendered():
        run_page(page, tmp_path, monkeypatch, capsys)


def run_page(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(datasets, "FILES", {**datasets.FILES})  # a page may add a kind of data
    monkeypatch.setitem(DATA, "flat", "")  # which is taken out again
    del DATA["flat"]
    before, names = set(sys.modules), {"__name__": "__main__"}
    for block in filter(runs, blocks(page)):
        try:
            if block.mark == "file":
                Path(block.note).write_text(block.body, encoding="utf-8")
                importlib.invalidate_caches()
            elif block.language == "python":
                exec(compile(block.body, block.place, "exec"), names)
            else:
                assert block.language == "console", "neither run nor marked as not run"
                run_commands(block, capsys)
        except Exception as error:
            error.add_note(f"in the block at {block.place}")
            raise
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def run_commands(block: Block, capsys: pytest.CaptureFixture[str]) -> None:
    cheaper = shlex.split(block.note) if block.mark == "run with" else []
    for words, shown in commands(block):
        assert words[0] == "advlens", f"{words[0]} is not advlens: mark the block as not run"
        capsys.readouterr()
        code, said = main([*words[1:], *cheaper]), capsys.readouterr()
        assert code == 0, said.err
        pattern = "\n".join(".*" if line == "…" else re.escape(line) for line in shown)
        assert re.search(pattern, said.out, re.DOTALL), said.out


@functools.cache
def known(verb: str) -> set[str]:
    with contextlib.redirect_stdout(io.StringIO()) as told, pytest.raises(SystemExit):
        main([verb, "--help-all"])
    return {"", "--list", *re.findall(r"--[\w-]+", told.getvalue())}


@pytest.mark.parametrize("page", ALL.values(), ids=ALL)
def test_flags_of_commands_that_are_not_run_exist(page):
    for block in blocks(page):
        if block.mark == "not run" and block.language in ("console", "bash"):
            for verb, flag in flags(block):
                assert verb in COMMANDS, f"{block.place}: advlens {verb}"
                assert flag in known(verb), f"{block.place}: advlens {verb} {flag}"


def flags(block: Block) -> set[tuple[str, str]]:
    """Verb and flag of what a block's commands ask of advlens; no flag for the verb alone."""
    found = set()
    for line in (line.removeprefix("$ ").partition(" # ")[0] for line in lines_of(block)):
        called = re.search(r"(?:advlens\.cli|\badvlens) +([a-z]+)(.*)", line)
        if called and line.split()[0] not in ("pip", "#SBATCH"):
            asked = re.findall(r"(?<= )--[\w-]+", called[2])
            found |= {(called[1], ""), *((called[1], flag) for flag in asked)}
    return found


def test_every_fence_is_seen_and_a_page_with_a_test_of_its_own_has_it():
    assert all((ROOT / test).exists() for test in OWN_TEST.values())
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        fences = len(re.findall(r"^ *```", text, re.MULTILINE))
        assert fences == 2 * len(list(FENCE.finditer(text))), page


def test_every_page_is_in_a_table_of_contents_and_every_public_name_in_the_reference():
    docs, listed = ROOT / "docs", set()
    for index in (docs / "index.md", docs / "reference" / "index.md"):
        (*trees,) = re.findall(r"```{toctree}\n(.*?)```", index.read_text(), re.DOTALL)
        entries = [line for tree in trees for line in tree.splitlines() if line and line[0] != ":"]
        listed |= {os.path.normpath(index.parent / f"{entry}.md") for entry in entries}
    pages = {*docs.rglob("*.md"), *(docs / "examples").glob("*.ipynb")} - {docs / "index.md"}
    assert listed == {str(path.with_suffix(".md")) for path in pages}
    pages = "".join(path.read_text() for path in (ROOT / "docs" / "reference").glob("*.md"))
    documented = set(re.findall(r"^\.\. auto\w+:: advlens\.(\w+)$", pages, re.MULTILINE))
    assert documented >= {*advlens.__all__} - {"__version__"}


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


def code_of(language):
    text = PAGE.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def test_the_commands_are_understood(tmp_path):
    commands = "".join(block.replace("\\\n", " ") for block in code_of("console"))
    ours = re.findall(r"^\$ advlens (.*)$", commands, re.MULTILINE)
    assert len(ours) == 6
    for line in ours:
        parse(shlex.split(line.replace(":DIR", f":{tmp_path}")))


def test_the_code_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the libraries
        for place, block in enumerate(code_of("python")):
            exec(compile(block, f"{PAGE.name}, block {place + 1}", "exec"), names)
    images, labels, attacked = names["images"], names["labels"], names["attacked"]
    assert (attacked - images).abs().max() <= 8 / 255 + 1e-6
    small, large = names["clipped"]
    for radius, found in ((2 / 255, small), (8 / 255, large)):
        assert 0 < (found - images).abs().max() <= radius + 1e-6
    assert torch.equal(names["success"][1], names["model"](large).argmax(dim=1) != labels)
    torch.testing.assert_close(large, attacked, atol=1e-5, rtol=0)
    assert (names["values"].shape, names["best"]["attack"]) == (images.shape, "natural")
    assert names["frame"]["top1"].max() == pytest.approx(names["best"]["top1"])
    assert "captum:DeepLift" in capsys.readouterr().out


def test_the_files_that_other_kernels_run_exist() -> None:
    text = (ROOT / "tests" / "kernels.sh").read_text(encoding="utf-8")
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    files = re.findall(r"tests/[\w/]+(?:\.py)?", text.partition("NUMBERS=(")[2].partition(")")[0])
    assert len(files) > 15
    for file in (*files, *re.findall(r"tests/[\w/]+\.py", ci)):
        assert (ROOT / file).exists(), file
