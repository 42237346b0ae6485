"""Decodes image files to 8-bit arrays: common formats on a fast path, others by `biovfm_hf.reading.image_files`."""

import os
from typing import Any

os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")  # damaged images are reported by us, once

import cv2
import numpy as np
from numpy.typing import NDArray

from biovfm_hf.errors import UserError
from biovfm_hf.pictures import MAX_PIXELS, MAX_SIDE
from biovfm_hf.reading.image_files import read_uint8

Image = NDArray[Any]  # uint8, (H, W) grey or (H, W, 3) RGB
_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"
_FRAME_MARKERS = (0xC0, 0xC1, 0xC2)


def read_image(data: bytes, name: str, max_side: int = 0) -> Image:
    """Decode a file's bytes to (H, W) if grey, or stored as colour with equal channels, else (H, W, 3) RGB.

    Args:
        data: the file.
        name: its name in errors.
        max_side: reduce larger images to this many pixels on the longer side; 0 keeps them.

    Raises:
        UserError: no image, a damaged or truncated one, or one of more than `MAX_PIXELS` pixels.
    """
    image = None
    if _is_plain_png(data) or _is_plain_jpeg(data):
        image = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None or image.dtype != np.uint8 or (image.ndim == 3 and image.shape[2] != 3):
        image = read_uint8(data, name=name)
    elif image.ndim == 3:
        image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    if min(image.shape[:2]) < 2:
        raise UserError(f"{name}: an image of {image.shape[1]}x{image.shape[0]} pixels is too small to crop")
    return _reduce(_drop_equal_channels(image), max_side)


def _is_plain_png(data: bytes) -> bool:
    """Whether `data` is a complete 8-bit grey or RGB PNG of allowed size."""
    if data[:8] != _PNG or len(data) < 45 or b"IEND" not in data[-12:]:
        return False
    width, height = int.from_bytes(data[16:20]), int.from_bytes(data[20:24])
    return width * height <= MAX_PIXELS and max(width, height) <= MAX_SIDE and data[24] == 8 and data[25] in (0, 2)


def _is_plain_jpeg(data: bytes) -> bool:
    """Whether `data` is a complete 8-bit grey or three-channel JPEG of allowed size without an EXIF orientation."""
    if data[:3] != _JPEG or b"\xff\xd9" not in data[-32:]:
        return False
    place = 2
    while place + 10 < len(data) and data[place] == 0xFF:
        marker, length = data[place + 1], int.from_bytes(data[place + 2 : place + 4])
        if marker == 0xE1 and data[place + 4 : place + 8] == b"Exif":
            return False
        if marker in _FRAME_MARKERS:
            height, width = int.from_bytes(data[place + 5 : place + 7]), int.from_bytes(data[place + 7 : place + 9])
            return width * height <= MAX_PIXELS and data[place + 4] == 8 and data[place + 9] in (1, 3)
        place += 2 + length
    return False


def _drop_equal_channels(image: Image) -> Image:
    """A colour image with three equal channels as one channel: a third of the work in every later step."""
    if image.ndim == 2:
        return image
    sample = image[::16, ::16]
    if not (np.array_equal(sample[..., 0], sample[..., 1]) and np.array_equal(sample[..., 0], sample[..., 2])):
        return image
    red, green, blue = cv2.split(image)
    return red if np.array_equal(red, green) and np.array_equal(red, blue) else image


def _reduce(image: Image, max_side: int) -> Image:
    longest = max(image.shape[:2])
    if not max_side or longest <= max_side:
        return np.ascontiguousarray(image)
    size = (max(round(image.shape[1] * max_side / longest), 2), max(round(image.shape[0] * max_side / longest), 2))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)
