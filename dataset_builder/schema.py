"""Columns of the dataset's rows and of the manifest, and the Parquet writers for both."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

ROW_GROUP = 100  # rows: 1 to 3 MB, small enough for random access, large enough for streaming

KEPT = "kept"  # the outcome of a picture that has a row; every other outcome is the reason why it has none

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
# as dataset cards say them
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
        "width": pa.int32(),  # of the picture before it was resized, as in its row
        "height": pa.int32(),
        "outcome": pa.string(),  # kept, or the reason it was not
        "detail": pa.string(),  # what was found, the original of a duplicate, the benchmark that was matched
        "subject": pa.string(),
        "sha256": pa.string(),
        "phash": pa.string(),
        "shard": pa.string(),  # file of the dataset, null where not kept
        "row": pa.int32(),  # row in that file
    }
)
"""One line for every picture considered; a file that yields none has one line too."""

# What a shard leaves for the screening across shards, beside the manifest's own columns.
CANDIDATES = pa.schema(
    [
        *(field for field in MANIFEST if field.name not in ("shard", "row")),
        pa.field("item", pa.int32()),  # number of the input in its shard
        pa.field("place", pa.string()),  # of a private source: the path that is withheld, and what was said of it;
        pa.field("remark", pa.string()),  # both stay in the builder's own folder
        # perceptual hashes: of the whole picture, and of its centre crop and padded form if it is not square
        pa.field("hashes", pa.list_(pa.uint64())),
        pa.field("thumbnails", pa.binary()),  # one thumbnail for each of them
    ]
)


def row_writer(path: Path) -> pq.ParquetWriter:
    """A writer of dataset rows: images uncompressed (they are PNG or JPEG), the rest zstd, with page index."""
    compression = {name: "zstd" for name in COLUMNS if name != "image"}
    return pq.ParquetWriter(
        path,
        ROWS,
        compression={**compression, "image.bytes": "none", "image.path": "none"},
        write_statistics=[name for name in COLUMNS if name != "image"],
        write_page_index=True,
        use_content_defined_chunking=True,
    )
