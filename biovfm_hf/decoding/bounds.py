"""Limits on what a header may claim before decoding: a few bytes can ask for gigabytes of memory or hours of work.

A limited process (`biovfm_hf.reading.limited`) would also stop such a file, but only after using up its limits. A
refusal here costs milliseconds, and the message says what is wrong.
"""

import math
from typing import Any

from PIL import Image, JpegImagePlugin, TiffImagePlugin
from PIL.ExifTags import Base as Tag

from ..errors import TooLarge, UserError
from ..pictures import check_sides

MAX_PIECE_BYTES = 256 << 20  # one tile or chunk, which is unpacked whole even for a single pixel
MAX_FRAME_PIXELS = 500_000_000  # of an animation, canvas times frames: 10 s of decoding
MAX_SCAN_PIXELS = 500_000_000  # of a progressive JPEG, picture times scans: each scan covers the whole picture
_MAX_WEBP_PIXELS = 30_000_000  # of an animation's canvas, of which libwebp and Pillow hold five copies
_MAX_RATIO = 1032  # most bytes that deflate can expand one byte to
_PIECE_TAGS = (Tag.TileWidth, Tag.TileLength, Tag.SamplesPerPixel, Tag.BitsPerSample)


def check_image(image: Image.Image, name: str) -> None:
    """Refuse a picture that Pillow has opened but not decoded if decoding would take too much.

    Raises:
        TooLarge: its sides, a tile, its frames or its scans are over the limit.
    """
    check_sides(image.size, name)
    width, height = image.size
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        _check_tile(image.tag_v2, name)
    elif isinstance(image, JpegImagePlugin.JpegImageFile):
        _check_scans(image, name)
    elif image.format in ("GIF", "WEBP", "AVIF") and getattr(image, "is_animated", False):
        if image.format == "WEBP" and width * height > _MAX_WEBP_PIXELS:
            raise TooLarge(f"{name}: an animation of {width} x {height} pixels; over the limit of {_MAX_WEBP_PIXELS}")
        check_frames(width * height, getattr(image, "n_frames", 1), name)


def check_frames(pixels: int, frames: int, name: str) -> None:
    """Refuse an animation of too many `frames` of `pixels` pixels.

    Raises:
        TooLarge: together they are over the limit.
    """
    if pixels * frames > MAX_FRAME_PIXELS:
        raise TooLarge(
            f"{name}: {frames} frames of {pixels} pixels are over the limit of {MAX_FRAME_PIXELS} in all; "
            "extract the frames you need"
        )


def check_piece(size: int, what: str, name: str) -> None:
    """Refuse a tile or chunk of `size` bytes.

    Raises:
        TooLarge: over `MAX_PIECE_BYTES`.
    """
    if size > MAX_PIECE_BYTES:
        limit = MAX_PIECE_BYTES >> 20
        raise TooLarge(
            f"{name}: its {what} claim {size / 2**20:.0f} MiB each, over the limit of {limit}; use smaller ones"
        )


def check_tiff_page(page: Any, name: str) -> None:
    """Refuse a tifffile page whose tiles are too large.

    Raises:
        TooLarge: over `MAX_PIECE_BYTES`.
    """
    if page.is_tiled and page.dtype is not None:
        check_piece(math.prod(map(int, page.chunks)) * page.dtype.itemsize, "tiles", name)


def jpeg_frame(stream: bytes) -> tuple[int, int, int] | None:
    """Bits, rows and columns that a JPEG or JPEG-LS stream claims in its frame header (ISO/IEC 10918-1 B.2.2)."""
    place = 2
    while stream[:2] == b"\xff\xd8" and place + 10 <= len(stream) and stream[place] == 0xFF:
        marker = stream[place + 1]
        if (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)) or marker == 0xF7:
            rows, columns = (int.from_bytes(stream[at : at + 2]) for at in (place + 5, place + 7))
            return stream[place + 4], rows, columns
        place += 1 if marker == 0xFF else 2 + int.from_bytes(stream[place + 2 : place + 4])
    return None


def check_hdf5(data: Any, name: str) -> None:
    """Refuse an HDF5 data set whose values lie in another file, or claim what the file cannot hold.

    Raises:
        UserError: it is an external or virtual data set.
        TooLarge: its chunks are over the limit, or it claims more values than its stored bytes can expand to.
    """
    if data.external or data.is_virtual:
        raise UserError(f"{name}: its values lie outside the file, which is never opened; copy them into it")
    if data.chunks:
        check_piece(math.prod(data.chunks) * data.dtype.itemsize, "chunks", name)
    claimed, stored = data.size * data.dtype.itemsize, data.id.get_storage_size()
    if claimed > MAX_PIECE_BYTES and claimed > stored * _MAX_RATIO:
        raise TooLarge(
            f"{name}: claims {claimed / 2**20:.0f} MiB of values in {stored} bytes; it is damaged or hostile"
        )


def _check_tile(tags: Any, name: str) -> None:
    width, length, samples, bits = (_largest(tags.get(tag)) for tag in _PIECE_TAGS)
    check_piece(width * length * max(1, samples) * max(1, bits // 8), "tiles", name)


def _largest(value: Any) -> int:
    """The largest number of a tag; 0 if the tag is absent or damaged."""
    numbers = [number for number in (value if isinstance(value, tuple) else (value,)) if isinstance(number, int)]
    return max(numbers, default=0)


def _check_scans(image: Any, name: str) -> None:
    if not image.info.get("progressive"):
        return
    place = image.fp.tell()
    image.fp.seek(0)
    scans = image.fp.read().count(b"\xff\xda")
    image.fp.seek(place)
    if scans * image.width * image.height > MAX_SCAN_PIXELS and scans > 20:
        raise TooLarge(f"{name}: a JPEG of {scans} scans; save it again as a baseline JPEG")
