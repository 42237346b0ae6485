"""Draws docs/journey.svg, the way of a raw file to a card, from the code: python docs/journey.py

The text of each box is the first sentence of a module's docstring. If a module moves or its docstring changes, the
picture changes, and `tests/test_docs.py` requires drawing it again.
"""

import ast
from html import escape
from pathlib import Path
from textwrap import wrap

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "docs" / "journey.svg"

# (room, what arrives and what leaves, the modules on its way)
ROWS = [
    (
        "dataset_builder",
        "raw file → row",
        [
            "dataset_builder/catalog/records.py",
            "dataset_builder/readers/__init__.py",
            "dataset_builder/screening/rules.py",
            "dataset_builder/shards/shard.py",
            "dataset_builder/dataset/finish.py",
        ],
    ),
    (
        "training",
        "row → crop → loss → model",
        [
            "training/data/images.py",
            "training/data/augment.py",
            "training/objectives/dino/objective.py",
            "training/loop.py",
            "training/run/export.py",
        ],
    ),
    (
        "evaluation",
        "image → score → record",
        [
            "evaluation/tasks/catalog.py",
            "evaluation/encoders/load.py",
            "evaluation/probes/linear.py",
            "evaluation/statistics/bootstrap.py",
            "evaluation/results/records.py",
        ],
    ),
    (
        "model_cards",
        "record → card, report, Hub",
        [
            "model_cards/inputs/results.py",
            "model_cards/card/command.py",
            "model_cards/report/command.py",
            "model_cards/hub/command.py",
        ],
    ),
]
WIDTH, HEIGHT, GAP, LEFT, TOP = 196, 104, 22, 24, 24
STYLE = """
  text { font: 12px system-ui, sans-serif; fill: #1d2733 } .room { font-weight: 700; font-size: 14px }
  .way { fill: #55606e } .name { font: 600 11px ui-monospace, monospace }
  rect { fill: #f4f7fa; stroke: #9fb0c3; rx: 6 } path { stroke: #55606e; fill: none; marker-end: url(#head) }
"""


def purpose(module: str) -> str:
    """The first sentence of a module's docstring."""
    text = ast.get_docstring(ast.parse((ROOT / module).read_text(encoding="utf-8"))) or ""
    return " ".join(text.split("\n\n")[0].split()).replace("`", "").rstrip(".")


def draw() -> str:
    """The picture as SVG: a row of boxes for each room, in the order in which files pass through them."""
    pieces = [piece for number, row in enumerate(ROWS) for piece in _row(number, *row)]
    columns = max(len(modules) for _, _, modules in ROWS)
    width = 2 * LEFT + columns * (WIDTH + GAP) - GAP
    height = TOP + len(ROWS) * _pitch()
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">'
    title = "<title>From a raw file to a row, a crop, a loss, a score and a card</title>"
    marker = '<marker id="head" markerWidth="8" markerHeight="8" refX="7" refY="3" orient="auto">'
    arrow = f'<defs>{marker}<path d="M0,0 L7,3 L0,6" style="marker-end:none"/></marker></defs>'
    return "\n".join([head, title, f"<style>{STYLE}</style>", arrow, *pieces, "</svg>", ""])


def _pitch() -> int:
    return HEIGHT + 58


def _row(number: int, room: str, way: str, modules: list[str]) -> list[str]:
    top = TOP + number * _pitch()
    label = f'<tspan class="room">{room}/</tspan> <tspan class="way" dx="8">{escape(way)}</tspan>'
    pieces = [f'<text x="{LEFT}" y="{top + 12}">{label}</text>']
    for column, module in enumerate(modules):
        left = LEFT + column * (WIDTH + GAP)
        pieces += _box(left, top + 24, module.removeprefix(f"{room}/"), purpose(module))
        if column:
            pieces.append(f'<path d="M{left - GAP},{top + 24 + HEIGHT // 2} h{GAP - 2}"/>')
    return pieces


def _box(left: int, top: int, name: str, text: str) -> list[str]:
    name = name.removesuffix("/__init__.py") + ("/" if name.endswith("/__init__.py") else "")
    lines = wrap(text, 28, max_lines=5, placeholder=" …")
    return [
        f'<rect x="{left}" y="{top}" width="{WIDTH}" height="{HEIGHT}"/>',
        f'<text class="name" x="{left + 8}" y="{top + 18}">{escape(name)}</text>',
        *(
            f'<text x="{left + 8}" y="{top + 36 + 15 * number}">{escape(line)}</text>'
            for number, line in enumerate(lines)
        ),
    ]


if __name__ == "__main__":
    TARGET.write_text(draw(), encoding="utf-8")
