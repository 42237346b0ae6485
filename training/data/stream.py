"""Images read from Parquet row groups as they are needed, here or on the Hub, without a copy on this machine.

A shuffled stream with a buffer cannot be resumed exactly: the buffer is lost. Here the order is a function instead, as
for data at hand, only a local one. The row groups are dealt to `lanes`; a lane shuffles its row groups every pass,
takes a few of them at a time (a window) and shuffles their rows. Consecutive pieces of a batch come from consecutive
lanes, so a batch is mixed, and a loader worker meets few lanes, so it keeps few row groups.
"""

import os
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from math import gcd
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from biovfm_hf.errors import UserError, one_line, require
from biovfm_hf.nearest import did_you_mean

from ..settings.config import DataConfig
from .order import permute

_WINDOW = 4  # row groups shuffled together
_GROUPS_PER_LANE = 16  # at least, so that lanes come out even
_PIECE = 8  # consecutive positions that one lane serves
_FOOTERS_AT_ONCE = 16
NONE_LEFT = "no image is left by data.modality and data.source together"


@dataclass(frozen=True)
class RowGroup:
    """One row group and the rows of it that are wanted (None: all)."""

    path: str
    number: int
    size: int
    rows: NDArray[np.int64] | None = None


class StreamedImages:
    """Rows of Parquet files, a row group at a time; images are numbered row group by row group."""

    def __init__(self, groups: Sequence[RowGroup], column: str, has_modality: bool, modality_names: list[str]) -> None:
        self.groups = groups
        self.column = column
        self.columns = [column, *(["modality"] if has_modality else [])]
        self.modality_names = modality_names
        self.starts = np.concatenate([[0], np.cumsum([group.size for group in groups])])
        self._tables: OrderedDict[int, Any] = OrderedDict()
        self._held = 0
        self._room = 64 * 2**20

    def __len__(self) -> int:
        return int(self.starts[-1])

    def set_cache(self, mebibytes: int) -> None:
        """Keep row groups in memory, up to this much in each process that reads."""
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
        return data, name, name_of(modality, self.modality_names) or None

    def group_by(self, column: str) -> dict[str, NDArray[np.int64]]:
        """Weighted drawing would read a whole row group for every image.

        Raises:
            UserError: always.
        """
        raise UserError(f"data.weight_by {column} needs the images at hand; set data.streaming to false")

    def _table(self, place: int) -> Any:
        if place in self._tables:
            self._tables.move_to_end(place)
            return self._tables[place]
        group = self.groups[place]
        file = _open_parquet(group.path, os.getpid())
        try:
            table = file.read_row_group(group.number, columns=self.columns)
        except Exception as error:  # damage and networks fail in many classes
            raise _unreadable(f"{group.path} row group {group.number}", error) from error
        self._tables[place] = table
        self._held += table.nbytes
        while self._held > self._room and len(self._tables) > 1:
            self._held -= self._tables.popitem(last=False)[1].nbytes
        return table


