"""Screening rules for 8-bit pictures before they become rows; each returns None to keep one, or why to drop it."""

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path

import cv2
import numpy as np

from biovfm_hf.version import package_version

from ..readers.picture import Picture

MIN_ASPECT = 0.4  # the paper's bound: shorter side over longer side
MIN_SIDE = 24  # pixels; smaller pictures would be mostly interpolated at 224
MIN_CONTRAST = 4  # least grey levels between the darkest and the brightest pixel, else a picture is constant
FOREGROUND = 20  # grey levels (8 % of the range) from the most frequent one, beyond which pixels are foreground
MIN_FOREGROUND = 0.01  # share of foreground below which a slice shows no anatomy


Rule = Callable[[Picture], str | None]


def software() -> str:
    """The version of this package and a short hash of this module, which a plan keeps to notice other rules."""
    return f"biovfm-hf {package_version()} with rules {hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:8]}"


def judged(picture: Picture, rules: Iterable[Rule]) -> str | None:
    """The reason of the first rule that drops a picture; None keeps it."""
    reasons = (rule(picture) for rule in rules)
    return next((reason for reason in reasons if reason is not None), None)


def aspect_ratio(picture: Picture) -> str | None:
    """Drop pictures narrower than MIN_ASPECT, measured in millimetres for slices."""
    rows, columns = picture.pixels.shape[:2]
    height, width = rows * picture.spacing[0], columns * picture.spacing[1]
    return "aspect ratio" if min(height, width) < MIN_ASPECT * max(height, width) else None


def large_enough(picture: Picture) -> str | None:
    """Drop pictures with fewer than MIN_SIDE pixels on a side, as stored."""
    return "too small" if min(picture.height, picture.width) < MIN_SIDE else None


def not_constant(picture: Picture) -> str | None:
    """Drop a picture of one colour, judged on a grid of pixels; slices are judged by `not_padding` instead."""
    if _is_slice(picture):
        return None
    pixels = picture.pixels
    sample = np.ascontiguousarray(pixels[:: max(1, pixels.shape[0] // 256), :: max(1, pixels.shape[1] // 256)])
    return None if int(sample.max()) - int(sample.min()) > MIN_CONTRAST else "blank"


def not_padding(picture: Picture) -> str | None:
    """Drop a slice of a volume without anatomy: less than MIN_FOREGROUND of it differs from one grey level.

    The slice's most frequent level is the background, so that padding of any value is recognised; FOREGROUND levels
    around it are noise. Every second row and column is examined, after the whole volume is mapped to 8 bits.
    docs/dataset.md has the rule's errors on real volumes.
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
"""The rules in the order in which they are applied, the cheapest first."""
