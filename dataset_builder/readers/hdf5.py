"""Reader of HDF5 data sets: a row of a table of images, an encoded image, an image, or the slices of a volume."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from biovfm_hf.decoding.arrays import content_of
from biovfm_hf.decoding.bounds import check_hdf5
from biovfm_hf.errors import require
from biovfm_hf.pictures import dtype_name
from biovfm_hf.pixels import MAX_PIXELS

from ..limits import MAX_VOLUME_BYTES, TOO_LARGE, UNREADABLE, Refused
from .files import pictures, read
from .intensity import Setting
from .picture import Picture


def read_hdf5(
    source: Path | bytes, member: str | None, row: int | None, setting: Setting, views: Sequence[str], size: int
) -> Iterator[Picture]:
    """Yield the picture in row `row` of data set `member`; without a row, its encoded image or stack.

    Raises:
        Refused: no such data set or row, or over the limits.
    """
    with _hdf5(source) as file:
        data = _data_set(file, member)
        if row is not None:
            yield from pictures([content_of(_bounded(data, row), "row")], setting, views)
            return
        if data.shape == () or data.ndim == 1:
            yield from read(_encoded(data), "data set", None, setting, views, size)
            return
        yield from pictures([content_of(_bounded(data, ...), "data set")], setting, views)


def _bounded(data: Any, index: Any) -> np.ndarray:
    _check(data.shape if index is ... else data.shape[1:], data.dtype)
    if index is not ... and not 0 <= index < data.shape[0]:
        raise Refused(UNREADABLE, f"no row {index} of {data.shape[0]}")
    return np.asarray(data[index])


def _encoded(data: Any) -> bytes:
    if data.size > MAX_PIXELS:
        raise Refused(TOO_LARGE, f"an encoded image of {data.size} bytes")
    value = data[()]
    return value if isinstance(value, bytes) else value.tobytes()


def _check(shape: tuple[int, ...], dtype: np.dtype) -> None:
    if dtype.hasobject or dtype.kind not in "biuf":
        raise Refused(UNREADABLE, f"holds {dtype_name(dtype)}, not numbers")
    size = math.prod(map(int, shape), start=dtype.itemsize)
    if size > MAX_VOLUME_BYTES:
        raise Refused(TOO_LARGE, f"an array of {size / 2**20:.0f} MiB")


@contextmanager
def _hdf5(source: Path | bytes) -> Iterator[Any]:
    h5py = require("h5py", "data")
    try:
        if isinstance(source, bytes):
            with h5py.File(BytesIO(source), "r") as file:
                yield file
        else:
            yield _kept_open(source)
    except (OSError, KeyError, RuntimeError) as error:
        raise Refused(UNREADABLE, f"HDF5: {error}") from error


@lru_cache(maxsize=1)
def _kept_open(path: Path) -> Any:
    """The file of the last row, kept open so that a table of images is not opened for each row."""
    return require("h5py", "data").File(path, "r")


def _data_set(file: Any, member: str | None) -> Any:
    """A data set stored in this file itself, not behind a link or in other files."""
    h5py = require("h5py", "data")
    parts = (member or "").split("/")
    for depth in range(1, len(parts) + 1):
        link = file.get("/".join(parts[:depth]), getlink=True)
        if not isinstance(link, h5py.HardLink):
            raise Refused(UNREADABLE, f"no data set {member!r} in the file itself")
    data = file[member]
    if not isinstance(data, h5py.Dataset) or data.is_virtual or data.external:
        raise Refused(UNREADABLE, f"{member!r} is not a data set of the file itself")
    check_hdf5(data, "the data set")
    return data
