"""Loads source records: by catalogue id or file, or the whole catalogue in `sources/`."""

from collections.abc import Iterable
from functools import cache
from pathlib import Path

from biovfm_hf.errors import UserError

from .records import load_source
from .source import SOURCES, Source


def load_sources(names: Iterable[str | Path]) -> list[Source]:
    """The records of catalogue ids or YAML files, in that order.

    Raises:
        UserError: as `load_source`; none is named; or two share an id, so that their rows would have the same place.
    """
    chosen: dict[str, tuple[str | Path, Source]] = {}
    for name in names:
        source = load_source(name)
        if source.id in chosen:
            raise UserError(
                f"{name}: its id {source.id} is that of {chosen[source.id][0]} too; name each source once, and give "
                "each record an id of its own"
            )
        chosen[source.id] = name, source
    if not chosen:
        raise UserError("no source is named; give ids of the catalogue or paths of records, see: biovfm sources list")
    return [source for _, source in chosen.values()]


@cache
def load_catalog() -> tuple[Source, ...]:
    """All records of `sources/`, in the order of their ids."""
    return tuple(load_source(path) for path in sorted(SOURCES.glob("*.yaml")))
