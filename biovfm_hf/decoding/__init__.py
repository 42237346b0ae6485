"""Decoders, one module for each family of formats; `open_content` picks the one for a file."""

from pathlib import Path
from typing import BinaryIO

from ..volumes import MAX_VOLUME_BYTES
from .content import MAX_PIXELS, Content, Source, folder_beside
from .files import read_file

__all__ = ["Content", "Source", "open_content", "read_file"]


def open_content(
    file: BinaryIO,
    name: str,
    *,
    folder: Path | None = None,
    max_pixels: int = MAX_PIXELS,
    max_bytes: int = MAX_VOLUME_BYTES,
) -> Content:
    """Open a file's content: flat pictures, or a volume.

    Args:
        file: open at its start; it must stay open while pictures are decoded.
        name: what messages call it.
        folder: where other files that it refers to lie, such as the voxels of a header.
        max_pixels: limit on the pixels of one picture.
        max_bytes: limit on the bytes of a volume's voxels.

    Raises:
        UserError: of no known format, damaged, over the limits, or no picture.
    """
    beside = None if folder is None else folder_beside(folder)
    return read_file(Source(file, name, beside, max_pixels, max_bytes))
