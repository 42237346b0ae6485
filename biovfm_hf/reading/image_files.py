"""Finds the image files of a folder, and reads each as an 8-bit array.

    for path, reason in walk("scans/"): ...                 # reason is None for an image, else why it is left out
    image = read_uint8(Path("scan.dcm"))                    # (H, W) or (H, W, 3) uint8
    image = read_uint8(data, name="row 7", slice_index=3)   # of a file's bytes; a frame of several

Plain PNG and JPEG files (`is_plain`), nearly all training data, are decoded in this process: their cost follows from
their first bytes, and their decoders never aborted in a fuzz run. Every other file is decoded by a limited process
(`biovfm_hf.reading.limited`), because its decoder may crash, loop, or take more memory than its header states.
"""

import os
import stat
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from ..decoding.content import GZIP, unpacked_start
from ..decoding.dicom import is_dicom
from ..decoding.files import IMAGE_SUFFIXES
from ..errors import UserError
from ..fitting import with_square_pixels
from ..pixels import MAX_PIXELS, decode, to_uint8
from .limited import LIMITED

SKIPPED_FOLDERS = {"__MACOSX"}
NOT_INPUT = "its name is of no known image format"
_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
_DICOM_START = 132  # bytes by which DICOM is recognised
_PNG_HEADER = 33  # bytes of the signature and the first chunk
_BASELINE, _PROGRESSIVE = (0xC0, 0xC1), 0xC2
_MAX_PLAIN_BYTES = 512 << 20
_MAX_PLAIN_SIDE = 1 << 16  # of a PNG: libpng takes memory for each row besides the pixels; a JPEG cannot state more
_MAX_PLAIN_SCANS = 20  # of a progressive JPEG, each of which costs as much as a picture; encoders write 10


def walk(folder: Path) -> Iterator[tuple[Path, str | None]]:
    """The files below a folder in the order of their names, each with why it is left out, or None for an image.

    Hidden files and folders, and those that macOS adds to archives, are skipped. An image is recognised by its name,
    or without a suffix by DICOM content, packed by gzip or not. Links to folders are not followed.
    """
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in SKIPPED_FOLDERS)
        for name in sorted(names):
            if not name.startswith("."):
                path = Path(parent, name)
                yield path, _why_not(path)


def _why_not(path: Path) -> str | None:
    name = path.name.lower()
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return "not a regular file"
        if name.removesuffix(".gz").endswith(IMAGE_SUFFIXES):
            return None if os.access(path, os.R_OK) else "cannot be opened (no permission)"
        if has_no_suffix(name):
            return None if holds_dicom(path) else NOT_INPUT
    except OSError as error:
        return f"cannot be opened ({error.strerror})"
    return NOT_INPUT


def holds_dicom(path: Path) -> bool:
    """Whether a file is DICOM by its first bytes, packed by gzip or not.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        start = file.read(_DICOM_START)
        return is_dicom(unpacked_start(file, _DICOM_START) if start.startswith(GZIP) else start)


def has_no_suffix(name: str) -> bool:
    """Whether a file's name has no suffix; digits (IM.001, a DICOM identifier) are not one."""
    _, dot, suffix = name.rpartition("/")[2].rpartition(".")
    return not dot or suffix.isdigit()


def read_uint8(source: Path | bytes, *, name: str | None = None, **where: Any) -> np.ndarray:
    """Decode one picture of a file for display: (H, W) or (H, W, 3) uint8 (see `pixels.decode`).

    Args:
        source: its path, or its bytes.
        name: what messages call it, by default its path.
        where: `slice_index`, `axis` and `time_index` as `pixels.decode` takes them; `square=True` enlarges the
            picture along one side until its pixels are square, if the file states that they are not.

    Raises:
        UserError: the file is missing, broken, too large, took too much time or memory, crashed its decoder, or holds
            several pictures and none is chosen.
    """
    name = name or str(source)
    return guarded(decode_uint8, source, name, name, **where)


def guarded(function: Callable[..., Any], source: Path | bytes, name: str, /, *args: Any, **kwargs: Any) -> Any:
    """Call `function(source, *args, **kwargs)`: in this process with the bytes of a plain file, else in a limited one.

    Raises:
        UserError: the file cannot be opened, or reading it was stopped (see `limited.Limited.call`).
        Exception: what the function raises.
    """
    data = _plain(source)
    if data is not None:
        return function(data, *args, **kwargs)
    return LIMITED.call(name, function, source, *args, **kwargs)


def count_frames(source: Path | bytes, name: str | None = None) -> int:
    """How many pictures, numbered by `slice_index`, a file holds: frames of DICOM or GIF, pages of TIFF.

    Raises:
        UserError: the file cannot be read, or is a volume.
    """
    name = name or str(source)
    return guarded(_count_frames, source, name, name)


def decode_uint8(source: Path | bytes, name: str, square: bool = False, **where: Any) -> np.ndarray:
    """`read_uint8` in this process, whatever the file is."""
    pixels = decode(source, name=name, **where)
    shown = to_uint8(pixels)
    return with_square_pixels(shown, pixels.spacing) if square else shown


def _count_frames(source: Path | bytes, name: str) -> int:
    from ..decoding.content import Pages, Source  # needs the extra `data`
    from ..decoding.files import read_file

    with BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
        content = read_file(Source(file, name))
        return content.count if isinstance(content, Pages) else 1


def is_plain(data: bytes) -> bool:
    """Whether a file is a complete PNG or JPEG of up to 8 bits, of allowed size, with one picture in few scans."""
    if data[:8] == _PNG:
        return _is_plain_png(data)
    return data[:3] == _JPEG and _is_plain_jpeg(data)


def _plain(source: Path | bytes) -> bytes | None:
    """The bytes of a plain file, None for all others."""
    if isinstance(source, bytes):
        return source if is_plain(source) else None
    try:
        if not source.is_file() or source.stat().st_size > _MAX_PLAIN_BYTES:
            return None
        with source.open("rb") as file:
            start = file.read(8)
            if start != _PNG and start[:3] != _JPEG:
                return None
            data = start + file.read()
    except OSError as error:
        raise UserError(f"{source}: cannot be opened ({error.strerror}); check it, or leave it out") from error
    return data if is_plain(data) else None


def _is_plain_png(data: bytes) -> bool:
    width, height = int.from_bytes(data[16:20]), int.from_bytes(data[20:24])
    if len(data) < _PNG_HEADER or not (0 < width * height <= MAX_PIXELS and max(width, height) <= _MAX_PLAIN_SIDE):
        return False
    return data[24] <= 8 and b"IEND" in data[-12:] and b"acTL" not in data[:4096]


def _is_plain_jpeg(data: bytes) -> bool:
    place, scans = 2, 1
    while place + 10 < len(data) and data[place] == 0xFF:
        marker, length = data[place + 1], int.from_bytes(data[place + 2 : place + 4])
        if marker == _PROGRESSIVE:
            scans = data.count(b"\xff\xda")
        if marker == _PROGRESSIVE or marker in _BASELINE:
            height, width = int.from_bytes(data[place + 5 : place + 7]), int.from_bytes(data[place + 7 : place + 9])
            complete = b"\xff\xd9" in data[-4096:]
            return 0 < width * height <= MAX_PIXELS and data[place + 4] == 8 and scans <= _MAX_PLAIN_SCANS and complete
        place += 2 + length
    return False
