"""Streams images from Parquet row groups, local or on the Hub, without a copy on this machine."""

import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
from numpy.typing import NDArray

from biovfm_hf.errors import UserError, one_line, require
from biovfm_hf.nearest import did_you_mean
from biovfm_hf.reading.groups import NONE_LEFT, check_filter, group_rows, name_of

from ..settings.config import DataConfig
from .files import find_files, is_folder_or_name, open_file, owner, unreadable

_WITHOUT_IMAGES = ("manifest.parquet", "metadata.parquet")
_SPLITS = ("train", "validation", "test")
_FOOTERS_AT_ONCE = 16


@dataclass(frozen=True)
class RowGroup:
    """One row group and its rows that pass the filters (None: all)."""

    path: str
    number: int
    size: int
    rows: NDArray[np.int64] | None = None


class StreamedImages:
    """Rows of Parquet files, a row group at a time; images are numbered row group by row group."""

    def __init__(
        self, groups: Sequence[RowGroup], column: str, has_modality: bool, names: Mapping[str, list[str]] | None = None
    ) -> None:
        self.groups = groups
        self.column = column
        self.columns = [column, *(["modality"] if has_modality else [])]
        self.names = names or {}  # column of class labels -> what its numbers mean
        self.starts = np.concatenate([[0], np.cumsum([group.size for group in groups])])
        self._tables: OrderedDict[int, Any] = OrderedDict()
        self._cached_bytes = 0
        self._room = 64 * 2**20

    def __len__(self) -> int:
        return int(self.starts[-1])

    def set_cache(self, mebibytes: int) -> None:
        """Keep row groups in memory, up to this limit in each reading process."""
        self._room = mebibytes * 2**20

    def fetch(self, index: int) -> tuple[bytes, str, str | None]:
        """The image's bytes, its file and row as a name, and its modality."""
        place = int(np.searchsorted(self.starts, index, side="right")) - 1
        group = self.groups[place]
        row = index - int(self.starts[place])
        row = row if group.rows is None else int(group.rows[row])
        name = f"{group.path} row group {group.number} row {row}"
        table = self._table(place)
        image = table[self.column][row].as_py()
        data = image.get("bytes") if isinstance(image, dict) else image
        if not isinstance(data, bytes):
            raise UserError(f"{name}: column {self.column!r} holds no image bytes; set data.streaming to false")
        modality = table["modality"][row].as_py() if "modality" in self.columns else None
        return data, name, name_of(modality, self.names.get("modality")) or None

    def group_by(self, column: str) -> dict[str, NDArray[np.int64]]:
        """Image numbers by the values of `column`; read from the column alone, or from the footers where a row group
        holds one value.

        Raises:
            UserError: there is no such column.
        """
        with ThreadPoolExecutor(_FOOTERS_AT_ONCE) as pool:
            parts = list(pool.map(lambda group: _column(group, column, self.names.get(column)), self.groups))
        return group_rows(np.concatenate(parts))

    def _table(self, place: int) -> Any:
        if place in self._tables:
            self._tables.move_to_end(place)
            return self._tables[place]
        group = self.groups[place]
        file = _open_parquet(group.path, owner())
        try:
            table = file.read_row_group(group.number, columns=self.columns)
        except Exception as error:  # damage and networks fail in many classes
            raise unreadable(f"{group.path} row group {group.number}", error) from error
        self._tables[place] = table
        self._cached_bytes += table.nbytes
        while self._cached_bytes > self._room and len(self._tables) > 1:
            self._cached_bytes -= self._tables.popitem(last=False)[1].nbytes
        return table


def cannot_open(path: str, error: Exception) -> UserError:
    """The error if `datasets` cannot open the data at `path`."""
    on_hub = is_folder_or_name(path) and not Path(path).expanduser().exists()
    where = " (no such folder here, so it was looked for on the Hub)" if on_hub else ""
    return UserError(f"cannot open the data {path}{where}: {one_line(error)}")


def open_stream(config: DataConfig) -> StreamedImages:
    """The row groups that `config` selects, found from the footers of the dataset's Parquet files.

    Raises:
        UserError: no such data, config, split or column, no Parquet files, or no images left by the filters.
    """
    datasets = require("datasets", "train")
    path = str(config.path)
    files, features = _parquet_files(config)
    schema = _open_parquet(files[0], owner()).schema_arrow
    if config.column not in schema.names:
        raise UserError(f"{path} has no data.column {config.column!r}{did_you_mean(config.column, schema.names)}")
    # a builder knows them only if a card states them or the data was opened before; `datasets` keeps them in files
    features = features or datasets.Features.from_arrow_schema(schema)
    labels = {column: getattr(kind, "names", None) for column, kind in features.items()}
    names = {column: list(of_column) for column, of_column in labels.items() if of_column}
    with ThreadPoolExecutor(_FOOTERS_AT_ONCE) as pool:
        parts = list(pool.map(lambda name: _row_groups(name, config, names), files))
    for column, values in config.filters.items():
        check_filter(column, values, sorted({name for _, present in parts for name in present[column]}))
    groups = [group for part, _ in parts for group in part if group.size]
    if not groups:
        raise UserError(NONE_LEFT)
    return StreamedImages(groups, config.column, "modality" in schema.names, names)


