"""Sphinx builds these pages offline: `make docs` writes docs/_build/index.html.

Formulas are Unicode text, in docstrings as in pages: they read the same in an editor, in a
terminal and here, and need no script.
"""

import contextlib
import io
import os
import re
import types
import typing
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import SphinxDirective

import advlens
from advlens import arrays
from advlens.cli.parsing import COMMANDS, parse
from advlens.fid import representations
from advlens.runs.tables import TABLES

project = "advlens"
version = release = advlens.__version__
html_title = f"advlens {version}"
html_theme = "furo"
html_static_path = ["style"]
html_css_files = ["wide.css"]
html_copy_source = False
html_show_copyright = False
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
smartquotes = False
myst_heading_anchors = 3
nb_execution_mode = "off"  # they hold their outputs
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
maximum_signature_line_length = 120
napoleon_custom_sections = [("Attributes", "params_style")]  # their types are in the signature
napoleon_use_rtype = False
nitpick_ignore_regex = [
    ("py:.*", r"(torch|jaxtyping|numpy|pandas|matplotlib|pathlib|collections|typing)\..*|Tensor"),
    ("py:class", r"Module|Figure|ndarray|.*\.(Fields|Objective|ImageScore)"),
]

for _module in (arrays, representations):
    for _name, _alias in vars(_module).items():
        if hasattr(_alias, "dims"):  # signatures show Images, not Float[Tensor, 'n 3 h w']
            _alias.__name__ = _alias.__qualname__ = _name
            _alias.__module__ = "jaxtyping"


class Help(SphinxDirective):
    """What each command says of itself; what it shares with `audit` is said there alone."""

    def run(self) -> list[nodes.Node]:
        shared = {*_options("audit")[1:]}
        sections = []
        for verb in COMMANDS:
            usage, *options = _options(verb)
            own = options if verb == "audit" else [text for text in options if text not in shared]
            section = nodes.section(ids=[verb], names=[verb])
            section += nodes.title(text=f"advlens {verb}")
            section += nodes.literal_block(text=usage, language="text")
            if own:
                section += nodes.literal_block(text="\n".join(own), language="text")
            if len(own) < len(options):
                section += nodes.paragraph(text="All other options are those of advlens audit.")
            sections.append(section)
        return sections


def _options(verb: str) -> list[str]:
    """Usage and description of a command, then each of its options, without frames."""
    os.environ["COLUMNS"] = "84"
    said = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        parse([verb, "--help-all"])
    said.seek(0)
    head, _, rest = said.read().partition("╭")
    lines = [line[2:-2].rstrip() for line in rest.splitlines() if line.startswith("│")]
    options: list[str] = []
    for line in lines:
        if line[:1] in ("-", "{") or line[:1].isupper():
            options.append(line)
        elif options and line.strip("─ "):
            options[-1] += f"\n{line}"
    return [head.strip(), *options]


class RunTables(SphinxDirective):
    """Every table of a run, with its columns, as `runs.tables` declares them."""

    def run(self) -> list[nodes.Node]:
        lines = list[str]()
        for name, table in TABLES.items():
            lines += [f"## {name}.csv", "", f"A row is {table.meaning}.", ""]
            lines += ["| column | type | holds |", "| --- | --- | --- |"]
            lines += [
                f"| `{column}` | {_type(kind)} | {meaning} |"
                for column, (kind, meaning) in table.columns.items()
            ]
            lines.append("")
        return self.parse_text_to_nodes("\n".join(lines), allow_section_headings=True)


def _type(kind: Any) -> str:
    if typing.get_origin(kind) is typing.Literal:
        return " or ".join(f"`{text}`" if text else "empty" for text in typing.get_args(kind))
    words = {str: "text", int: "whole number", float: "number", bool: "true or false"}
    part = next(part for part in typing.get_args(kind) or (kind,) if part is not types.NoneType)
    text = next(words[base] for base in part.__mro__ if base in words)
    if hasattr(part, "low"):
        text += f" from {part.low} to 1" if part.high == 1 else f" ≥ {part.low}"
    return text + (" or empty" if typing.get_args(kind) else "")


def without_extras(app: Sphinx, thing: Any, bound: bool) -> None:
    """Take from annotations what only the command line reads of them."""
    with contextlib.suppress(NameError, TypeError, AttributeError):  # names for type checkers alone
        thing.__annotations__ = typing.get_type_hints(thing)


def as_prose(app: Sphinx, kind: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Docstrings are text, but for what stands in backticks: |x| and * mean no markup."""
    for place, line in enumerate(lines):
        parts = re.split(r"`([^`]+)`(?=(\w?))", line)  # text, code, what follows it, text …
        parts[::3] = [re.sub(r"([|*])", r"\\\1", part) for part in parts[::3]]
        parts[1::3] = [f"``{part}``" for part in parts[1::3]]
        parts[2::3] = ["\\ " if part else "" for part in parts[2::3]]
        lines[place] = "".join(parts)
    if kind in ("attribute", "property"):
        lines.insert(0, "\\ ")  # nothing; else napoleon reads a type in "Of each pixel: …"


def found_by_last_name(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, text: nodes.TextElement
) -> nodes.reference | None:
    """What is documented under another module, as `advlens.Pgd` is `attacks.projected.Pgd`."""
    if node["refdomain"] != "py":
        return None
    python = env.domains.python_domain
    last = node["reftarget"].rpartition(".")[2]
    known = [name for name in python.objects if name.rpartition(".")[2] == last]
    if len(known) != 1:
        return None
    return python.resolve_xref(env, node["refdoc"], app.builder, "obj", known[0], node, text)


def setup(app: Sphinx) -> None:
    app.add_directive("help", Help)
    app.add_directive("tables", RunTables)
    app.connect("autodoc-before-process-signature", without_extras)
    app.connect("autodoc-process-docstring", as_prose, priority=400)  # before napoleon
    app.connect("missing-reference", found_by_last_name)
