"""Decoder of Netpbm files that Pillow scales or does not read: PGM and PPM of over 8 bits, PAM, and floats (PFM).

https://netpbm.sourceforge.net/doc/ (ppm, pam and pfm).
"""

import re

import numpy as np

from ..errors import UserError
from ..pictures import as_pixels, check_size
from .content import MAX_FILE_BYTES, Pages, Source, one_picture
from .stored import numbers_of

_CHANNELS = {b"P2": 1, b"P3": 3, b"P5": 1, b"P6": 3, b"Pf": 1, b"PF": 3}
_TEXT = (b"P2", b"P3")
_BETWEEN = rb"(?:\s|#[^\r\n]*[\r\n])+"
_HEADER = re.compile(rb"(P[2356])" + (_BETWEEN + rb"(\d{1,9})") * 3 + rb"\s")
_FLOATS = re.compile(rb"(P[fF])\s+(\d{1,9})\s+(\d{1,9})\s+([-+]?[\d.eE+-]{1,20})\s")
_PAM = re.compile(rb"P7\n(?:[^\n]{0,4096}\n){1,200}?[ \t]*ENDHDR[ \t]*\n")
_FIELD = re.compile(rb"^[ \t]*(WIDTH|HEIGHT|DEPTH|MAXVAL)[ \t]+(\d{1,9})\s*$", re.MULTILINE)
_COMMENT = re.compile(rb"#[^\r\n]*")
_LONGEST_NUMBER = 64  # bytes of a number as text, with its share of spaces and comments
_MAX_HEADER = 1 << 16  # with its comments
_LARGEST = 65535


def is_netpbm(start: bytes) -> bool:
    """Whether a file that begins with `start` is a PGM or PPM whose largest number is over 255, a PAM or a PFM."""
    header = _HEADER.match(start)
    return start.startswith(b"P7\n") or bool(_FLOATS.match(start)) or (header is not None and int(header[4]) > 255)


def read_netpbm(source: Source) -> Pages:
    """Read a PGM, PPM, PAM or PFM; alpha is dropped.

    Raises:
        UserError: damaged, over `source.max_pixels`, or a PAM of another depth than 1 to 4.
    """
    start = source.file.read(_MAX_HEADER)
    if header := _HEADER.match(start):
        width, height, largest = (int(number) for number in header.groups()[1:])
        array = _integers(source, header, (height, width, _CHANNELS[header[1]]), largest)
    elif header := _PAM.match(start):
        fields = {name: int(number) for name, number in _FIELD.findall(header[0])}
        if fields.keys() != {b"WIDTH", b"HEIGHT", b"DEPTH", b"MAXVAL"} or not 0 < fields[b"DEPTH"] < 5:
            raise UserError(f"{source.name}: not a PAM of 1 to 4 channels; save it as PNG or TIFF")
        shape = (fields[b"HEIGHT"], fields[b"WIDTH"], fields[b"DEPTH"])
        array = _integers(source, header, shape, fields[b"MAXVAL"])
        array = array[..., :1] if array.shape[2] < 3 else array[..., :3]
    elif header := _FLOATS.match(start):
        array = _floats(source, header)
    else:
        raise UserError(f"{source.name}: not a readable Netpbm file; check its header")
    return one_picture(as_pixels(array, "last", source.name))


def _integers(source: Source, header: re.Match[bytes], shape: tuple[int, int, int], largest: int) -> np.ndarray:
    """Numbers of up to 16 bits; if the largest is under 255 they are scaled to 0 to 255, as Pillow does."""
    if not 0 < largest <= _LARGEST:
        raise UserError(f"{source.name}: numbers up to {largest} are not Netpbm; save it again with up to {_LARGEST}")
    check_size((shape[1], shape[0]), source.name, source.max_pixels)
    if header[0].startswith(_TEXT):
        source.file.seek(header.end())
        count = shape[0] * shape[1] * shape[2]
        text = source.file.read(min(_LONGEST_NUMBER * count + _MAX_HEADER, MAX_FILE_BYTES))
        text = _COMMENT.sub(b"", text)
        return numbers_of(text, np.dtype(np.uint16), count, source.name).reshape(shape)
    array = _binary(source, header, shape, np.dtype(">u2" if largest > 255 else np.uint8))
    if largest > 255:
        return array.astype(np.uint16)
    return array if largest == 255 else np.rint(array.clip(0, largest) * (255 / largest)).astype(np.uint8)


def _floats(source: Source, header: re.Match[bytes]) -> np.ndarray:
    """Floats of a PFM, whose rows go from the bottom to the top; a scale below 0 means little-endian numbers."""
    shape = (int(header[3]), int(header[2]), _CHANNELS[header[1]])
    check_size((shape[1], shape[0]), source.name, source.max_pixels)
    order = "<" if header[4].startswith(b"-") else ">"
    return _binary(source, header, shape, np.dtype(f"{order}f4"))[::-1]


def _binary(source: Source, header: re.Match[bytes], shape: tuple[int, int, int], dtype: np.dtype) -> np.ndarray:
    size = shape[0] * shape[1] * shape[2] * dtype.itemsize
    source.file.seek(header.end())
    data = source.file.read(size)
    if len(data) < size:
        raise UserError(f"{source.name}: ends after {len(data)} of {size} bytes; fetch it again")
    return np.frombuffer(data, dtype).reshape(shape)
