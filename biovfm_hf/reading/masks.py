"""Reads masks from raster files: one whole class number per pixel."""

from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from ..decoding.bounds import check_image
from ..errors import UserError
from .image_files import guarded


def read_mask(path: Path) -> np.ndarray:
    """Decode one mask file to integer classes (H, W): palette and grey values are taken as they are.

    A colour mask is read by its brightest channel.

    Raises:
        UserError: `path` is missing or broken.
    """
    mask = guarded(_decode_mask, path, str(path), str(path))
    if mask.dtype == bool:
        mask = mask.astype(np.uint8)
    if mask.ndim == 3:
        mask = mask[..., :3].max(axis=-1)
    if not np.issubdtype(mask.dtype, np.integer):
        raise UserError(f"{path}: a mask holds whole class numbers, this one is {mask.dtype}")
    return mask


def _decode_mask(source: Path | bytes, name: str) -> np.ndarray:
    try:
        with Image.open(BytesIO(source) if isinstance(source, bytes) else source) as image:
            check_image(image, name)
            return np.asarray(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{name} cannot be read as a mask ({error}); replace or remove it") from error
