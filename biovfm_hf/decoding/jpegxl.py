"""Decoder of JPEG XL (ISO/IEC 18181): its size is read from the header, so that no picture is larger than allowed."""

import numpy as np

from ..errors import UserError, require
from ..pictures import as_pixels, check_size, reason
from .content import Pages, Source, one

_CODESTREAM, _CONTAINER = b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n"
_BOXES = (b"jxlc", b"jxlp")  # whole codestream; its parts, each behind a number of four bytes
_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))  # 18181-1, table of the size header
_START = 1 << 16


def is_jpegxl(start: bytes) -> bool:
    """Whether a file that begins with `start` is JPEG XL, bare or in a container."""
    return start.startswith((_CODESTREAM, _CONTAINER))


def read_jpegxl(source: Source) -> Pages:
    """Read the first frame, turned as its header says, with all its bits.

    Raises:
        UserError: damaged, over `source.max_pixels`, or without imagecodecs.
    """
    array = decoded(source.whole(), source.name, source.max_pixels)
    return one(as_pixels(array[..., 0] if array.ndim == 3 and array.shape[2] == 2 else array, "last", source.name))


def decoded(data: bytes, name: str, max_pixels: int) -> np.ndarray:
    """The first frame of a stream: (H, W) or (H, W, C).

    Raises:
        UserError: damaged, over `max_pixels`, or without imagecodecs.
    """
    check_size(_size(data[:_START], name), name, max_pixels)
    codec = require("imagecodecs", "data")
    try:
        array: np.ndarray = codec.jpegxl_decode(data, index=0)
    except MemoryError:
        raise
    except Exception as error:  # the codec has an error of its own
        raise UserError(f"{name}: not a readable JPEG XL ({reason(error)}); fetch the file again") from error
    return array


def _size(start: bytes, name: str) -> tuple[int, int]:
    """Columns and rows of the size header, before any turn."""
    at = 0
    if start.startswith(_CONTAINER):
        places = [(place, box) for box in _BOXES if (place := start.find(box)) > 0]
        at, box = min(places, default=(len(start), b""))
        at += 8 if box == b"jxlp" else 4
    if start[at : at + 2] != _CODESTREAM:
        raise UserError(f"{name}: not a readable JPEG XL (no codestream where one must begin); fetch the file again")
    bits = _Bits(start[at + 2 : at + 16])
    small = bits.take(1)
    rows = _side(bits, small)
    ratio = bits.take(3)
    if not ratio:
        return _side(bits, small), rows
    over, under = _RATIOS[ratio - 1]
    return rows * over // under, rows


def _side(bits: "_Bits", small: int) -> int:
    """A side: a multiple of 8 up to 256, or a number of one of four widths."""
    return 8 * (bits.take(5) + 1) if small else bits.take((9, 13, 18, 30)[bits.take(2)]) + 1


class _Bits:
    """Bits of a codestream, the lowest of each byte first."""

    def __init__(self, data: bytes) -> None:
        self._number = int.from_bytes(data, "little")

    def take(self, count: int) -> int:
        """The next `count` bits as a number."""
        value = self._number & ((1 << count) - 1)
        self._number >>= count
        return value
