"""The features file of `biovfm embed`, and the lists beside it: what was left out, and paths behind withheld ids."""

import csv
import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from biovfm_hf.errors import UserError, require
from biovfm_hf.reading.image_files import NOT_INPUT
from biovfm_hf.writing.files import atomic_path, write_text

from .naming import WITHHOLD
from .nearest import vector_lengths

LEFT_OUT, PRIVATE_SOURCES = "left_out", "private_sources"
CONFIG, SPLIT = "config", "split"
_ROW_GROUP = 1 << 14  # vectors read at a time
LENGTH = "length"  # column of the vectors' Euclidean lengths
_COMPRESSION = {"id": "zstd", LENGTH: "none", "features.list.element": "none"}  # numbers do not compress
UNRECORDED = "a folder without a record"
"""Stands for the private source of a folder that has no record: such a folder counts as private."""


@dataclass(frozen=True)
class Features:
    """The content of a features file.

    Attributes:
        names: ids of the images.
        vectors: (N, D) float32 features.
        made_with: how the vectors were made, see `embed.describe`.
        left_out: {id: reason} of unreadable images and of files that are no images.
        private_sources: ids of the dataset's private sources.
        lengths: (N,) Euclidean lengths of the vectors, None if unknown.
    """

    names: list[str]
    vectors: np.ndarray
    made_with: dict[str, str]
    left_out: dict[str, str] = field(default_factory=dict)
    private_sources: tuple[str, ...] = ()
    lengths: np.ndarray | None = None

    @property
    def withheld(self) -> bool:
        """Whether file names are withheld, because a source is private or on request."""
        return self.made_with.get("paths") == WITHHOLD or bool(set(self.private_sources) - {UNRECORDED})

    @property
    def unread(self) -> int:
        """Number of left-out files whose name says that they are images."""
        return sum(reason != NOT_INPUT for reason in self.left_out.values())


def write_features(out: Path, features: Features) -> None:
    """Write a Parquet file with `id`, `features` and `length`, or a CSV file; beside it, list the files left out.

    Raises:
        UserError: the disk is full, or the file cannot be written.
    """
    arrow, parquet = require("pyarrow", "eval"), require("pyarrow.parquet", "eval")
    flat = arrow.array(np.ascontiguousarray(features.vectors, np.float32).reshape(-1))
    number = arrow.field("element", arrow.float32(), nullable=False)  # a third of the time of a nullable field
    kind = arrow.list_(number, features.vectors.shape[1])
    column = arrow.FixedSizeListArray.from_arrays(flat, type=kind)
    fields = {"id": arrow.string(), "features": kind, LENGTH: arrow.float32()}
    schema = arrow.schema([arrow.field(name, kind, nullable=False) for name, kind in fields.items()])
    table = arrow.table(
        [arrow.array(features.names, arrow.string()), column, vector_lengths(features.vectors)], schema=schema
    )
    about = {**features.made_with, LEFT_OUT: features.left_out, PRIVATE_SOURCES: features.private_sources}
    table = table.replace_schema_metadata({"biovfm": json.dumps(about)})
    try:
        with atomic_path(out) as temporary:
            if out.suffix.lower() == ".csv":
                _write_csv(temporary, features)
            else:
                parquet.write_table(
                    table, temporary, use_dictionary=False, compression=_COMPRESSION, row_group_size=_ROW_GROUP
                )
        write_left_out(left_out_file(out), features.left_out)
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error.strerror or error}); free some disk space") from error


def _write_csv(path: Path, features: Features) -> None:
    """One line per image: its id, then its vector in the columns `f0`, `f1` and so on."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["id", *(f"f{number}" for number in range(features.vectors.shape[1]))])
        writer.writerows(
            [name, *vector] for name, vector in zip(features.names, features.vectors.tolist(), strict=True)
        )


def write_left_out(path: Path, left_out: dict[str, str]) -> None:
    """Write the left-out files as CSV with the columns `id` and `reason`; if there are none, remove an older file."""
    if not left_out:
        path.unlink(missing_ok=True)
        return
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerows([("id", "reason"), *left_out.items()])
    write_text(path, text.getvalue())


def paths_file(out: Path) -> Path:
    """The file beside the features file that maps withheld ids to paths."""
    return out.with_name(f"{out.name}.paths.csv")


def write_places(path: Path, places: dict[str, str]) -> None:
    """Write the path behind each id, for the user only; nothing if the ids are paths."""
    if not places:
        path.unlink(missing_ok=True)
        return
    text = io.StringIO()
    csv.writer(text).writerows([("id", "path"), *sorted(places.items(), key=lambda place: place[1])])
    write_text(path, text.getvalue())
    path.chmod(0o600)


def read_places(out: Path) -> dict[str, str]:
    """{id: path} for a features file that withholds paths; empty if there is no table."""
    try:
        with paths_file(out).open(newline="", encoding="utf-8") as stream:
            return {row["id"]: row["path"] for row in csv.DictReader(stream)}
    except FileNotFoundError:
        return {}


def left_out_file(out: Path) -> Path:
    """The file beside the features file that lists what was left out."""
    return out.with_name(f"{out.name}.{LEFT_OUT}.csv")


def read_features(path: Path, vectors: bool = True) -> Features:
    """Read a file of `write_features`. Without `vectors`, only about a thousandth of it is read.

    Raises:
        UserError: the file does not exist, is not a features file, or lacks the vector of a row.
    """
    arrow, parquet = require("pyarrow", "eval"), require("pyarrow.parquet", "eval")
    try:
        file = parquet.ParquetFile(path, memory_map=True)
        made_with = json.loads(file.schema_arrow.metadata[b"biovfm"])
        left_out, private = made_with.pop(LEFT_OUT, {}), made_with.pop(PRIVATE_SOURCES, [])
        names = file.read(columns=["id"])["id"].to_pylist()
        if not names:
            raise UserError(f"{path} has no row; embed a folder or dataset with images")
        matrix = _read_vectors(path, file) if vectors else np.empty((0, 0), np.float32)
        lengths = file.read(columns=[LENGTH])[LENGTH].to_numpy() if LENGTH in file.schema_arrow.names else None
        return Features(names, matrix, made_with, left_out, tuple(map(str, private)), lengths)
    except (OSError, KeyError, TypeError, ValueError, arrow.ArrowException) as error:
        raise UserError(f"{path} is not a features file ({error}); write it with: biovfm embed") from error


def _read_vectors(path: Path, file: Any) -> np.ndarray:
    """The vectors (N, D) float32 of an open features file, read by parts to avoid a second copy."""
    vectors, done = np.empty((0, 0), np.float32), 0
    for batch in file.iter_batches(_ROW_GROUP, columns=["features"], use_threads=False):
        column = batch["features"]
        lengths = column.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
        if not done:
            vectors = np.empty((file.metadata.num_rows, lengths[0]), np.float32)
        wrong = np.flatnonzero((lengths != vectors.shape[1]) | (lengths == 0))
        if len(wrong):
            numbers = lengths[wrong[0]]
            what = (
                f"its vector has {numbers} numbers, that of row 0 {vectors.shape[1]}"
                if numbers
                else "it has no vector"
            )
            raise UserError(f"{path}, row {done + wrong[0]}: {what}; leave it out of the table")
        vectors[done : done + len(column)] = column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)
        done += len(column)
    if done != len(vectors):
        raise ValueError(f"{done} rows could be read of the {file.metadata.num_rows} that it states")
    return vectors
