"""Shared parts of picture decoders: checks of arrays and sizes, and the frames of images that Pillow opens."""

import logging
import re
import warnings
from dataclasses import replace
from importlib.util import find_spec
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, Jpeg2KImagePlugin, TiffImagePlugin, UnidentifiedImageError, WebPImagePlugin
from PIL.ExifTags import Base as Tag

from .errors import TooLarge, UserError, unquoted
from .intensity import Pixels

MAX_PIXELS = 89_478_485  # Pillow's own bound: larger images need tiles, not resizing to 224
MAX_SIDE = 1 << 20  # rows or columns: decoders allocate a pointer for each row besides the pixels
_MAX_SEQUENTIAL_PIXELS = 20 * MAX_PIXELS  # reaching frame n of a GIF decodes the n frames before it
_LIBRARIES = r"(PIL|pydicom|tifffile|nibabel|imagecodecs|h5py|av)(\.|$)"
_QUIET = ("ignore", None, Warning, re.compile(_LIBRARIES), 0)
_AVIF = ("AVIF",) if find_spec("PIL._avif") else ()  # Pillow 11.3 and newer
RASTER_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "PPM", "WEBP", "JPEG2000", *_AVIF)
# A named format must be imported: Pillow loads the rarer ones only when it guesses.
_RARER = (Jpeg2KImagePlugin, TiffImagePlugin, WebPImagePlugin)


def quiet_decoders() -> None:
    """Keep what decoding libraries warn of off screens and logs: it may repeat a patient's data.

    Set again at each file, since another one may have reset the filters; for all threads, which share them.
    """
    if _QUIET not in warnings.filters:
        warnings.filterwarnings("ignore", module=_LIBRARIES)
        for name in ("pydicom", "tifffile", "nibabel", "libav", "imagecodecs"):
            logging.getLogger(name).setLevel(logging.CRITICAL)


def opened_image(file: BinaryIO, name: str, max_pixels: int) -> Image.Image:
    """Open a raster file with Pillow, which reads its header.

    Raises:
        UserError: of no known format, damaged, or over `max_pixels`.
    """
    file.seek(0)
    quiet_decoders()
    try:
        image = Image.open(file, formats=RASTER_FORMATS)
    except Image.DecompressionBombError as error:
        raise TooLarge(f"{name}: {reason(error)}; check it, or cut it into tiles") from error
    except MemoryError:
        raise
    except Exception as error:  # Pillow's plugins raise nearly every type on damaged files
        raise UserError(f"{name}: not a readable image ({reason(error)}); check or fetch the file again") from error
    check_size(image.size, name, max_pixels)
    return image


def frames_of(image: Image.Image) -> int:
    """How many frames or pages an open image has; a JPEG with embedded previews counts as one."""
    return 1 if image.format == "MPO" else getattr(image, "n_frames", 1)


