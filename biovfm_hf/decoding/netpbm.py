"""Decoder of PGM and PPM of over 8 bits, which Pillow would scale: https://netpbm.sourceforge.net/doc/ppm.html."""

import re

import numpy as np

from ..errors import UserError
from ..pictures import as_pixels, check_size
from .content import Pages, Source, one
from .stored import numbers_of

_CHANNELS = {b"P2": 1, b"P3": 3, b"P5": 1, b"P6": 3}
_TEXT = (b"P2", b"P3")
_BETWEEN = rb"(?:\s|#[^\r\n]*[\r\n])+"
_HEADER = re.compile(rb"(P[2356])" + (_BETWEEN + rb"(\d{1,9})") * 3 + rb"\s")
_MAX_HEADER = 1 << 16  # with its comments


def is_deep_netpbm(start: bytes) -> bool:
    """Whether a file that begins with `start` is a PGM or PPM whose largest number is over 255."""
    header = _HEADER.match(start)
    return header is not None and int(header[4]) > 255


def read_netpbm(source: Source) -> Pages:
    """Read a PGM or PPM of 16 bits, as text or binary.

    Raises:
        UserError: damaged, or over `source.max_pixels`.
    """
    header = _HEADER.match(source.file.read(_MAX_HEADER))
    if header is None:
        raise UserError(f"{source.name}: not a readable PGM or PPM; check its header")
    width, height, largest = (int(number) for number in header.groups()[1:])
    check_size((width, height), source.name, source.max_pixels)
    channels = _CHANNELS[header[1]]
    count = width * height * channels
    source.file.seek(header.end())
    if largest > 65535:
        raise UserError(f"{source.name}: numbers up to {largest} are not Netpbm; save it again with up to 65535")
    if header[1] in _TEXT:
        array = numbers_of(source.file.read(8 * count), np.dtype(np.uint16), count, source.name)
    else:
        data = source.file.read(2 * count)
        if len(data) < 2 * count:
            raise UserError(f"{source.name}: ends after {len(data)} of {2 * count} bytes; fetch it again")
        array = np.frombuffer(data, ">u2").astype(np.uint16)
    shape = (height, width) if channels == 1 else (height, width, channels)
    return one(as_pixels(array.reshape(shape), "last", source.name))
