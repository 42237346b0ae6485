"""Decoder of PNG, JPEG, BMP, GIF, PPM, WebP, AVIF and JPEG 2000: Pillow, or another where Pillow cuts to 8 bits."""

from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image
from PIL.ExifTags import Base as Tag

from ..errors import UserError, require
from ..intensity import Pixels
from ..pictures import RASTER_FORMATS, as_pixels, check_size, frames_of, opened_image, oriented, page_of, reason
from .bounds import check_image, jpeg_frame
from .content import Pages, Source, one_picture

RASTER_SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".jp2", ".j2k", ".j2c", ".jpf", ".jpx", ".bmp", ".gif", ".webp", ".avif",
)  # fmt: skip
_PNG, _JPEG2000 = b"\x89PNG\r\n\x1a\n", (b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")
_JPEG = b"\xff\xd8\xff"
_HEIF = (b"ftypavif", b"ftypavis", b"ftypheic", b"ftypheix", b"ftypmif1")  # the file's first box and main brand
_AVIF = (b"avif", b"avis")
_MAX_BOXES = 1 << 20  # before the pixels of a JPEG or JPEG 2000 file: a colour profile, descriptions
_MAX_BRANDS = 1 << 12


def read_raster(source: Source) -> Pages:
    """Open a raster file; TIFF has a module of its own.

    Raises:
        UserError: of no known format, damaged, or over `source.max_pixels`.
    """
    start = source.file.read(32)
    source.file.seek(0)
    if start[:8] == _PNG and start[24:25] == b"\x10" and start[25:26] in (b"\2", b"\4", b"\6"):
        return one_picture(_deep_png(source, grey=start[25:26] == b"\4"))
    if start.startswith(_JPEG2000) and (deep := _deep_jpeg2000(source)) is not None:
        return one_picture(deep)
    if start.startswith(_JPEG) and (deep := _deep_jpeg(source)) is not None:
        return one_picture(deep)
    if start[4:12] in _HEIF:
        return _heif(source)
    image = opened_image(source.file, source.name, source.max_pixels)
    check_image(image, source.name)
    if image.format in ("JPEG", "MPO") and source.shorter_side:
        return _reduced(image, source)
    return Pages(frames_of(image), lambda number: page_of(image, number, source.name, source.max_pixels), "frame")


def _heif(source: Source) -> Pages:
    """AVIF, by Pillow, which cuts more than 8 bits; so those of one picture are decoded by imagecodecs."""
    size = min(int.from_bytes(source.file.read(4)), _MAX_BRANDS)
    brands = source.file.read(max(0, size - 4))[4:]
    if not any(brands[at : at + 4] in _AVIF for at in range(0, len(brands), 4)):
        raise UserError(f"{source.name}: HEIC is not read; save the picture as PNG or JPEG")
    if "AVIF" not in RASTER_FORMATS:
        raise UserError(f"{source.name}: AVIF needs Pillow 11.3 or newer; update it, or save the picture as PNG")
    image = opened_image(source.file, source.name, source.max_pixels)
    check_image(image, source.name)
    if frames_of(image) > 1:
        return Pages(frames_of(image), lambda number: page_of(image, number, source.name, source.max_pixels), "frame")
    decode = require("imagecodecs", "data").avif_decode
    try:
        array = decode(source.whole(), index=0)
    except (UserError, MemoryError):
        raise
    except Exception as error:  # each codec has an error of its own
        raise UserError(f"{source.name}: not a readable AVIF ({reason(error)}); fetch the file again") from error
    array = array[..., 0] if array.ndim == 3 and array.shape[2] == 2 else array
    return one_picture(as_pixels(oriented(array, image.getexif().get(Tag.Orientation, 1)), "last", source.name))


def _reduced(image: Image.Image, source: Source) -> Pages:
    """A JPEG, decoded at the scale of 1, 1/2, 1/4 or 1/8 nearest above `source.shorter_side`."""
    size, scale = image.size, (source.shorter_side or 0) / min(image.size)
    if scale < 1:
        image.draft(image.mode, (round(size[0] * scale), round(size[1] * scale)))
    if image.getexif().get(Tag.Orientation, 1) > 4:  # orientations that exchange rows and columns
        size = size[::-1]
    return one_picture(page_of(image, 0, source.name, None), size)


def _deep_png(source: Source, grey: bool) -> Pixels:
    """Colour of 16 bits; with `grey`, grey with alpha, which OpenCV turns into colour."""
    with opened_image(source.file, source.name, source.max_pixels) as image:
        check_image(image, source.name)
        try:
            orientation = image.getexif().get(Tag.Orientation, 1)
            image.load()  # Pillow reports damage; OpenCV reads past it
        except MemoryError:
            raise
        except Exception as error:
            raise UserError(f"{source.name}: not a readable PNG ({reason(error)}); fetch the file again") from error
    array = _opencv().imdecode(np.frombuffer(source.whole(), np.uint8), _opencv().IMREAD_UNCHANGED)
    if array is None:
        raise UserError(f"{source.name}: not a readable PNG; check or fetch the file again")
    colours = array[..., 0] if grey else array[..., 2::-1]
    return as_pixels(oriented(np.ascontiguousarray(colours), orientation), "last", source.name)


def _deep_jpeg2000(source: Source) -> Pixels | None:
    """A JPEG 2000 file of over 8 bits, which Pillow scales or cuts; None for all others."""
    with opened_image(source.file, source.name, source.max_pixels):
        source.file.seek(0)
    start = source.file.read(_MAX_BOXES)
    source.file.seek(0)
    at = start.find(b"\xff\x4f\xff\x51")  # SIZ (ISO/IEC 15444-1 A.5.1): components at 40, the first's depth at 42
    if at < 0 or len(start) < at + 43 or (start[at + 42] & 0x7F) < 8:
        return None
    array = require("openjpeg", "data").decode(BytesIO(source.whole()))
    check_size((array.shape[1], array.shape[0]), source.name, source.max_pixels)
    return as_pixels(array[..., 0] if array.ndim == 3 and array.shape[2] == 2 else array, "last", source.name)


def _deep_jpeg(source: Source) -> Pixels | None:
    """A JPEG of 12 bits, which Pillow does not read; None for all others."""
    bits, rows, columns = jpeg_frame(source.file.read(_MAX_BOXES)) or (8, 0, 0)
    source.file.seek(0)
    if bits <= 8:
        return None
    check_size((columns, rows), source.name, source.max_pixels)
    try:
        array = require("imagecodecs", "data").jpeg_decode(source.whole())
    except (UserError, MemoryError):
        raise
    except Exception as error:  # each codec has an error of its own
        raise UserError(f"{source.name}: not a readable JPEG ({reason(error)}); fetch the file again") from error
    return as_pixels(array, "last", source.name)


def _opencv() -> Any:
    return require("cv2", "data")