def page_of(image: Image.Image, number: int | None, name: str, max_pixels: int | None) -> Pixels:
    """Decode one frame or page of an open image; without a number, the current one.

    Raises:
        UserError: there is no such number, the image is damaged, or over `max_pixels`.
    """
    if max_pixels is None:
        max_pixels = MAX_PIXELS
    try:
        if number is not None and image.tell() != number:
            _seek(image, number, name)
        check_size(image.size, name, max_pixels)
        return from_pil(image, name)
    except (UserError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise TooLarge(f"{name}: {reason(error)}; check it, or cut it into tiles") from error
    except Exception as error:  # Pillow's plugins raise nearly every type on damaged files
        raise UserError(f"{name}: not a readable image ({reason(error)}); check or fetch the file again") from error


def _seek(image: Image.Image, number: int, name: str) -> None:
    work = 0 if image.format == "TIFF" else number * image.size[0] * image.size[1]
    if number < 0 or work > _MAX_SEQUENTIAL_PIXELS:
        raise UserError(f"{name}: slice_index {number} is out of range; choose a smaller one, from 0")
    try:
        image.seek(number)
    except EOFError as error:
        raise UserError(f"{name}: has no frame or page {number}; choose a smaller slice_index") from error


def from_pil(image: Image.Image, name: str) -> Pixels:
    """Decode a PIL image without ever letting `convert` clip numbers over 255."""
    quiet_decoders()
    try:
        # Pillow inverts "white is zero" TIFF of up to 8 bits, not of more, and no floats.
        tags = image.tag_v2 if isinstance(image, TiffImagePlugin.TiffImageFile) else {}
        inverted = image.mode[0] in "IF" and tags.get(Tag.PhotometricInterpretation) == 0
        image = ImageOps.exif_transpose(image)
        if image.mode in ("LA", "La"):
            image = image.convert("LA").getchannel(0)
        elif image.mode not in ("1", "L", "RGB", "I", "F") and not image.mode.startswith("I;16"):
            image = image.convert("RGB")
        array = np.asarray(image)
    except (OSError, ValueError, SyntaxError) as error:
        raise UserError(f"{name}: cannot be decoded ({reason(error)}); check or fetch it again") from error
    return replace(as_pixels(array, "last", name), inverted=inverted)


def check_sides(size: tuple[int, int], name: str) -> None:
    """Refuse an image with a side over `MAX_SIDE`; `size` is columns and rows.

    Raises:
        TooLarge: it is over the limit.
    """
    if max(size) > MAX_SIDE:
        raise TooLarge(f"{name}: {size[0]} x {size[1]} pixels; no side may be over {MAX_SIDE}, cut it into tiles")


def check_size(size: tuple[int, int], name: str, max_pixels: int) -> None:
    """Refuse an image of more than `max_pixels` pixels, or of too long a side; `size` is columns and rows.

    Raises:
        TooLarge: it is over the limit.
    """
    check_sides(size, name)
    if size[0] * size[1] > max_pixels:
        raise TooLarge(f"{name}: {size[0]} x {size[1]} pixels are over the limit of {max_pixels}; cut it into tiles")


def as_pixels(array: np.ndarray, channels: str | None, name: str) -> Pixels:
    """Check an array and bring it to (H, W) or (H, W, 3) in native byte order; booleans are black and white.

    Raises:
        UserError: no real numbers, no pixels, or another shape.
    """
    if array.dtype.kind not in "biuf":
        raise UserError(f"{name}: holds {dtype_name(array.dtype)}, not real numbers; convert it to integers or floats")
    array = _channels_last(array, channels, name)
    if array.size == 0:
        raise UserError(f"{name}: has no pixels (shape {array.shape}); leave it out")
    if array.dtype == bool:
        return Pixels(array.astype(np.uint8), window=(0.0, 1.0))
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if array.dtype.kind == "f" and (array.dtype.itemsize == 2 or array.dtype.itemsize > 8):
        array = array.astype(np.float32 if array.dtype.itemsize == 2 else np.float64)
    return Pixels(array)


def coloured(numbers: np.ndarray, tables: np.ndarray) -> Pixels:
    """Colours of a palette: (H, W) numbers of entries in `tables` (3, entries) of up to 16 bits.

    Entries of 8 bits, or of 8 bits scaled to 16, become 8 bits. Others keep all bits: black is 0, white the largest
    number of the palette's bits.
    """
    largest, low = int(tables.max()), tables & 0xFF
    if largest < 256:
        tables = tables.astype(np.uint8)
    elif not low.any() or (low == tables >> 8).all():
        tables, largest = (tables >> 8).astype(np.uint8), 255
    colours = np.ascontiguousarray(np.moveaxis(tables[:, numbers], 0, -1))
    return Pixels(colours, window=(0.0, float((1 << largest.bit_length()) - 1)) if largest > 255 else None)


def oriented(array: np.ndarray, orientation: int) -> np.ndarray:
    """Turn an array (H, W[, C]) by its EXIF or TIFF orientation, 1 to 8 (TIFF 6.0, tag 274)."""
    if orientation >= 5:  # rows are columns
        array = array.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return np.ascontiguousarray(array)


def _channels_last(array: np.ndarray, channels: str | None, name: str) -> np.ndarray:
    if channels not in (None, "first", "last"):
        raise UserError(f"channels {channels!r}: not known; take 'first' or 'last'")
    if array.ndim == 3:
        if channels is None:
            channels = "last" if array.shape[2] in (1, 3, 4) or array.shape[0] not in (1, 3) else "first"
        if channels == "first":
            array = np.moveaxis(array, 0, 2)
        if array.shape[2] in (1, 3, 4):
            return array[..., 0] if array.shape[2] == 1 else array[..., :3]
    if array.ndim != 2:
        raise UserError(
            f"{name}: shape {array.shape} is not one image (H, W), (H, W, 3) or (3, H, W); give one slice of a volume"
        )
    return array


def dtype_name(dtype: np.dtype) -> str:
    """A dtype's name for messages, without the names of a record's fields, which come from the file."""
    return str(dtype) if dtype.names is None else "records"


def reason(error: Exception) -> str:
    """A decoder's message in one short line, without its quotations, which may contain names from the file."""
    if isinstance(error, UnidentifiedImageError):  # Pillow's message shows a Python object
        return "its content is of no known image format"
    return " ".join(unquoted(error).split())[:300]
