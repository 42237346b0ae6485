"""The registry of layouts; each has a function that opens a set in the layout of its source.

A module of this folder adds a layout with `@layout("name")` on a function (record, folder) -> splits. The record of a
task then names the layout. If the splits alone do not make the task, or no single folder holds its files, it is
`@opener("name")` on a function (record, place) -> task.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from biovfm_hf.errors import UserError
from biovfm_hf.nearest import nearest
from biovfm_hf.rooms import import_modules

from .task import Split, Task, TaskRecord


class Place(NamedTuple):
    """Where sets are: their folder `data`.

    The other fields are for MedMNIST's files: the image `size` (None: the largest that is present), the folder `cache`
    to unpack large .npz members to, and whether to `fetch` a missing set.
    """

    data: Path
    size: int | None = None
    cache: Path | None = None
    fetch: bool = False


Opener = Callable[[TaskRecord, Place], Task]
Layout = Callable[[TaskRecord, Path], dict[str, Split]]
LAYOUTS: dict[str, Opener] = {}


def opener(*names: str) -> Callable[[Opener], Opener]:
    """Register a function that opens tasks of these layouts.

    Raises:
        ValueError: one of the layouts has a reader already.
    """

    def register(open_files: Opener) -> Opener:
        for name in names:
            if LAYOUTS.setdefault(name, open_files) is not open_files:
                raise ValueError(f"layout {name} has a reader already")
        return open_files

    return register


def layout(*names: str) -> Callable[[Layout], Layout]:
    """Register a function as the reader of these layouts; it is given the folder that has the record's marker.

    Raises:
        ValueError: one of the layouts has a reader already.
    """

    def register(read: Layout) -> Layout:
        opener(*names)(lambda record, place: Task(record, read(record, find_root(record, place.data))))
        return read

    return register


def known_layouts() -> dict[str, Opener]:
    """All registered layouts, including those of this folder."""
    import_modules(__package__)
    return LAYOUTS


def open_recorded(record: TaskRecord, place: Place) -> Task:
    """Open the task of a record.

    Raises:
        UserError: the layout is unknown, or files are missing, or are not laid out as by their source.
    """
    layouts = known_layouts()
    if record.layout not in layouts:
        hint = nearest(str(record.layout), layouts) or f"; there are: {', '.join(layouts)}"
        raise UserError(f"task {record.name}: layout {record.layout!r} has no reader{hint}")
    return layouts[record.layout](record, place)


def find_root(record: TaskRecord, data: Path) -> Path:
    """The folder below `data` that is laid out as by the source of `record`.

    It is searched in `data` itself and up to three folders deep, by the record's `options: marker` (a glob pattern).

    Raises:
        UserError: there is no such folder.
    """
    marker = record.options.get("marker")
    if not marker:
        raise UserError(f"task {record.name}: its record gives no options: marker, a pattern that its folder matches")
    for depth in range(4):
        for folder in sorted(data.glob("/".join(["*"] * depth))) if depth else [data]:
            if folder.is_dir() and any(folder.glob(marker)):
                return folder
    raise UserError(f"task {record.name}: no folder in {data} holds {marker}; get the set from {record.url}")
