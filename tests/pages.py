"""A written report, as its tests look at it."""

import functools
from collections.abc import Iterator
from pathlib import Path
from xml.etree.ElementTree import Element

import html5lib


def page(run: Path) -> Element:
    return parsed((run / "report.html").read_text(encoding="utf-8"))


@functools.cache
def parsed(text: str) -> Element:
    """A page, which no test changes; parsing a long one takes seconds."""
    return html5lib.parse(text, namespaceHTMLElements=False)


def elements(run: Path, name: str, kind: str | None = None) -> list[Element]:
    """All of this name, or those of exactly this class."""
    found = list(page(run).iter(name))
    return found if kind is None else [e for e in found if e.attrib.get("class") == kind]


def text_of(element: Element) -> str:
    return " ".join(" ".join(element.itertext()).split())


def links(run: Path) -> Iterator[tuple[str, str]]:
    for element in page(run).iter():
        for name in ("href", "src", "srcset", "action", "data", "poster", "background"):
            if name in element.attrib:
                yield name, element.attrib[name]
