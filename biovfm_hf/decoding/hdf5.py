"""Decoder of HDF5 files, and of MATLAB files of version 7.3, which are HDF5: the largest array of numbers."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import numpy as np

from ..errors import TooLarge, UserError, require, unquoted
from .arrays import content_of
from .bounds import check_hdf5
from .content import Content, Pages, Source, names_mask

_START = b"\x89HDF\r\n\x1a\n"
_MAX_DEPTH, _MAX_MEMBERS = 8, 10_000
_NO_NUMBERS = ("char", "cell", "struct", "function_handle")


def is_hdf5(start: bytes) -> bool:
    """Whether a file that begins with `start` is HDF5 from its first byte on."""
    return start.startswith(_START)


def read_hdf5(source: Source) -> Content:
    """Read the array with the most numbers; a stack of pictures (N, H, W, C) one at a time.

    Links to other files and data sets stored elsewhere are never opened.

    Raises:
        UserError: no such array, damaged, or over `source.max_bytes`.
    """
    with _as_user_error(source):
        data = _largest(source)
        if data.ndim == 4 and data.shape[3] in (1, 3, 4):
            return Pages(len(data), lambda number: _row(source, data, number), "picture")
        with closing(data.file):
            return content_of(_values(data, source), source.name)


def read_matlab_7(source: Source) -> Content:
    """Read the largest array of a MATLAB file, in MATLAB's order of axes; structures are groups."""
    with _as_user_error(source):
        data = _largest(source)
        with closing(data.file):
            array = _values(data, source).T  # MATLAB stores columns first, so HDF5 shows the axes reversed
            return content_of(array.astype(bool) if _matlab_class(data) == "logical" else array, source.name)


@contextmanager
def _as_user_error(source: Source) -> Iterator[None]:
    try:
        yield
    except (OSError, KeyError, RuntimeError) as error:
        raise UserError(f"{source.name}: cannot be read as HDF5 ({unquoted(error)}); save it again") from error


def _largest(source: Source) -> Any:
    """The data set with the most numbers; of equally large ones, one that is not a mask."""
    h5py = require("h5py", "data")
    arrays = list(_data_sets(h5py, h5py.File(source.file, "r"), _MAX_DEPTH))
    if not arrays:
        raise UserError(f"{source.name}: holds no array of numbers; leave it out")
    best = max(arrays, key=lambda data: (data.size, not _is_mask(data)))
    check_hdf5(best, source.name)
    return best


def _is_mask(data: Any) -> bool:
    return data.dtype.kind == "b" or _matlab_class(data) == "logical" or names_mask(data.name)


def _values(data: Any, source: Source, index: Any = ()) -> np.ndarray:
    size = data.dtype.itemsize * (data.size if index == () else data.size // len(data))
    if size > source.max_bytes:
        raise TooLarge(f"{source.name}: an array of {size / 2**20:.0f} MiB is over the limit; save fewer slices")
    return np.asarray(data[index])


def _row(source: Source, data: Any, number: int) -> Any:
    with _as_user_error(source):
        content = content_of(_values(data, source, number), source.name)
        return content.page(0) if isinstance(content, Pages) else None


def _data_sets(h5py: Any, group: Any, depth: int) -> Iterator[Any]:
    """Numeric data sets of two dimensions or more whose values lie in the file itself."""
    for name in list(group)[:_MAX_MEMBERS]:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            continue
        entry = group[name]
        if isinstance(entry, h5py.Group):
            yield from _data_sets(h5py, entry, depth - 1) if depth else ()
        elif isinstance(entry, h5py.Dataset) and _is_own_array(entry):
            yield entry


def _is_own_array(data: Any) -> bool:
    numeric = data.ndim >= 2 and data.dtype.kind in "biuf" and _matlab_class(data) not in _NO_NUMBERS
    return numeric and data.size > 0 and not data.is_virtual and not data.external


def _matlab_class(data: Any) -> str:
    name = data.attrs.get("MATLAB_class", b"")
    return name.decode("ascii", "replace") if isinstance(name, bytes) else str(name)
