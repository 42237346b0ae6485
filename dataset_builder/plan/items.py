"""Converts items to columns of the saved plan and back, column by column since a plan holds millions."""

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from ..catalog.source import Source
from ..item import Item, Part
from .costs import file_seconds, follows, seconds
from .privacy import subject_words
from .runs import Run
from .stamps import STAMP

ITEMS = pa.schema(
    {
        "shard": pa.int32(),
        "path": pa.string(),
        "member": pa.string(),
        "kind": pa.string(),
        "subject": pa.string(),
        "anatomy": pa.string(),
        "excluded": pa.string(),
        "intensity": pa.string(),
        "view": pa.string(),
        "modality": pa.string(),
        "size": pa.int64(),
        "offset": pa.int64(),
        "row": pa.int64(),
        "private": pa.list_(pa.string()),
        "unnamed": pa.bool_(),
        "more": pa.string(),  # rarely used fields, as JSON
        "stamp": pa.string(),
        "seconds": pa.float32(),  # estimated
        "follows": pa.bool_(),  # whether its bytes follow those of the input before, in one pass over an archive
    }
)
BLOCKS = pa.schema([field for field in ITEMS if field.name != "shard"])
_OWN = ("path", "member", "size", "offset", "row", "more", "stamp", "seconds")
REPEATED = [name for name in ITEMS.names if name not in _OWN]  # columns with repeated values
_MORE = ("outer", "fps", "files", "members")


def block_table(block: Run | list[Item], source: Source, key: str, stamp_of: Callable[[Item], str]) -> pa.Table:
    """The columns of ITEMS for inputs in their order, with hashed subjects and without the shard's number."""
    if isinstance(block, Run):
        columns, length = _of_run(block), len(block.paths)
    else:
        columns, length = _of_items(block, stamp_of), len(block)
    subjects = pa.array(columns["subject"], pa.string())
    if not source.published:
        columns["private"] = _by_value(
            subjects, lambda subject: [] if subject is None else subject_words(subject), "private"
        )
    columns["subject"] = _by_value(subjects, lambda subject: hashed_subject(subject, source.id, key), "subject")
    return pa.table([_column(name, columns[name], length) for name in BLOCKS.names], schema=BLOCKS)


def _of_run(run: Run) -> dict[str, Any]:
    """The columns of one run of files; most hold a single repeated value."""
    columns = _of_items([run.template], lambda item: "")
    columns = {name: _Same(values[0]) for name, values in columns.items()}
    sizes = pa.array(run.sizes, pa.int64())
    stamps = pc.binary_join_element_wise(
        sizes.cast(pa.string()), pa.array(run.changes, pa.int64()).cast(pa.string()), STAMP
    )
    files = {"path": run.paths, "size": sizes, "subject": run.subjects, "stamp": stamps}
    return {**columns, **files, "seconds": file_seconds(run.template, sizes.to_numpy()), "follows": _Same(False)}


def _of_items(items: Sequence[Item], stamp_of: Callable[[Item], str]) -> dict[str, Any]:
    columns: dict[str, Any] = dict(zip(Item._fields, zip(*items, strict=True), strict=True))
    columns["intensity"] = [None if value is None else json.dumps(value) for value in columns["intensity"]]
    columns["more"] = [_more(*values) for values in zip(*(columns.pop(name) for name in _MORE), strict=True)]
    columns["stamp"] = list(map(stamp_of, items))
    columns["seconds"], columns["follows"] = list(map(seconds, items)), follows(items)
    return columns


class _Same(NamedTuple):
    """A column of one value."""

    value: Any


def _column(name: str, values: Any, length: int) -> pa.Array:
    kind = BLOCKS.field(name).type
    if isinstance(values, _Same):
        return pa.repeat(pa.scalar(values.value, kind), length)
    return values if isinstance(values, pa.Array) else pa.array(values, kind)


def items_of(table: pa.Table) -> list[Item]:
    """The items of these rows of ITEMS, with hashed subjects."""
    columns = {name: table[name].to_pylist() for name in Item._fields if name not in _MORE}
    columns["private"] = [tuple(words) for words in columns["private"]]
    columns["intensity"] = [None if value is None else json.loads(value) for value in columns["intensity"]]
    items = (dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True))
    return [
        Item(**item) if more is None else Item(**item, **_read(more))
        for item, more in zip(items, table["more"].to_pylist(), strict=True)
    ]


def hashed_subject(subject: str | None, source: str, key: str) -> str | None:
    """A subject as 16 hex digits; without the key nobody can test a name against them."""
    if subject is None:
        return None
    return hashlib.blake2b(f"{source}/{subject}".encode(), key=key.encode()[:64], digest_size=8).hexdigest()


def _by_value(values: pa.Array, function: Callable[[str | None], Any], column: str) -> pa.Array:
    """`function` of each value, called once for equal ones, as a column of BLOCKS."""
    encoded = values.dictionary_encode("encode")
    answers = pa.array(map(function, encoded.dictionary.to_pylist()), BLOCKS.field(column).type)
    return answers.take(encoded.indices)


def _more(outer: Part | None, fps: float | None, files: tuple[str, ...], members: tuple[Part, ...]) -> str | None:
    if outer is None and fps is None and not files and not members:
        return None
    fields = {"outer": _fields_of(outer), "fps": fps, "files": files, "members": list(map(_fields_of, members))}
    return json.dumps({name: value for name, value in fields.items() if value})


def _fields_of(part: Part | None) -> dict[str, Any] | None:
    if part is None:
        return None
    fields = {**part._asdict(), "outer": _fields_of(part.outer)}
    return {name: value for name, value in fields.items() if value is not None}


def _read(more: str) -> dict[str, Any]:
    fields = json.loads(more)
    if "outer" in fields:
        fields["outer"] = _part(fields["outer"])
    if "files" in fields:
        fields["files"] = tuple(fields["files"])
    if "members" in fields:
        fields["members"] = tuple(map(_part, fields["members"]))
    return fields


def _part(fields: dict[str, Any]) -> Part:
    outer = fields.get("outer")
    return Part(**{**fields, "outer": None if outer is None else _part(outer)})
