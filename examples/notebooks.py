"""Writes the notebooks beside the examples: python examples/notebooks.py

An example is a program whose cells begin with `# %%`; the lines of a `# %% [markdown]` cell are comments.
"""

import json
import re
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
EXAMPLES = sorted(path for path in FOLDER.glob("*.py") if path.name != Path(__file__).name)


def notebook(program: str) -> str:
    """The JSON of the notebook with the cells of `program`."""
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    cells = [_cell(number, *cell) for number, cell in enumerate(_cells(program))]
    content = {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _cells(program: str) -> list[tuple[str, str]]:
    """Kind and text of each cell."""
    parts = re.split(r"^# %%( \[markdown\])?\n", program, flags=re.MULTILINE)[1:]
    return [
        ("markdown" if mark else "code", text.strip("\n")) for mark, text in zip(parts[::2], parts[1::2], strict=True)
    ]


def _cell(number: int, kind: str, text: str) -> dict[str, Any]:
    if kind == "markdown":
        text = re.sub(r"^# ?", "", text, flags=re.MULTILINE)
    more = {"execution_count": None, "outputs": []} if kind == "code" else {}
    return {
        "cell_type": kind,
        "id": f"cell-{number}",
        "metadata": {},
        **more,
        "source": text.splitlines(keepends=True),
    }


if __name__ == "__main__":
    for path in EXAMPLES:
        path.with_suffix(".ipynb").write_text(notebook(path.read_text(encoding="utf-8")), encoding="utf-8")
