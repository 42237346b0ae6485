"""The rules that an 8-bit picture must pass before it becomes a row; each answers None to keep, or why to drop it."""

from collections.abc import Callable, Iterable

import cv2
import numpy as np

from ..readers.picture import Picture

MIN_ASPECT = 0.4  # the paper's bound: shorter side over longer side
MIN_SIDE = 24  # pixels; below this a picture of 224 would be interpolation
MIN_CONTRAST = 4  # grey levels between the darkest and the brightest pixel; below, a picture is constant
FOREGROUND = 20  # grey levels (8 % of the range) away from the most frequent one: what counts as not background
MIN_FOREGROUND = 0.01  # share of such pixels below which a slice holds no anatomy


Rule = Callable[[Picture], str | None]


def judged(picture: Picture, rules: Iterable[Rule]) -> str | None:
    """Why a picture is dropped, by the first rule that drops it; None keeps it."""
    reasons = (rule(picture) for rule in rules)
    return next((reason for reason in reasons if reason is not None), None)


def aspect_ratio(picture: Picture) -> str | None:
    """Drop what is narrower than MIN_ASPECT, measured in millimetres for slices."""
    rows, columns = picture.pixels.shape[:2]
    height, width = rows * picture.spacing[0], columns * picture.spacing[1]
    return "aspect ratio" if min(height, width) < MIN_ASPECT * max(height, width) else None


def large_enough(picture: Picture) -> str | None:
    """Drop what has fewer than MIN_SIDE pixels on a side, as stored."""
    return "too small" if min(picture.height, picture.width) < MIN_SIDE else None


def not_constant(picture: Picture) -> str | None:
    """Drop a picture of one colour; of slices the padding is judged instead. A grid of it is looked at."""
    if _is_slice(picture):
        return None
    pixels = picture.pixels
    sample = np.ascontiguousarray(pixels[:: max(1, pixels.shape[0] // 256), :: max(1, pixels.shape[1] // 256)])
    return None if int(sample.max()) - int(sample.min()) > MIN_CONTRAST else "blank"


def not_padding(picture: Picture) -> str | None:
    """Drop a slice of a volume that holds no anatomy: all but MIN_FOREGROUND of it is of one grey level.

    The most frequent level of the slice itself is the background, so that padding of any value is recognised; up to
    FOREGROUND levels around it are noise. Every second row and column is looked at, after the mapping of the whole
    volume to 8 bits. Its errors on real volumes are in docs/dataset.md.
    """
    if not _is_slice(picture):
        return None
    pixels = picture.pixels
    channel = np.ascontiguousarray((pixels if pixels.ndim == 2 else pixels[..., 1])[::2, ::2])
    counts = cv2.calcHist([channel], [0], None, [256], [0, 256]).ravel()
    background = int(counts.argmax())
    near = counts[max(0, background - FOREGROUND) : background + FOREGROUND + 1].sum()
    return None if channel.size - near >= MIN_FOREGROUND * channel.size else "padding"


def _is_slice(picture: Picture) -> bool:
    return picture.view in ("axial", "sagittal", "coronal") and picture.index is not None


RULES: list[Rule] = [aspect_ratio, large_enough, not_constant, not_padding]
"""The rules in the order in which they are asked, the cheapest first."""
