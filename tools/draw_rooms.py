"""Draw the rooms of the house, layer by layer: python tools/draw_rooms.py

The layers are those of the import contract in pyproject.toml. A test holds that the committed
picture is what this script draws.
"""

import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs" / "pictures" / "rooms.svg"
PACKAGE = ROOT / "src" / "advlens"

WIDTH, LEFT, EDGE, GAP, ROOM = 360, 34, 8, 6, 25  # pixels; the arrow stands left of LEFT
CHARACTER = 7.8  # pixels, of a monospaced font of 13 pixels
STYLE = """
  .paper { fill: #fff } .layer { fill: #edf0f6 } .room { fill: #fff; stroke: #7a879c }
  text { fill: #1a1c21; font: 13px ui-monospace, Menlo, Consolas, monospace; text-anchor: middle }
  path { fill: none; stroke: #5b6780; stroke-width: 1.5 }
  @media (prefers-color-scheme: dark) {
    .paper { fill: #131416 } .layer { fill: #22262e } .room { fill: #131416; stroke: #8a97ad }
    text { fill: #e8eaf0 } path { stroke: #a9b4c8 }
  }
"""


def layers() -> list[list[str]]:
    """The names of the rooms, from the highest layer to the lowest."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (contract,) = (
        contract
        for contract in settings["tool"]["importlinter"]["contracts"]
        if contract["type"] == "layers"
    )
    return [
        [name.strip().removeprefix("advlens.") for name in layer.split("|")]
        for layer in contract["layers"]
    ]


def drawn() -> str:
    """The picture as SVG."""
    parts, top = list[str](), float(EDGE)
    for names in layers():
        rows = _rows([_label(name) for name in names])
        height = GAP + len(rows) * (ROOM + GAP)
        parts.append(_box("layer", LEFT, top, WIDTH - LEFT - EDGE, height))
        for number, row in enumerate(rows):
            left, y = (LEFT + WIDTH - EDGE - _length(row)) / 2, top + GAP + number * (ROOM + GAP)
            for label in row:
                parts.append(_box("room", left, y, _width(label), ROOM))
                parts.append(_text(label, left + _width(label) / 2, y + 17))
                left += _width(label) + GAP
        top += height + GAP / 2
    return "\n".join([*_frame(top - GAP / 2 + EDGE), *parts, "</svg>\n"])


def _frame(height: float) -> list[str]:
    """The paper, and the arrow of imports."""
    end, x = height - EDGE, LEFT / 2 - 4
    return [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}"'
        f' width="{WIDTH}" height="{height:g}" role="img">',
        "<title>The rooms of advlens; each imports from lower layers only</title>",
        f"<style>{STYLE}</style>",
        f'<rect class="paper" width="{WIDTH}" height="{height:g}"/>',
        f'<path d="M {x + 8:g} {EDGE} V {end:g} m -5 -8 l 5 8 l 5 -8"/>',
        f'<g transform="translate({x:g} {height / 2:g}) rotate(-90)">{_text("imports", 0, 0)}</g>',
    ]


def _label(name: str) -> str:
    return f"{name}/" if (PACKAGE / name).is_dir() else name


def _rows(labels: list[str]) -> list[list[str]]:
    """The labels of a layer, in as many rows as they need."""
    rows: list[list[str]] = [[]]
    for label in labels:
        if _length([*rows[-1], label]) > WIDTH - LEFT - EDGE - 2 * GAP:
            rows.append([])
        rows[-1].append(label)
    return rows


def _length(row: list[str]) -> float:
    return sum(map(_width, row)) + GAP * (len(row) - 1)


def _width(label: str) -> float:
    return len(label) * CHARACTER + 16


def _box(kind: str, x: float, y: float, width: float, height: float) -> str:
    place = f'x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}"'
    return f'<rect class="{kind}" {place} rx="5"/>'


def _text(text: str, x: float, y: float) -> str:
    return f'<text x="{x:g}" y="{y:g}">{text}</text>'


if __name__ == "__main__":
    PICTURE.write_text(drawn(), encoding="utf-8")
