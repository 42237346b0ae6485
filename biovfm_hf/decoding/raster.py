"""PNG, JPEG, BMP, GIF, PPM, WebP and JPEG 2000 files; what Pillow cuts to 8 bits goes through other decoders."""

from io import BytesIO
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from ..errors import TooLarge, UserError, require
from ..intensity import Pixels
from ..pictures import as_pixels, check_size, frames_of, opened_image, oriented, page_of, reason
from .bounds import check_image
from .content import Pages, Source, one

_PNG, _JPEG2000 = b"\x89PNG\r\n\x1a\n", (b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")
_MAX_FILE_BYTES = 512 << 20  # of one that a decoder needs in memory as a whole
_ORIENTATION = 0x0112


def read_raster(source: Source) -> Pages:
    """Open a raster file other than TIFF, which has a module of its own.

    Raises:
        UserError: of no known format, damaged, or over `source.max_pixels`.
    """
    start = source.file.read(32)
    source.file.seek(0)
    if start[:8] == _PNG and start[24:25] == b"\x10" and start[25:26] in (b"\2", b"\4", b"\6"):
        return one(_deep(source, "PNG", grey=start[25:26] == b"\4"))
    if start[:2] in (b"P6", b"P3") and _is_deep_ppm(source.file):
        return one(_deep(source, "PPM"))
    if start.startswith(_JPEG2000) and (deep := _deep_jpeg2000(source)) is not None:
        return one(deep)
    image = opened_image(source.file, source.name, source.max_pixels)
    check_image(image, source.name)
    if image.format in ("JPEG", "MPO") and source.shorter_side:
        return _reduced(image, source)
    return Pages(frames_of(image), lambda number: page_of(image, number, source.name, source.max_pixels), "frame")


def _reduced(image: Image.Image, source: Source) -> Pages:
    """A JPEG, decoded at the scale of 1, 1/2, 1/4 or 1/8 nearest above `source.shorter_side`."""
    size, scale = image.size, (source.shorter_side or 0) / min(image.size)
    if scale < 1:
        image.draft(image.mode, (round(size[0] * scale), round(size[1] * scale)))
    if image.getexif().get(_ORIENTATION, 1) > 4:  # orientations that exchange rows and columns
        size = size[::-1]
    return one(page_of(image, 0, source.name, None), size)


def _deep(source: Source, kind: str, grey: bool = False) -> Pixels:
    """Colour of 16 bits; `grey` with alpha, which OpenCV makes colour of."""
    with opened_image(source.file, source.name, source.max_pixels) as image:
        check_image(image, source.name)
        try:
            orientation = image.getexif().get(_ORIENTATION, 1)
            image.load()  # Pillow tells what is damaged; OpenCV reads past it
        except Exception as error:
            raise UserError(f"{source.name}: not a readable {kind} ({reason(error)}); fetch the file again") from error
    array = _opencv().imdecode(np.frombuffer(_bytes(source), np.uint8), _opencv().IMREAD_UNCHANGED)
    if array is None:
        raise UserError(f"{source.name}: not a readable {kind}; check or fetch the file again")
    colours = array[..., 0] if grey else array[..., 2::-1]
    return as_pixels(oriented(np.ascontiguousarray(colours), orientation), "last", source.name)


def _is_deep_ppm(file: BinaryIO) -> bool:
    """Whether the largest number of a PPM, the third of its header, is over 255."""
    text = b" ".join(line.partition(b"#")[0] for line in file.read(1024).splitlines())
    file.seek(0)
    words = text.split()[:4]
    return len(words) == 4 and words[3].isdigit() and int(words[3]) > 255


def _deep_jpeg2000(source: Source) -> Pixels | None:
    """A JPEG 2000 file of over 8 bits of colour, of which Pillow keeps 8; None for all others."""
    with opened_image(source.file, source.name, source.max_pixels) as image:
        mode = image.mode
    source.file.seek(0)
    start = source.file.read(4096)
    source.file.seek(0)
    at = start.find(b"\xff\x4f\xff\x51")  # SIZ: components at 40, the depth of the first at 42
    if mode not in ("RGB", "RGBA") or at < 0 or (start[at + 42] & 0x7F) < 8:
        return None
    array = require("openjpeg", "data").decode(BytesIO(_bytes(source)))
    check_size((array.shape[1], array.shape[0]), source.name, source.max_pixels)
    return as_pixels(array, "last", source.name)


def _bytes(source: Source) -> bytes:
    source.file.seek(0)
    data = source.file.read(_MAX_FILE_BYTES + 1)
    if len(data) > _MAX_FILE_BYTES:
        raise TooLarge(f"{source.name}: is over the limit of {_MAX_FILE_BYTES >> 20} MiB; cut it into tiles")
    return data


def _opencv() -> Any:
    return require("cv2", "data")
