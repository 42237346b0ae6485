"""The registry of layouts; each is a function that opens a set in the layout of its source.

A module of this folder adds a layout with `@layout("name")` on a function (record, folder) -> splits. The record of a
task then names the layout.
"""

from collections.abc import Callable
from pathlib import Path

from biovfm_hf.rooms import import_modules

from .task import Split, TaskRecord

Layout = Callable[[TaskRecord, Path], dict[str, Split]]
LAYOUTS: dict[str, Layout] = {}


def layout(*names: str) -> Callable[[Layout], Layout]:
    """Register a function as the reader of these layouts.

    Raises:
        ValueError: one of the layouts has a reader already.
    """

    def register(read: Layout) -> Layout:
        for name in names:
            if LAYOUTS.setdefault(name, read) is not read:
                raise ValueError(f"layout {name} has a reader already")
        return read

    return register


def known_layouts() -> dict[str, Layout]:
    """All registered layouts, including those of this folder."""
    import_modules(__package__)
    return LAYOUTS
