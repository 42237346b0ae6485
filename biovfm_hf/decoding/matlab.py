"""MATLAB's Level 5 MAT-files, numeric arrays only: https://www.mathworks.com/help/pdf_doc/matlab/matfile_format.pdf.

scipy reads more, and crashes the process on damaged files.
"""

import zlib
from collections.abc import Iterator
from math import prod

import numpy as np

from ..errors import TooLarge, UserError

MAX_BYTES = 320 << 20  # of the file, and of one array: the file, inflated and converted may be in memory
_HEADER = 128
_MATRIX, _COMPRESSED = 14, 15
_STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
_COMPLEX = 0x0800


def largest_array(data: bytes) -> np.ndarray:
    """The numeric array with the most elements, in its class's dtype and MATLAB's order of axes.

    Raises:
        UserError: damaged, over MAX_BYTES, or it holds no numeric array of two dimensions or more.
    """
    view = memoryview(data)  # slices of it are no copies
    order = {b"IM": "<", b"MI": ">"}.get(data[126:128])
    if order is None:
        raise UserError("not a MAT-file of level 5")
    best: np.ndarray | None = None
    for kind, content in _elements(view[_HEADER:], order):
        if kind == _COMPRESSED:
            kind, content = next(_elements(_inflated(content), order), (0, view[:0]))
        array = _numbers(content, order) if kind == _MATRIX else None
        if array is not None and (best is None or array.size > best.size):
            best = array
    if best is None:
        raise UserError("holds no array")
    return best


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


def _inflated(data: memoryview) -> memoryview:
    try:
        inflated = zlib.decompressobj().decompress(data, MAX_BYTES + 1)
    except zlib.error as error:
        raise UserError(f"damaged compression ({error})") from error
    if len(inflated) > MAX_BYTES:
        raise TooLarge(f"an array that inflates to more than {MAX_BYTES >> 20} MiB")
    return memoryview(inflated)


def _numbers(matrix: memoryview, order: str) -> np.ndarray | None:
    """A matrix element as an array, None for what is no real numeric array of two dimensions or more."""
    parts = list(_elements(matrix, order))
    if len(parts) < 4 or len(parts[0][1]) < 4 or parts[1][0] != 5:
        return None
    flags = int(np.frombuffer(parts[0][1], order + "u4", 1)[0])
    shape = tuple(int(extent) for extent in np.frombuffer(parts[1][1], order + "i4"))
    kind, values = parts[3]
    if flags & 0xFF not in _CLASSES or flags & _COMPLEX or kind not in _STORED or len(shape) < 2 or min(shape) < 1:
        return None
    stored = np.frombuffer(
        values[: len(values) // int(_STORED[kind][1]) * int(_STORED[kind][1])], order + _STORED[kind]
    )
    wanted = np.dtype(_CLASSES[flags & 0xFF])
    count = prod(shape)
    if count != stored.size or count * wanted.itemsize > MAX_BYTES:
        raise UserError(f"holds {stored.size} numbers for the shape {shape}")
    return stored.astype(wanted, copy=False).reshape(shape, order="F")