def _parquet_files(config: DataConfig) -> tuple[list[str], Any]:
    """The Parquet files of the split, and the features if they are known."""
    path = str(config.path)
    if not is_folder_or_name(path):
        return split_files(find_files(path), config.split), None
    datasets = require("datasets", "train")
    try:
        builder = datasets.load_dataset_builder(path, config.config, revision=config.revision)
    except Exception as error:  # every kind of mistake and network failure arrives here, in many classes
        raise cannot_open(path, error) from error
    splits = {str(name): names for name, names in (builder.config.data_files or {}).items()}
    if splits and config.split not in splits:
        raise UserError(f"{path} has no split {config.split!r}{did_you_mean(config.split, list(splits))}")
    files = [str(name) for name in splits.get(config.split, [])]
    if not files or not all(name.endswith(".parquet") for name in files):
        raise UserError(f"{path} has no Parquet files for split {config.split!r}; set data.streaming to false")
    return files, builder.info.features


def image_tables(files: Sequence[str]) -> list[str]:
    """The Parquet files among them, without `biovfm build`'s manifest and what an image folder says of its files."""
    return [name for name in files if name.endswith(".parquet") and name.rpartition("/")[2] not in _WITHOUT_IMAGES]


def split_files(files: Sequence[str], split: str) -> list[str]:
    """The Parquet files of a split by name (`train-00000.parquet`, `train/0.parquet`); all if no name has a split.

    Raises:
        UserError: there are files of other splits only.
    """
    tables = image_tables(files)
    by_split = {name: [file for file in tables if _mentions(file, name)] for name in {split, *_SPLITS}}
    if by_split[split] or not any(by_split.values()):
        return by_split[split] or tables
    present = [name for name, those in by_split.items() if those]
    raise UserError(f"there are no files of the split {split!r}{did_you_mean(split, present)}")


def _mentions(path: str, split: str) -> bool:
    """Whether a file's own name, or that of its folder, has the split as a word."""
    return any(split in re.split(r"[^A-Za-z0-9]+", part) for part in path.split("/")[-2:])


def _row_groups(
    path: str, config: DataConfig, names: Mapping[str, list[str]]
) -> tuple[list[RowGroup], dict[str, set[str]]]:
    """A file's row groups with the rows that pass the filters, and the values of each filtered column."""
    file = _parquet(path)
    groups: list[RowGroup] = []
    present: dict[str, set[str]] = {column: set() for column in config.filters}
    for number in range(file.num_row_groups):
        size = file.metadata.row_group(number).num_rows
        if not config.filters:
            groups.append(RowGroup(path, number, size))
            continue
        keep = np.ones(size, dtype=bool)
        for column, values in config.filters.items():
            column_values = _read_column(file, number, column, names.get(column))
            present[column].update(column_values.tolist())
            keep &= np.isin(column_values, values)
        rows = np.flatnonzero(keep)
        groups.append(RowGroup(path, number, len(rows), rows))
    return groups, present


def _column(group: RowGroup, column: str, names: Sequence[str] | None) -> NDArray[Any]:
    """A column's values in the rows kept of a row group."""
    values = _read_column(_open_parquet(group.path, owner()), group.number, column, names)
    return values if group.rows is None else values[group.rows]


def _read_column(file: Any, number: int, column: str, names: Sequence[str] | None) -> NDArray[Any]:
    """A text column of one row group, nulls as ""; from the footer alone if it has one value."""
    if column not in file.schema_arrow.names:
        raise UserError(f"the data has no column {column!r}{did_you_mean(column, file.schema_arrow.names)}")
    part = file.metadata.row_group(number)
    chunks = (part.column(place) for place in range(part.num_columns))
    facts = next((chunk.statistics for chunk in chunks if chunk.path_in_schema == column), None)
    if facts is not None and facts.has_min_max and facts.null_count == 0 and facts.min == facts.max:
        return np.full(part.num_rows, name_of(facts.min, names))
    table = file.read_row_group(number, columns=[column])
    return np.array([name_of(value, names) for value in table[column].to_pylist()])


@lru_cache(maxsize=64)
def _open_parquet(path: str, owner: tuple[int, int]) -> Any:
    """An open Parquet file; each process and thread has its own."""
    return _parquet(path)


def _parquet(path: str) -> Any:
    try:
        return parquet.ParquetFile(open_file(path))
    except Exception as error:
        raise unreadable(path, error) from error
