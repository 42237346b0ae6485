"""Decoder of numeric arrays in MATLAB files of levels 4 and 5; files of version 7.3 are HDF5 (`hdf5`).

https://www.mathworks.com/help/pdf_doc/matlab/matfile_format.pdf

scipy reads more, but crashes the process on damaged files.
"""

import zlib
from collections.abc import Iterator
from math import prod
from typing import NamedTuple

import numpy as np

from ..errors import TooLarge, UserError
from .content import names_mask

MAX_INFLATED_BYTES = 640 << 20  # all compressed arrays of a file: only unpacking them all shows which is the largest
_BLOCK = 1 << 20
MAX_BYTES = 320 << 20  # limit of the file, and of one array: both may be in memory, inflated and converted
_HEADER = 128
_MATRIX, _COMPRESSED = 14, 15
_STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
_LEVEL_4 = ("f8", "f4", "i4", "i2", "u2", "u1")  # by the third digit of an array's type
_LEVEL_4_HEADER = 20
_NESTED = (1, 2)  # classes of cells and of structures
_COMPLEX, _LOGICAL = 0x0800, 0x0200
_MAX_DEPTH = 8


def largest_array(data: bytes, name: str = "the file") -> np.ndarray:
    """The numeric array with the most elements, in its class's dtype and MATLAB's order of axes.

    Fields of structures and cells are searched; of equally large arrays, one that is not a mask is taken.

    Raises:
        UserError: damaged, over MAX_BYTES, or it holds no numeric array of two dimensions or more.
    """
    view = memoryview(data)  # slices of a memoryview do not copy
    order = {b"IM": "<", b"MI": ">"}.get(data[126:128])
    if order is None:
        raise UserError(f"{name}: not a MAT-file of level 5; save it again")
    best: _Matrix | None = None
    left = MAX_INFLATED_BYTES
    for kind, content in _elements(view[_HEADER:], order, name):
        if kind == _COMPRESSED:
            inflated = _inflated(content, order, min(left, MAX_BYTES), name)
            left -= len(inflated)
            kind, content = next(_elements(inflated, order, name), (0, view[:0]))
        for matrix in _matrices(content, order, _MAX_DEPTH, name) if kind == _MATRIX else ():
            if best is None or matrix.rank > best.rank:
                best = matrix
    if best is None:
        raise UserError(f"{name}: holds no array of numbers; leave it out")
    return best.array(name)


class _Matrix(NamedTuple):
    """A real numeric array of two dimensions or more that has not been converted yet."""

    shape: tuple[int, ...]
    dtype: np.dtype
    stored: np.ndarray
    logical: bool
    mask: bool

    @property
    def rank(self) -> tuple[int, bool]:
        return prod(self.shape), not (self.logical or self.mask)

    def array(self, name: str) -> np.ndarray:
        count = prod(self.shape)
        if count != self.stored.size or count * self.dtype.itemsize > MAX_BYTES:
            raise UserError(
                f"{name}: holds {self.stored.size} numbers for the shape {self.shape}; it is damaged, save it again"
            )
        array = self.stored.astype(self.dtype, copy=False).reshape(self.shape, order="F")
        return array.astype(bool) if self.logical else array


def _elements(data: memoryview, order: str, name: str) -> Iterator[tuple[int, memoryview]]:
    """Type and content of each data element; one of up to 4 bytes has its size in the upper half of its type."""
    at = 0
    while at + 8 <= len(data):
        kind, size = (int(number) for number in np.frombuffer(data, order + "u4", 2, at))
        start = at + 8
        if kind >> 16:
            kind, size, start = kind & 0xFFFF, kind >> 16, at + 4
        if start + size > len(data):
            raise UserError(f"{name}: ends after {len(data) - start} of {size} bytes of an array; save it again")
        yield kind, data[start : start + size]
        # Compressed elements follow each other without a gap, all others begin at multiples of 8 bytes.
        at = max(at + 8, start + size if kind == _COMPRESSED else -(-(start + size) // 8) * 8)


def _inflated(data: memoryview, order: str, most: int, name: str) -> memoryview:
    """A compressed element, unpacked into memory of the size that its start states, so that no second copy is made."""
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


def _matrices(matrix: memoryview, order: str, depth: int, name: str) -> Iterator[_Matrix]:
    """The numeric arrays in a matrix element: itself, or those in the fields of a structure or in cells."""
    parts = list(_elements(matrix, order, name))
    if len(parts) < 4 or len(parts[0][1]) < 4 or parts[1][0] != 5:
        return
    flags = int(np.frombuffer(parts[0][1], order + "u4", 1)[0])
    if flags & 0xFF in _NESTED:
        for kind, content in parts[3:] if depth else ():
            if kind == _MATRIX:
                yield from _matrices(content, order, depth - 1, name)
        return
    shape = tuple(int(extent) for extent in np.frombuffer(parts[1][1], order + "i4"))
    kind, values = parts[3]
    if flags & 0xFF not in _CLASSES or flags & _COMPLEX or kind not in _STORED or len(shape) < 2 or min(shape) < 1:
        return
    size = int(_STORED[kind][1])
    stored = np.frombuffer(values[: len(values) // size * size], order + _STORED[kind])
    mask = names_mask(bytes(parts[2][1]).decode("latin-1"))
    yield _Matrix(shape, np.dtype(_CLASSES[flags & 0xFF]), stored, bool(flags & _LOGICAL), mask)


def is_level_4(start: bytes) -> bool:
    """Whether a file may begin with an array of level 4: byte order, 0, dtype and kind are digits of its type."""
    return len(start) >= _LEVEL_4_HEADER and _level_4_order(start) is not None


def _level_4_order(start: bytes | memoryview) -> str | None:
    for order, thousands in (("<", 0), (">", 1000)):
        kind, rows, columns, imaginary, name = np.frombuffer(start, order + "i4", 5).tolist()
        digits = kind - thousands
        if (
            0 <= digits < 60
            and digits % 10 < 3
            and min(rows, columns) >= 0
            and imaginary in (0, 1)
            and 0 < name < 1024
        ):
            return order
    return None


def largest_of_level_4(data: bytes, name: str = "the file") -> np.ndarray:
    """The array of real numbers with the most elements in a file of level 4, whose arrays have two dimensions.

    Raises:
        UserError: damaged, or it holds no such array.
    """
    view, at = memoryview(data), 0
    best: np.ndarray | None = None
    while at + _LEVEL_4_HEADER <= len(view):
        order = _level_4_order(view[at:])
        if order is None:
            raise UserError(f"{name}: damaged between its arrays; save it again")
        kind, rows, columns, imaginary, length = np.frombuffer(view, order + "i4", 5, at).tolist()
        dtype = np.dtype(order + _LEVEL_4[kind // 10 % 10])
        start, count = at + _LEVEL_4_HEADER + length, rows * columns
        at = start + count * dtype.itemsize * (1 + imaginary)
        if at > len(view):
            raise UserError(f"{name}: ends within an array of {rows} x {columns}; save it again")
        if not imaginary and kind % 10 == 0 and (best is None or count > best.size):
            best = np.frombuffer(view, dtype, count, start).reshape(rows, columns, order="F")
    if best is None or not best.size:
        raise UserError(f"{name}: holds no array of numbers; leave it out")
    return best.astype(best.dtype.newbyteorder("="))
