"""Opens a features file as a memory-mapped array, so that it may be larger than memory."""

import json
from pathlib import Path

import numpy as np

from biovfm_hf.errors import UserError, require

from .sharing import Sharing

READ_ROWS = 16384


def open_features(path: Path, sharing: Sharing, name: str) -> tuple[list[str], np.ndarray]:
    """The ids and vectors (n, D) float32 of a features file.

    The vectors are copied in blocks to the shared array `name`. Only the first process gets the ids.

    Raises:
        UserError: the file does not exist, was not written by `biovfm embed`, has no row, or has a value that is not
            finite.
    """
    arrow, parquet = require("pyarrow", "eval"), require("pyarrow.parquet", "eval")
    names: list[str] = []
    try:
        stored = parquet.ParquetFile(path)
        json.loads((stored.schema_arrow.metadata or {})[b"biovfm"])
        width = stored.schema_arrow.field("features").type.list_size
        if not stored.metadata.num_rows:
            raise ValueError("it has no row")
        vectors = sharing.array(name, (stored.metadata.num_rows, width), np.float32)
        if sharing.group.takes(0):
            for batch in stored.iter_batches(READ_ROWS, columns=["id"]):
                names += batch["id"].to_pylist()
        places = np.cumsum([0, *(stored.metadata.row_group(i).num_rows for i in range(stored.num_row_groups))])
        for piece in sharing.pieces(f"{name}-read", stored.num_row_groups):
            rows = places[piece]
            for batch in stored.iter_batches(READ_ROWS, row_groups=[piece], columns=["features"]):
                read = batch["features"].flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
                if not (finite := np.isfinite(read).all(axis=1)).all():
                    row = rows + int(finite.argmin())
                    name = stored.read_row_group(piece, columns=["id"])["id"][row - places[piece]]
                    raise UserError(f"{path}, row {row} ({name}): a feature is not finite; leave this image out")
                vectors[rows : rows + len(batch)] = read
                rows += len(batch)
    except (OSError, KeyError, TypeError, ValueError, AttributeError, arrow.ArrowException) as error:
        raise UserError(f"{path} is not a features file ({error}); write it with: biovfm embed") from error
    return names, vectors
