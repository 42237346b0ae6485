"""Coarse pixels and JPEG compression, as in MedMNIST-C."""

from io import BytesIO

import numpy as np
from PIL import Image


def pixelate(image: np.ndarray, share: float) -> np.ndarray:
    """Average each side down to `share` of its pixels, then enlarge by repeating pixels."""
    picture = Image.fromarray(image)
    width, height = picture.size
    small = picture.resize((int(width * share), int(height * share)), Image.Resampling.BOX)
    return np.array(small.resize((width, height), Image.Resampling.BOX))


def compress_jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """JPEG compression with colours at half resolution (4:2:0)."""
    stream = BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=quality)
    return np.array(Image.open(stream))
