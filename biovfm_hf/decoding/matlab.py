"""Numeric arrays of MATLAB files, of version 7.3 (HDF5) and of level 5.

https://www.mathworks.com/help/pdf_doc/matlab/matfile_format.pdf

scipy reads more, and crashes the process on damaged files.
"""

import zlib
from collections.abc import Iterator
from math import prod
from typing import Any, NamedTuple

import numpy as np

from ..errors import TooLarge, UserError, require, unquoted
from .bounds import check_hdf5
from .content import Source

MAX_INFLATED_BYTES = 640 << 20  # of all compressed arrays of a file: the largest is only known when all are unpacked
_BLOCK = 1 << 20
MAX_BYTES = 320 << 20  # of the file, and of one array: the file, inflated and converted may be in memory
_HEADER = 128
_MATRIX, _COMPRESSED = 14, 15
_STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
_NESTED = (1, 2)  # classes of cells and of structures
_COMPLEX, _LOGICAL = 0x0800, 0x0200
_MAX_DEPTH, _MAX_MEMBERS = 8, 10_000
_NO_NUMBERS = ("char", "cell", "struct", "function_handle")


def largest_array(data: bytes, name: str = "the file") -> np.ndarray:
    """The numeric array with the most elements, in its class's dtype and MATLAB's order of axes.

    Fields of structures and cells are looked into; of arrays of one size, a logical one comes last.

    Raises:
        UserError: damaged, over MAX_BYTES, or it holds no numeric array of two dimensions or more.
    """
    view = memoryview(data)  # slices of it are no copies
    order = {b"IM": "<", b"MI": ">"}.get(data[126:128])
    if order is None:
        raise UserError(f"{name}: not a MAT-file of level 5; save it again")
    best: _Matrix | None = None
    left = MAX_INFLATED_BYTES
    for kind, content in _elements(view[_HEADER:], order):
        if kind == _COMPRESSED:
            inflated = _inflated(content, order, min(left, MAX_BYTES), name)
            left -= len(inflated)
            kind, content = next(_elements(inflated, order), (0, view[:0]))
        for matrix in _matrices(content, order, _MAX_DEPTH) if kind == _MATRIX else ():
            if best is None or matrix.rank > best.rank:
                best = matrix
    if best is None:
        raise UserError(f"{name}: holds no array of numbers; leave it out")
    return best.array()


class _Matrix(NamedTuple):
    """A real numeric array of two dimensions or more that has not been converted yet."""

    shape: tuple[int, ...]
    dtype: np.dtype
    stored: np.ndarray
    logical: bool

    @property
    def rank(self) -> tuple[int, bool]:
        return prod(self.shape), not self.logical

    def array(self) -> np.ndarray:
        count = prod(self.shape)
        if count != self.stored.size or count * self.dtype.itemsize > MAX_BYTES:
            raise UserError(f"the file holds {self.stored.size} numbers for the shape {self.shape}; it is damaged")
        array = self.stored.astype(self.dtype, copy=False).reshape(self.shape, order="F")
        return array.astype(bool) if self.logical else array