class StreamOrder:
    """Which image stands at each position: every image once per pass of its lane, in a local, seeded order.

    Lanes hold nearly the same number of images and start their next pass on their own, so over a run every image is
    seen equally often, to within a few per cent of a pass.
    """

    def __init__(self, images: StreamedImages, seed: int, batch: int, lanes: int) -> None:
        self.seed = seed
        self.piece = gcd(batch, _PIECE)
        sizes = np.array([group.size for group in images.groups])
        lanes = max(1, min(lanes, len(sizes) // _GROUPS_PER_LANE))
        self.lanes: list[list[int]] = [[] for _ in range(lanes)]
        filled = np.zeros(len(self.lanes), dtype=np.int64)
        for group in np.argsort(-sizes, kind="stable"):  # the largest first, each to the emptiest lane
            lane = int(filled.argmin())
            self.lanes[lane].append(int(group))
            filled[lane] += sizes[group]
        self.filled = filled
        self.sizes, self.starts = sizes, images.starts
        self._window = lru_cache(maxsize=4 * len(self.lanes))(self._plan)

    def indices(self, positions: NDArray[np.integer]) -> NDArray[np.int64]:
        """The image number at each position."""
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
        """The lane's row groups in the order of its pass `number`, and where each window of them begins."""
        members = np.array(self.lanes[lane])
        key = _key(self.seed, lane, number)
        groups = members[permute(np.arange(len(members)), len(members), key)]
        begins = np.concatenate([[0], np.cumsum(self.sizes[groups])])
        return groups, begins[:-1:_WINDOW]


def _key(*numbers: int) -> int:
    key = 0
    for number in numbers:
        key = key * 1_000_003 + number + 1
    return key


def name_of(value: Any, names: Sequence[str] | None) -> str:
    """A cell of a column of groups as text, null as ""; class labels are numbers of `names`, and -1 for none."""
    if value is None or (names and value < 0):
        return ""
    return str(names[value] if names else value)


def cannot_open(path: str, error: Exception) -> UserError:
    """What to tell when `datasets` cannot open the data at `path`."""
    where = "" if Path(path).exists() else " (no such folder here, so it was looked for on the Hub)"
    return UserError(f"cannot open the data {path}{where}: {one_line(error)}")


def check_wanted(column: str, wanted: Sequence[str], present: Sequence[str]) -> None:
    """Refuse to filter by values that no image has.

    Raises:
        UserError: names the value, and the nearest that there is.
    """
    for name in wanted:
        if name not in present:
            raise UserError(f"no image has {column} {name!r}{did_you_mean(name, present)}")


def open_stream(config: DataConfig) -> StreamedImages:
    """The row groups that `config` selects, found from the footers of the dataset's Parquet files.

    Raises:
        UserError: no such data, config, split or column, no Parquet, or nothing left by the filters.
    """
    datasets = require("datasets", "train")
    path = str(config.path)
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
    schema = _open_parquet(files[0], os.getpid()).schema_arrow
    if config.column not in schema.names:
        raise UserError(f"{path} has no data.column {config.column!r}{did_you_mean(config.column, schema.names)}")
    # the builder knows them only where a card tells or the data was opened before; `datasets` notes them in the files
    features = builder.info.features or datasets.Features.from_arrow_schema(schema)
    names = list(getattr(features.get("modality"), "names", None) or [])
    with ThreadPoolExecutor(_FOOTERS_AT_ONCE) as pool:
        found = list(pool.map(lambda name: _row_groups(name, config, features), files))
    for column, wanted in config.wanted.items():
        check_wanted(column, wanted, sorted({name for _, names in found for name in names[column]}))
    groups = [group for part, _ in found for group in part if group.size]
    if not groups:
        raise UserError(NONE_LEFT)
    return StreamedImages(groups, config.column, "modality" in schema.names, names)


def _row_groups(path: str, config: DataConfig, features: Any) -> tuple[list[RowGroup], dict[str, set[str]]]:
    """A file's row groups with their wanted rows, and the values of each column that is filtered by."""
    file = _parquet(path)
    wanted = config.wanted
    for column in wanted:
        if column not in file.schema_arrow.names:
            raise UserError(f"the data has no column {column!r}{did_you_mean(column, file.schema_arrow.names)}")
    groups: list[RowGroup] = []
    found: dict[str, set[str]] = {column: set() for column in wanted}
    for number in range(file.num_row_groups):
        size = file.metadata.row_group(number).num_rows
        if not wanted:
            groups.append(RowGroup(path, number, size))
            continue
        table = file.read_row_group(number, columns=list(wanted))
        keep = np.ones(size, dtype=bool)
        for column, values in wanted.items():
            names = getattr(features.get(column), "names", None)
            present = [name_of(value, names) for value in table[column].to_pylist()]
            found[column].update(present)
            keep &= np.isin(np.array(present), values)
        rows = np.flatnonzero(keep)
        groups.append(RowGroup(path, number, len(rows), rows))
    return groups, found


@lru_cache(maxsize=64)
def _open_parquet(path: str, process: int) -> Any:
    """An open Parquet file; `process` keeps handles from being shared after a fork."""
    return _parquet(path)


def _parquet(path: str) -> Any:
    import fsspec
    import pyarrow.parquet as parquet

    try:
        return parquet.ParquetFile(fsspec.open(path, "rb").open())
    except Exception as error:
        raise _unreadable(path, error) from error


def _unreadable(what: str, error: Exception) -> UserError:
    return UserError(f"cannot read {what}: {one_line(error)}")
