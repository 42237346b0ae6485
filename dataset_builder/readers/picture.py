"""The output of every reader: pictures, and files that could not be read."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np

Open = Callable[[], AbstractContextManager[BinaryIO]]


@dataclass(frozen=True)
class Picture:
    """One 8-bit picture of an input, before screening and resizing.

    Attributes:
        pixels: uint8 (H, W) or (H, W, 3), in display order.
        view: `2d`, `axial`, `sagittal`, `coronal` or `frame`.
        index: slice, frame or page number from 0; None for `2d`.
        spacing: distance of rows and of columns, in one unit.
        width: columns of the input as stored, before any reduced decoding.
        height: rows of the input as stored.
    """

    pixels: np.ndarray
    view: str
    index: int | None
    spacing: tuple[float, float]
    width: int
    height: int


@dataclass(frozen=True)
class Unread:
    """One unreadable file of an input with several files; the others are read."""

    file: str
    error: Exception


def whole(pixels: np.ndarray, view: str = "2d", index: int | None = None) -> Picture:
    """A picture with square pixels that was decoded at its full size."""
    return Picture(pixels, view, index, (1.0, 1.0), pixels.shape[1], pixels.shape[0])


def opening(source: Path | bytes) -> Open:
    """Open a file, or a file's bytes."""
    if isinstance(source, bytes):
        return lambda: nullcontext(BytesIO(source))
    return lambda: source.open("rb")
