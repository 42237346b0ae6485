"""Columns of the dataset's rows and of the manifest, and the Parquet writers for both."""

import json
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

ROW_GROUP = 100  # rows: 1 to 3 MB, small enough for random access, large enough for streaming
LINE_GROUP = 5_000  # lines of the candidates: 15 MB

KEPT = "kept"  # the outcome of a picture that has a row; any other outcome is the reason why it has none

_TEXT = ("source", "modality", "anatomy", "subject", "view")
_FEATURES = {
    "image": {"_type": "Image"},
    **{name: {"dtype": "string", "_type": "Value"} for name in _TEXT},
    "index": {"dtype": "int32", "_type": "Value"},
    "path": {"dtype": "string", "_type": "Value"},
    "width": {"dtype": "int32", "_type": "Value"},
    "height": {"dtype": "int32", "_type": "Value"},
    "sha256": {"dtype": "string", "_type": "Value"},
    "phash": {"dtype": "string", "_type": "Value"},
}
_ARROW = {"string": pa.string(), "int32": pa.int32()}
COLUMNS = tuple(_FEATURES)
# as dataset cards state them
COLUMN_TYPES = {name: feature.get("dtype", "image") for name, feature in _FEATURES.items()}

# The metadata is what datasets.Features(...).arrow_schema writes; a worker need not import datasets for it.
ROWS = pa.schema(
    [
        pa.field(
            name,
            pa.struct({"bytes": pa.binary(), "path": pa.string()})
            if feature["_type"] == "Image"
            else _ARROW[feature["dtype"]],
        )
        for name, feature in _FEATURES.items()
    ],
    metadata={"huggingface": json.dumps({"info": {"features": _FEATURES}})},
)

MANIFEST = pa.schema(
    {
        "source": pa.string(),
        "modality": pa.string(),
        "anatomy": pa.string(),
        "path": pa.string(),
        "view": pa.string(),
        "index": pa.int32(),
        "width": pa.int32(),  # before resizing, as in the picture's row
        "height": pa.int32(),
        "outcome": pa.string(),  # kept, or the reason it was not
        "detail": pa.string(),  # details: the original of a duplicate, the matched benchmark
        "subject": pa.string(),
        "sha256": pa.string(),
        "phash": pa.string(),
        "shard": pa.string(),  # file of the dataset, null if not kept
        "row": pa.int32(),  # row in that file
    }
)
"""One line for every picture considered; a file that yields none has one line too."""

# A shard's columns for the screening across shards, besides the manifest's own.
CANDIDATES = pa.schema(
    [
        *(field for field in MANIFEST if field.name not in ("shard", "row")),
        pa.field("item", pa.int32()),  # number of the input in its shard
        pa.field("place", pa.string()),  # of a private source: the withheld path, and the details of the outcome;
        pa.field("remark", pa.string()),  # both stay in the builder's own folder
        # perceptual hashes: of the whole picture, and of its centre crop and padded form if it is not square
        pa.field("hashes", pa.list_(pa.uint64())),
    ]
)

# Columns of a part of a shard: its candidate lines, with a thumbnail for each hash and the encoded image.
PARTS = pa.schema([*CANDIDATES, pa.field("thumbnails", pa.binary()), pa.field("image", pa.binary())])


def rows_of(parts: pa.Table) -> pa.Table:
    """The rows of the dataset among lines with images."""
    kept = parts.filter(pc.equal(parts["outcome"], KEPT))
    parts_of_image = [kept["image"].combine_chunks(), pa.nulls(len(kept), pa.string())]
    image = pa.StructArray.from_arrays(parts_of_image, fields=list(ROWS.field("image").type))
    columns = [image if name == "image" else kept[name] for name in COLUMNS]
    return pa.Table.from_arrays(columns, schema=ROWS)


class GroupWriter:
    """Writes a Parquet file in full row groups, whatever batches it gets; use as a context manager."""

    def __init__(self, writer: pq.ParquetWriter, size: int) -> None:
        self._writer, self._size = writer, size
        self._waiting: list[pa.Table] = []
        self._count = 0

    def __enter__(self) -> "GroupWriter":
        return self

    def add(self, table: pa.Table) -> None:
        """Add rows; full groups are written."""
        self._waiting.append(table)
        self._count += len(table)
        if self._count >= self._size:
            whole = pa.concat_tables(self._waiting)
            full = self._count // self._size * self._size
            for start in range(0, full, self._size):
                self._write(whole.slice(start, self._size))
            self._count -= full
            self._waiting = [whole.slice(full)]

    def _write(self, group: pa.Table) -> None:
        self._writer.write_table(group.combine_chunks(), row_group_size=self._size)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self._count:
            self._write(pa.concat_tables(self._waiting))
        self._writer.close()


def line_writer(path: Path) -> pq.ParquetWriter:
    """A writer of candidates."""
    return pq.ParquetWriter(path, CANDIDATES, compression="zstd")


class _Sink:
    """A file that accepts everything: the first error of a write is kept, and raised by `check`.

    Arrow aborts the process if a write fails within content-defined chunking, such as on a full disk.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._error: OSError | None = None

    @property
    def closed(self) -> bool:
        return self._file.closed

    def write(self, data: bytes) -> int:
        if self._error is None:
            self._keep_error(self._file.write, data)
        return len(data)

    def close(self) -> None:
        self._keep_error(self._file.close)

    def check(self) -> None:
        """Raise what has gone wrong."""
        if self._error is not None:
            raise self._error

    def _keep_error(self, act: Callable[..., Any], *data: bytes) -> None:
        try:
            act(*data)
        except OSError as error:
            self._error = self._error or error


class _RowWriter(pq.ParquetWriter):
    """Writes rows of the dataset: images uncompressed (they are PNG or JPEG), the rest zstd, with page index."""

    def __init__(self, path: Path) -> None:
        compression = {name: "zstd" for name in COLUMNS if name != "image"}
        self._sink = _Sink(path)
        super().__init__(
            self._sink,
            ROWS,
            compression={**compression, "image.bytes": "none", "image.path": "none"},
            write_statistics=[name for name in COLUMNS if name != "image"],
            write_page_index=True,
            use_content_defined_chunking=True,
        )

    def write_table(self, table: pa.Table, row_group_size: int | None = None) -> None:
        super().write_table(table, row_group_size)
        self._sink.check()

    def close(self) -> None:
        super().close()
        self._sink.close()
        self._sink.check()


def row_writer(path: Path) -> pq.ParquetWriter:
    """A writer of dataset rows."""
    return _RowWriter(path)
