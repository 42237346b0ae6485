"""Opens a features file as a memory-mapped array, so that it may be larger than memory."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from biovfm_hf.errors import UserError, require

READ_ROWS = 16384


@contextmanager
def open_features(path: Path, scratch: Path) -> Iterator[tuple[list[str], np.ndarray]]:
    """The ids and vectors (n, D) float32 of a features file, for as long as the context lasts.

    The vectors are copied in blocks to a temporary file in `scratch`.

    Raises:
        UserError: the file does not exist, was not written by `biovfm embed`, or has no row.
    """
    arrow, parquet = require("pyarrow", "eval"), require("pyarrow.parquet", "eval")
    scratch.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=scratch, prefix=".features-") as folder:
        try:
            stored = parquet.ParquetFile(path)
            json.loads((stored.schema_arrow.metadata or {})[b"biovfm"])
            width = stored.schema_arrow.field("features").type.list_size
            if not stored.metadata.num_rows:
                raise ValueError("it has no row")
            shape = (stored.metadata.num_rows, width)
            vectors = np.lib.format.open_memmap(Path(folder) / "vectors.npy", "w+", np.float32, shape)
            names: list[str] = []
            for batch in stored.iter_batches(READ_ROWS, columns=["id", "features"]):
                flat = batch["features"].flatten().to_numpy(zero_copy_only=False)
                vectors[len(names) : len(names) + len(batch)] = flat.reshape(-1, width)
                names += batch["id"].to_pylist()
        except (OSError, KeyError, TypeError, ValueError, AttributeError, arrow.ArrowException) as error:
            raise UserError(f"{path} is not a features file ({error}); write it with: biovfm embed") from error
        yield names, vectors
