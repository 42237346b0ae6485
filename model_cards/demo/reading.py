"""Reads uploaded images for the demo in a limited process that may die."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from biovfm_hf.pixels import decode, to_uint8
from biovfm_hf.reading.limited import Limited, Limits

MAX_PIXELS = 40_000_000
LIMITED = Limited(Limits(seconds=10.0, patience=30.0, output=256 << 20))


def read_image(source: str | Path | bytes, how: dict[str, Any], where: dict[str, Any]) -> Image.Image:
    """One picture of a file for display, 8-bit RGB with square pixels.

    Args:
        source: its path, or its bytes.
        how: `intensity`, `percentiles` and `window` as `pixels.to_uint8` takes them.
        where: `slice_index` and `axis` as `pixels.decode` takes them.

    Raises:
        ManyPictures: none of several was chosen.
        UserError: the file is broken, too large, took too much time or memory, or crashed its decoder.
    """
    name = "the image" if isinstance(source, bytes) else Path(source).name
    array, aspect = LIMITED.call(name, shown, source, name, how, where)
    rows, columns = array.shape[0] * max(aspect, 1.0), array.shape[1] * max(1 / aspect, 1.0)
    smaller = min(1.0, (MAX_PIXELS / (rows * columns)) ** 0.5)  # long pixels could make many of few
    rows, columns = max(1.0, rows * smaller), max(1.0, columns * smaller)
    return Image.fromarray(array).convert("RGB").resize((round(columns), round(rows)), Image.Resampling.BICUBIC)


def shown(
    source: str | Path | bytes, name: str, how: dict[str, Any], where: dict[str, Any]
) -> tuple[np.ndarray, float]:
    """The work of `read_image` in a limited process: the picture, and the height of a pixel over its width."""
    pixels = decode(source, name=name, max_pixels=MAX_PIXELS, **where)
    aspect = pixels.spacing[0] / pixels.spacing[1]
    return to_uint8(pixels, **how), aspect if 1 / 20 < aspect < 20 else 1.0
