"""Streams images from Parquet row groups, local or on the Hub, without a copy on this machine.

A shuffle buffer cannot be resumed exactly, since its content is lost. Here the order is computed from seed and
position, as for local data, but images are shuffled only with their neighbours. The row groups are dealt to `lanes`; a
lane shuffles its row groups every pass, takes a few of them at a time (a window) and shuffles their rows. Consecutive
pieces of a batch come from consecutive lanes, so that a batch is mixed; a loader worker reads few lanes, so that it
keeps few row groups.
"""

import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from math import gcd
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
from .order import permute

_WITHOUT_IMAGES = ("manifest.parquet", "metadata.parquet")
_SPLITS = ("train", "validation", "test")
_WINDOW = 4  # row groups shuffled together
_GROUPS_PER_LANE = 16  # at least this many row groups per lane, so that lanes are nearly equal
_BLOCK = 1024  # positions in a block, which strata share by weight
_CYCLE = 64  # blocks in a cycle, after which remainders even out
_PIECE = 8  # consecutive positions from one lane
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


class StreamOrder:
    """The row at each position: every row once per pass of its lane, in a local, seeded order.

    Args:
        sizes: rows of each row group; rows are numbered row group by row group.
        seed: chooses the order.
        batch: images of a batch.
        lanes: at most this many.

    Lanes have nearly the same number of images and start their next pass independently, so over a run every image is
    seen equally often, to within a few per cent of a pass.
    """

    def __init__(self, sizes: NDArray[np.integer], seed: int, batch: int, lanes: int) -> None:
        self.seed = seed
        self.piece = gcd(batch, _PIECE)
        lanes = max(1, min(lanes, len(sizes) // _GROUPS_PER_LANE))
        self.lanes: list[list[int]] = [[] for _ in range(lanes)]
        filled = np.zeros(len(self.lanes), dtype=np.int64)
        for group in np.argsort(-sizes, kind="stable"):  # the largest row group first, each to the emptiest lane
            lane = int(filled.argmin())
            self.lanes[lane].append(int(group))
            filled[lane] += sizes[group]
        self.filled = filled
        self.sizes = np.asarray(sizes, dtype=np.int64)
        self.starts = np.concatenate([[0], np.cumsum(self.sizes)])
        self._window = lru_cache(maxsize=4 * len(self.lanes))(self._plan)

    def indices(self, positions: NDArray[np.integer]) -> NDArray[np.int64]:
        """The row at each position."""
        positions = np.asarray(positions, dtype=np.int64)
        row, lanes = np.divmod(positions // self.piece, len(self.lanes))
        passes, places = np.divmod(row * self.piece + positions % self.piece, self.filled[lanes])
        result = np.empty(len(positions), dtype=np.int64)
        for lane, number in sorted(set(zip(lanes.tolist(), passes.tolist(), strict=True))):
            here = np.flatnonzero((lanes == lane) & (passes == number))
            result[here] = self._in_pass(lane, number, places[here])
        return result

    def _in_pass(self, lane: int, number: int, places: NDArray[np.int64]) -> NDArray[np.int64]:
        groups, begins = self._window(lane, number)
        windows = np.searchsorted(begins, places, side="right") - 1
        result = np.empty(len(places), dtype=np.int64)
        for window in np.unique(windows).tolist():
            here = windows == window
            members = groups[window * _WINDOW : (window + 1) * _WINDOW]
            ends = np.cumsum(self.sizes[members])
            key = _key(self.seed, lane, number, window)
            rows = permute(places[here] - begins[window], int(ends[-1]), key)
            which = np.searchsorted(ends, rows, side="right")
            result[here] = self.starts[members[which]] + rows - (ends - self.sizes[members])[which]
        return result

    def _plan(self, lane: int, number: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The lane's row groups in the order of its pass `number`, and the start of each window."""
        members = np.array(self.lanes[lane])
        key = _key(self.seed, lane, number)
        groups = members[permute(np.arange(len(members)), len(members), key)]
        begins = np.concatenate([[0], np.cumsum(self.sizes[groups])])
        return groups, begins[:-1:_WINDOW]


class WeightedStreamOrder:
    """A stream whose groups of images are drawn by weight. Each such group is a stratum, a `StreamOrder` of its own.

    In every block of positions each stratum has its share, to within one; over a cycle of blocks the remainders even
    out. So the number of a stratum's images before any position follows from a formula, and the order is still
    computed from seed and position.

    Args:
        members: image numbers of each stratum, ascending.
        weights: relative weight of each stratum.
        starts: number of the first image of each row group, and how many images there are.
        seed: chooses the order.
        batch: images of a batch.
        lanes: of all strata together.
    """

    def __init__(
        self,
        members: Sequence[NDArray[np.integer]],
        weights: Sequence[float],
        starts: NDArray[np.int64],
        seed: int,
        batch: int,
        lanes: int,
    ) -> None:
        self.seed = seed
        self.members = members
        shares = np.asarray(weights, dtype=np.float64) / np.sum(weights)
        self.orders: list[StreamOrder | None] = []
        for number, rows in enumerate(members):
            sizes = np.diff(np.searchsorted(rows, starts))
            own = max(1, round(lanes * shares[number]))
            chosen = shares[number] > 0
            self.orders.append(StreamOrder(sizes[sizes > 0], _key(seed, number), batch, own) if chosen else None)
        edges = np.concatenate([[0.0], np.cumsum(shares)[:-1], [1.0]]) * _BLOCK
        offsets = np.arange(_CYCLE)[:, None] / _CYCLE
        self._firsts = np.clip(np.ceil(edges - offsets), 0, _BLOCK).astype(np.int64)  # (cycle, strata + 1)
        counts = np.diff(self._firsts, axis=1)
        self._before = np.concatenate([np.zeros((1, len(members)), dtype=np.int64), np.cumsum(counts, axis=0)])

    def indices(self, positions: NDArray[np.integer]) -> NDArray[np.int64]:
        """The image number at each position."""
        blocks, places = np.divmod(np.asarray(positions, dtype=np.int64), _BLOCK)
        result = np.empty(len(blocks), dtype=np.int64)
        for block in np.unique(blocks).tolist():
            here = np.flatnonzero(blocks == block)
            cycle, phase = divmod(block, _CYCLE)
            ranks = permute(places[here], _BLOCK, _key(self.seed, block))
            firsts = self._firsts[phase]
            chosen = np.searchsorted(firsts, ranks, side="right") - 1
            drawn = cycle * self._before[-1] + self._before[phase] - firsts[:-1]
            for stratum in np.unique(chosen).tolist():
                those, order = chosen == stratum, self.orders[stratum]
                assert order is not None
                result[here[those]] = self.members[stratum][order.indices(drawn[stratum] + ranks[those])]
        return result


def _key(*numbers: int) -> int:
    key = 0
    for number in numbers:
        key = key * 1_000_003 + number + 1
    return key


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
