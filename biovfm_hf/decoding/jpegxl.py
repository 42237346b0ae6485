"""Decoder of JPEG XL (ISO/IEC 18181): its header is read first, so that no picture is larger than allowed."""

from typing import NamedTuple

import numpy as np

from ..errors import UserError, require
from ..intensity import Pixels
from ..pictures import as_pixels, check_size, reason
from .bounds import check_frames
from .content import Pages, Source, one_picture

_CODESTREAM, _CONTAINER = b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n"
_PART_NUMBER = {b"jxlc": 0, b"jxlp": 4}  # bytes before the whole codestream in its box, and before a part in its own
_MAX_BOXES = 1 << 16
_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))  # 18181-1, table of the size header
_START = 128  # bytes of a codestream that hold its size and the fields behind it
_SIDE = ((9, 1), (13, 1), (18, 1), (30, 1))  # numbers of the header: bits, and what to add, by a choice of two bits
_PREVIEW_8, _PREVIEW = ((0, 16), (0, 32), (5, 1), (9, 33)), ((6, 1), (8, 65), (10, 321), (12, 1345))
_BITS, _FLOAT_BITS = ((0, 8), (0, 10), (0, 12), (6, 1)), ((0, 32), (0, 16), (0, 24), (6, 1))
_EXTRA = ((0, 0), (0, 1), (4, 2), (12, 1))


def is_jpegxl(start: bytes) -> bool:
    """Whether a file that begins with `start` is JPEG XL, bare or in a container."""
    return start.startswith((_CODESTREAM, _CONTAINER))


def read_jpegxl(source: Source) -> Pages:
    """Read a picture, or the frames of an animation, turned as the header says, with all bits.

    Raises:
        UserError: damaged, over `source.max_pixels`, or without imagecodecs.
        MemoryError: decoding needs more than there is.
    """
    data, name = source.whole(), source.name
    first = decoded(data, name, source.max_pixels)
    if not _header(data, name).animated:
        return one_picture(_pixels(first, name))
    frames = _decoded(data, name, None)
    if frames.ndim == first.ndim:  # an animation of one frame
        return one_picture(_pixels(first, name))
    check_frames(first.shape[0] * first.shape[1], len(frames), name)
    return Pages(len(frames), lambda number: _pixels(frames[number], name), "frame", in_memory=True)


def decoded(data: bytes, name: str, max_pixels: int) -> np.ndarray:
    """The first frame of a stream: (H, W) or (H, W, C).

    Raises:
        UserError: damaged, over `max_pixels`, or without imagecodecs.
        MemoryError: decoding needs more than there is.
    """
    check_size(_header(data, name).size, name, max_pixels)
    return _decoded(data, name, 0)


def _pixels(array: np.ndarray, name: str) -> Pixels:
    return as_pixels(array[..., 0] if array.ndim == 3 and array.shape[2] == 2 else array, "last", name)


def _decoded(data: bytes, name: str, frame: int | None) -> np.ndarray:
    """One frame, or with None all of them, along a first axis."""
    codec = require("imagecodecs", "data")
    try:
        array: np.ndarray = codec.jpegxl_decode(data, index=frame)
    except MemoryError:
        raise
    except Exception as error:  # the codec has an error of its own
        np.empty(_header(data, name).memory, np.uint8)  # libjxl reports a lack of memory as damage; this does not
        raise UserError(f"{name}: not a readable JPEG XL ({reason(error)}); fetch the file again") from error
    return array


class _Header(NamedTuple):
    """Columns and rows before any turn, whether there may be several frames, and bytes that decoding one takes."""

    size: tuple[int, int]
    animated: bool
    memory: int


def _header(data: bytes, name: str) -> _Header:
    """The fields in front of a codestream (18181-1, D.2 and D.3)."""
    start = _codestream(data)
    if not start.startswith(_CODESTREAM):
        raise UserError(f"{name}: not a readable JPEG XL (no codestream where one must begin); fetch the file again")
    bits = _Bits(start[2:])
    size, animated, depth, extra = _size(bits), False, 8, 0
    if not bits.take(1):  # else all that follows is as usual
        animated = bool(bits.take(1)) and _is_animated(bits)
        depth, extra = _depth_and_extra_channels(bits)
    sample = 4 + (1 if depth <= 8 else 2 if depth <= 16 else 4)  # libjxl computes with 4 bytes
    return _Header(size, animated, size[0] * size[1] * (3 + extra) * sample)


def _codestream(data: bytes) -> bytes:
    """The first bytes of the codestream, which may lie in several boxes of a container."""
    if not data.startswith(_CONTAINER):
        return data[:_START]
    stream, at = b"", 0
    for _ in range(_MAX_BOXES):
        size, kind, begin = int.from_bytes(data[at : at + 4]), data[at + 4 : at + 8], at + 8
        if size == 1:
            size, begin = int.from_bytes(data[at + 8 : at + 16]), at + 16
        end = at + size if size else len(data)  # the last box may have no size
        if kind in _PART_NUMBER:
            begin += _PART_NUMBER[kind]
            stream += data[begin : min(end, begin + _START)]
        if end < begin or end >= len(data) or len(stream) >= _START:
            break
        at = end
    return stream


def _size(bits: "_Bits") -> tuple[int, int]:
    """Columns and rows. A side is a multiple of 8 up to 256, or a number of one of four widths."""
    small = bits.take(1)
    rows = 8 * (bits.take(5) + 1) if small else bits.number(_SIDE)
    if not (ratio := bits.take(3)):
        return 8 * (bits.take(5) + 1) if small else bits.number(_SIDE), rows
    over, under = _RATIOS[ratio - 1]
    return rows * over // under, rows


def _is_animated(bits: "_Bits") -> bool:
    """Whether the header of an animation follows; what lies before it is passed, and so is that header."""
    bits.take(3)  # orientation
    if bits.take(1):  # the size that the picture should have on a screen
        _size(bits)
    if bits.take(1):  # preview
        side = _PREVIEW_8 if bits.take(1) else _PREVIEW
        bits.number(side)
        if not bits.take(3):
            bits.number(side)
    if not bits.take(1):
        return False
    bits.number(((0, 100), (0, 1000), (10, 1), (30, 1)))  # ticks
    bits.number(((0, 1), (0, 1001), (8, 1), (10, 1)))  # in so many seconds
    bits.number(((0, 0), (3, 0), (16, 0), (32, 0)))  # repeats
    bits.take(1)  # time codes
    return True


def _depth_and_extra_channels(bits: "_Bits") -> tuple[int, int]:
    """Bits of a number, and how many channels there are besides the colours."""
    if bits.take(1):
        depth = bits.number(_FLOAT_BITS)
        bits.take(4)  # exponent
    else:
        depth = bits.number(_BITS)
    bits.take(1)  # whether 16 bits are enough to decode it
    return depth, bits.number(_EXTRA)


class _Bits:
    """Bits of a codestream, the lowest of each byte first."""

    def __init__(self, data: bytes) -> None:
        self._number = int.from_bytes(data, "little")

    def take(self, count: int) -> int:
        """The next `count` bits as a number."""
        value = self._number & ((1 << count) - 1)
        self._number >>= count
        return value

    def number(self, choices: tuple[tuple[int, int], ...]) -> int:
        """A number of which two bits choose the width and what is added."""
        count, add = choices[self.take(2)]
        return self.take(count) + add
