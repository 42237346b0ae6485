"""Code streams of compressed DICOM frames: the pixels that one claims, and JPEG 2000 at a lower resolution."""

from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

from ..errors import TooLarge
from .bounds import jpeg_frame


def at_lower_resolution(dataset: Any, stream: bytes, shorter_side: int) -> np.ndarray | None:
    """A JPEG 2000 frame at the resolution nearest above `shorter_side`, None if that might be wrong.

    It is right for unsigned grey values if code stream and header agree on their precision: Pillow shifts others.
    """
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    levels = (min(rows, columns) // shorter_side).bit_length() - 1
    grey = str(dataset.get("PhotometricInterpretation", "")).startswith("MONOCHROME")
    if levels < 1 or not grey or dataset.get("PixelRepresentation", 0) or dataset.get("SamplesPerPixel", 1) != 1:
        return None
    bits = _unsigned_precision(stream, rows, columns)
    if bits is None or bits != dataset.get("BitsStored") or not 1 <= levels <= 5:
        return None
    image = Image.open(BytesIO(stream), formats=("JPEG2000",))
    if image.mode not in ("L", "I;16"):
        return None
    image.reduce = levels  # type: ignore[method-assign,assignment]  # of JPEG 2000 images: resolutions to discard
    image.load()
    values = np.asarray(image)
    if image.mode == "I;16":
        values = values >> (16 - bits)  # Pillow scales values of fewer bits up to 16
    elif bits < 8:
        values = values >> (8 - bits)
    return values.astype(np.uint16 if dataset.BitsAllocated == 16 else np.uint8)


def _unsigned_precision(stream: bytes, rows: int, columns: int) -> int | None:
    """Bits per value of a one-component, unsigned JPEG 2000 code stream of the header's size, else None.

    The SIZ segment (ISO/IEC 15444-1 A.5.1): marker, length, capabilities, eight 32-bit sizes, components, depth.
    """
    start = stream.find(b"\xff\x4f\xff\x51", 0, 512)
    if start < 0 or len(stream) < start + 45:
        return None
    sizes = [int.from_bytes(stream[start + 8 + 4 * i : start + 12 + 4 * i], "big") for i in range(4)]
    components = int.from_bytes(stream[start + 40 : start + 42], "big")
    depth = stream[start + 42]
    if components != 1 or depth & 0x80 or (sizes[1] - sizes[3], sizes[0] - sizes[2]) != (rows, columns):
        return None
    return (depth & 0x7F) + 1


def check_stream(stream_of: Callable[[], bytes], name: str, max_pixels: int) -> None:
    """Refuse a compressed frame that claims too many pixels: decoders allocate by its claim, not by the header's."""
    try:
        stream = stream_of()
    except Exception:  # what is wrong with it shows when it is decoded
        return
    claimed = _stream_pixels(stream)
    if claimed > max_pixels:
        raise TooLarge(f"{name}: its compressed frame claims {claimed} pixels, limit {max_pixels}; leave it out")


def _stream_pixels(stream: bytes) -> int:
    """Return height x width (x components / 3) that a JPEG, JPEG-LS or JPEG 2000 stream claims; 0 if none is found.

    JPEG 2000: the SIZ segment, ISO/IEC 15444-1 A.5.1.
    """
    place = stream.find(b"\xff\x4f\xff\x51", 0, 4096)
    if place >= 0 and len(stream) >= place + 42:
        width, height, left, top = (int.from_bytes(stream[place + n : place + n + 4]) for n in (8, 12, 16, 20))
        return (width - left) * (height - top) * max(1, int.from_bytes(stream[place + 40 : place + 42]) // 3)
    _, rows, columns = jpeg_frame(stream) or (0, 0, 0)
    return rows * columns
