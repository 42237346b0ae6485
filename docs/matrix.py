"""Writes the matrix of docs/reproduce.md from the recipes of biovfm reproduce: python docs/matrix.py

It has a row for each table and figure of the two papers: its content, needs, hours, and what cannot be reproduced.
"""

import tempfile
from pathlib import Path

from evaluation.reproduce.bench import Bench
from evaluation.reproduce.needs import find_needs
from evaluation.reproduce.options import ReproduceOptions
from evaluation.reproduce.recipe import Recipe, find_recipe, recipe_names

TARGET = Path(__file__).with_name("reproduce.md")
BEGIN, END = "<!-- matrix: python docs/matrix.py -->\n", "<!-- end of the matrix -->"
DIFFERS = "what is not reproducible, or not as in the paper, and why"
HEAD = ("biovfm reproduce", "shows", "takes", "hours on an A100", DIFFERS)


def matrix() -> str:
    """The table, one row per item."""
    lines = [f"| {' | '.join(HEAD)} |", "|---" * len(HEAD) + "|"]
    return "\n".join([*lines, *(row(find_recipe(name)) for name in recipe_names())]) + "\n"


def row(recipe: Recipe) -> str:
    """The row of an item: its name, title, needs, hours, and differences."""
    takes = [f"{len(items)} {what}{'s' * (len(items) > 1)}" for what, items in (
        ("set", recipe.tasks), ("model", recipe.models)) if items]  # fmt: skip
    differs = [*recipe.differs, *(f"{name}: {reason}" for name, reason in recipe.weights.items())]
    cells = (
        f"`{recipe.name}`",
        recipe.title,
        ", ".join(takes) or "a dataset folder",
        hours(recipe),
        "<br>".join(differs),
    )
    return f"| {' | '.join(cells)} |"


def hours(recipe: Recipe) -> str:
    """Estimated hours, from the papers' counts of images."""
    with tempfile.TemporaryDirectory() as nowhere:
        needs = find_needs([recipe], Bench(ReproduceOptions(items=[recipe.name], data=nowhere, dry_run=True)))
    if not needs.hours:
        return "unknown" if needs.uncounted else ""
    return f"{needs.hours:,.0f}" if needs.hours >= 1 else f"{needs.hours:.1f}"


def page() -> str:
    """The whole page with the current matrix."""
    text = TARGET.read_text(encoding="utf-8")
    return text[: text.index(BEGIN) + len(BEGIN)] + matrix() + text[text.index(END) :]


if __name__ == "__main__":
    TARGET.write_text(page(), encoding="utf-8")
