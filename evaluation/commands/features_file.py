"""Opens a features file of `biovfm embed`, checks what it states, and reads its ids and vectors."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from biovfm_hf.errors import UserError, require
from biovfm_hf.volumes import AXES

from ..encoders.device import PRECISIONS
from ..encoders.pooling import EACH_SLICE, POOLS
from ..encoders.tokens import FEATURES

ROW_GROUP = 1 << 14  # vectors written and read at a time
LEFT_OUT, PRIVATE_SOURCES = "left_out", "private_sources"
_NEEDED = ("model", "revision", "features")
_STATED = {
    "features": FEATURES.__contains__,
    "precision": PRECISIONS.__contains__,
    "axes": lambda axes: set(axes.split(",")) <= set(AXES),
    "slices": str.isdecimal,
    "pool": (*POOLS, EACH_SLICE).__contains__,
}
"""Whether a text of the metadata can be true."""


class FeaturesFile:
    """An open features file. All commands read features through it.

    Attributes:
        made_with: how the vectors were made, see `embed.describe`.
        left_out: {id: reason} of unreadable images and of files that are no images.
        private_sources: ids of the dataset's private sources.
        rows: number of vectors, at least 1.
        groups: number of row groups.
        width: numbers of a vector.

    Raises:
        UserError: the file does not exist or is not a features file, also from the methods.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        parquet = require("pyarrow.parquet", "eval")
        with self._told():
            self._file = parquet.ParquetFile(path, memory_map=True)
            about = _checked((self._file.schema_arrow.metadata or {}).get(b"biovfm"))
            self.left_out: dict[str, str] = about.pop(LEFT_OUT, {})
            self.private_sources: tuple[str, ...] = tuple(map(str, about.pop(PRIVATE_SOURCES, ())))
            self.made_with: dict[str, str] = about
            _check_columns(self._file.schema_arrow)
            self.rows: int = self._file.metadata.num_rows
            self.groups: int = self._file.num_row_groups
            if not self.rows:
                raise UserError(f"{path} has no row; embed a folder or dataset with images")
            first = next(self._file.iter_batches(1, columns=["features"], use_threads=False))["features"]
            self.width: int = first.value_lengths()[0].as_py() or 0

    def names(self) -> list[str]:
        """The ids of all rows."""
        names: list[str | None] = []
        with self._told():
            for batch in self._file.iter_batches(ROW_GROUP, columns=["id"], use_threads=False):
                names += batch["id"].to_pylist()
            if None in names:
                raise ValueError(f"row {names.index(None)} has no id")
        return names  # type: ignore[return-value]

    def blocks(self, group: int | None = None) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the first row and the vectors (n, width) of each block of a row group, by default of all.

        Raises:
            UserError: a row has no vector, or one of another width; or fewer rows can be read than the file states.
        """
        counts = [self._file.metadata.row_group(number).num_rows for number in range(self.groups)]
        first, groups = (0, range(self.groups)) if group is None else (sum(counts[:group]), [group])
        row, stated = first, sum(counts[number] for number in groups)
        with self._told():
            for batch in self._file.iter_batches(ROW_GROUP, groups, columns=["features"], use_threads=False):
                yield row, self._vectors(row, batch["features"])
                row += len(batch)
            if row - first != stated:
                raise ValueError(f"{row - first} rows could be read of the {stated} that it states")

    def _vectors(self, row: int, column: Any) -> np.ndarray:
        lengths = column.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
        wrong = np.flatnonzero((lengths != self.width) | (lengths == 0))
        if len(wrong):
            numbers = lengths[wrong[0]]
            many = f"its vector has {numbers} numbers, that of row 0 {self.width}"
            what = many if numbers else "it has no vector"
            raise UserError(f"{self._path}, row {row + wrong[0]}: {what}; leave it out of the table")
        numbers = column.flatten().to_numpy(zero_copy_only=False)
        return numbers.reshape(len(column), -1)

    @contextmanager
    def _told(self) -> Iterator[None]:
        arrow = require("pyarrow", "eval")
        try:
            yield
        except (OSError, ValueError, RecursionError, arrow.ArrowException) as error:
            raise UserError(f"{self._path} is not a features file ({error}); write it with: biovfm embed") from error


def _checked(metadata: bytes | None) -> dict[str, Any]:
    """What the metadata state, all of it text but the list and the table of `write_features`."""
    if metadata is None:
        raise ValueError("its metadata have no `biovfm`")
    about = json.loads(metadata)
    if not isinstance(about, dict):
        raise ValueError("its metadata `biovfm` are not a table")
    for name in _NEEDED:
        if name not in about:
            raise ValueError(f"its metadata state no {name}")
    kinds = {LEFT_OUT: dict, PRIVATE_SOURCES: list}
    for name, value in about.items():
        right = isinstance(value, kinds.get(name, str))
        if not right or (name in _STATED and not _STATED[name](value)):
            raise ValueError(f"its metadata state {name}: {value!r:.80}")
    return about


def _check_columns(schema: Any) -> None:
    """Refuse ids that are not text, and features that are not lists of numbers."""
    types = require("pyarrow", "eval").types
    for name in ("id", "features"):
        if name not in schema.names:
            raise ValueError(f"it has no column {name}")
    names, vectors = schema.field("id").type, schema.field("features").type
    if types.is_dictionary(names):
        names = names.value_type
    if not (types.is_string(names) or types.is_large_string(names)):
        raise ValueError(f"its ids are {names}, not text")
    lists = types.is_list(vectors) or types.is_large_list(vectors) or types.is_fixed_size_list(vectors)
    if not lists or not (types.is_floating(vectors.value_type) or types.is_integer(vectors.value_type)):
        raise ValueError(f"its features are {vectors}, not lists of numbers")
