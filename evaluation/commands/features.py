"""The features file of `biovfm embed`, and the lists beside it: what was left out, and paths behind withheld ids."""

import csv
import io
import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from biovfm_hf.errors import UserError, require
from biovfm_hf.reading.image_files import NOT_INPUT
from biovfm_hf.writing.files import atomic_path, write_text

from .features_file import LEFT_OUT, PRIVATE_SOURCES, ROW_GROUP, FeaturesFile
from .naming import WITHHOLD
from .nearest import vector_lengths

CONFIG, SPLIT = "config", "split"
LENGTH = "length"  # column of the vectors' Euclidean lengths, for other programs: our commands measure them anew
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
        lengths: (N,) Euclidean lengths of the vectors as they were read; those that the file states are not used,
            because it may have been edited.
    """

    names: list[str]
    vectors: np.ndarray
    made_with: dict[str, str]
    left_out: dict[str, str] = field(default_factory=dict)
    private_sources: tuple[str, ...] = ()
    lengths: np.ndarray = field(default_factory=lambda: np.empty(0))

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
                    table, temporary, use_dictionary=False, compression=_COMPRESSION, row_group_size=ROW_GROUP
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
    file = FeaturesFile(path)
    features = Features(
        file.names(), np.empty((0, 0), np.float32), file.made_with, file.left_out, file.private_sources
    )
    if not vectors:
        return features
    matrix, lengths = _read_vectors(file)
    return replace(features, vectors=matrix, lengths=lengths)


def _read_vectors(file: FeaturesFile) -> tuple[np.ndarray, np.ndarray]:
    """The vectors (N, D) float32 and their lengths (N,), read by parts to avoid a second copy."""
    vectors, lengths = np.empty((file.rows, file.width), np.float32), np.empty(file.rows)
    for row, block in file.blocks():
        part = slice(row, row + len(block))
        vectors[part] = block
        lengths[part] = vector_lengths(vectors[part])
    return vectors, lengths