def _elements(data: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """Type and content of each data element; one of up to 4 bytes has its size in the upper half of its type."""
    at = 0
    while at + 8 <= len(data):
        kind, size = (int(number) for number in np.frombuffer(data, order + "u4", 2, at))
        start = at + 8
        if kind >> 16:
            kind, size, start = kind & 0xFFFF, kind >> 16, at + 4
        if start + size > len(data):
            raise UserError(f"ends after {len(data) - start} of {size} bytes of an array")
        yield kind, data[start : start + size]
        # Compressed elements follow each other without a gap, all others begin at multiples of 8 bytes.
        at = max(at + 8, start + size if kind == _COMPRESSED else -(-(start + size) // 8) * 8)


def _inflated(data: memoryview, order: str, most: int, name: str) -> memoryview:
    """A compressed element, unpacked into memory of the size that its start tells, so that it is never there twice."""
    inflater = zlib.decompressobj()
    try:
        block = inflater.decompress(data, _BLOCK)
        kind, size = np.frombuffer(block.ljust(8, b"\0"), order + "u4", 2).tolist()
        size = len(block) if kind >> 16 else 8 + size
        if size > most:
            raise TooLarge(f"{name}: its arrays inflate to more than {MAX_INFLATED_BYTES >> 20} MiB; save fewer")
        inflated, done = np.empty(size, np.uint8), 0
        while block and done < size:
            part = np.frombuffer(block, np.uint8, min(len(block), size - done))
            inflated[done : done + len(part)] = part
            done += len(part)
            block = inflater.decompress(inflater.unconsumed_tail, _BLOCK)
    except zlib.error as error:
        raise UserError(f"{name}: damaged compression ({error}); save it again") from error
    return inflated[:done].data


def _matrices(matrix: memoryview, order: str, depth: int) -> Iterator[_Matrix]:
    """The numeric arrays in a matrix element: itself, or those in the fields of a structure or in cells."""
    parts = list(_elements(matrix, order))
    if len(parts) < 4 or len(parts[0][1]) < 4 or parts[1][0] != 5:
        return
    flags = int(np.frombuffer(parts[0][1], order + "u4", 1)[0])
    if flags & 0xFF in _NESTED:
        for kind, content in parts[3:] if depth else ():
            if kind == _MATRIX:
                yield from _matrices(content, order, depth - 1)
        return
    shape = tuple(int(extent) for extent in np.frombuffer(parts[1][1], order + "i4"))
    kind, values = parts[3]
    if flags & 0xFF not in _CLASSES or flags & _COMPLEX or kind not in _STORED or len(shape) < 2 or min(shape) < 1:
        return
    size = int(_STORED[kind][1])
    stored = np.frombuffer(values[: len(values) // size * size], order + _STORED[kind])
    yield _Matrix(shape, np.dtype(_CLASSES[flags & 0xFF]), stored, bool(flags & _LOGICAL))


def largest_of_hdf5(source: Source) -> np.ndarray:
    """The numeric array with the most elements of a file of version 7.3, in MATLAB's order of axes.

    Structures are groups. Links to other files and data sets that lie elsewhere are never opened.

    Raises:
        UserError: no such array, damaged, or over `source.max_bytes`.
    """
    h5py = require("h5py", "data")
    try:
        with h5py.File(source.file, "r") as file:
            arrays = list(_data_sets(h5py, file, _MAX_DEPTH))
            if not arrays:
                raise UserError(f"{source.name}: holds no array of numbers; leave it out")
            best = max(arrays, key=lambda data: (data.size, _matlab_class(data) != "logical"))
            check_hdf5(best, source.name)
            if best.size * best.dtype.itemsize > source.max_bytes:
                raise TooLarge(f"{source.name}: an array of {best.size} numbers is over the limit; save fewer slices")
            array = np.asarray(best[()]).T  # MATLAB stores columns first, HDF5 shows them reversed
            return array.astype(bool) if _matlab_class(best) == "logical" else array
    except (OSError, KeyError, RuntimeError) as error:
        raise UserError(f"{source.name}: cannot be read as MATLAB 7.3 ({unquoted(error)}); save it again") from error


def _data_sets(h5py: Any, group: Any, depth: int) -> Iterator[Any]:
    """Data sets of numbers of two dimensions or more, whose values lie in the file itself."""
    for name in list(group)[:_MAX_MEMBERS]:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            continue
        entry = group[name]
        if isinstance(entry, h5py.Group):
            yield from _data_sets(h5py, entry, depth - 1) if depth else ()
        elif isinstance(entry, h5py.Dataset) and _is_own_array(entry):
            yield entry


def _is_own_array(data: Any) -> bool:
    numeric = data.ndim >= 2 and data.dtype.kind in "iuf" and _matlab_class(data) not in _NO_NUMBERS
    return numeric and not data.is_virtual and not data.external


def _matlab_class(data: Any) -> str:
    told = data.attrs.get("MATLAB_class", b"")
    return told.decode("ascii", "replace") if isinstance(told, bytes) else str(told)
