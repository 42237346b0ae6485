"""The catalogue of raw sources: the records, and the items that they find on disk.

`iterate` turns a record and a raw folder into `Item`s: everything the record considers, each either selected or
excluded with a reason.
"""

from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from biovfm_hf.errors import UserError

from .item import Item
from .listing import list_items
from .records import load_source
from .source import SOURCES, Source


def load_sources(names: Iterable[str | Path]) -> list[Source]:
    """The records of catalogue ids or YAML files, in that order.

    Raises:
        UserError: as `load_source`, or two of them have one id: their rows would have the same place.
    """
    found: dict[str, tuple[str | Path, Source]] = {}
    for name in names:
        source = load_source(name)
        if source.id in found:
            raise UserError(
                f"{name}: its id {source.id} is that of {found[source.id][0]} too; name each source once, and give "
                "each record an id of its own"
            )
        found[source.id] = name, source
    return [source for _, source in found.values()]


@cache
def load_catalog() -> tuple[Source, ...]:
    """All records of `sources/`, in the order of their ids."""
    return tuple(load_source(path) for path in sorted(SOURCES.glob("*.yaml")))


def iterate(source: Source, raw_dir: str | Path) -> Iterator[Item]:
    """Everything of `source` below `raw_dir`, selected or excluded with a reason, in a fixed order.

    Folders are walked in the order of their names, archives in their own order; no more than one folder's names are
    held at a time. Symbolic links are followed only to files inside the source's folder. Nothing is yielded where the
    folder does not exist.
    """
    return list_items(source, Path(raw_dir))
