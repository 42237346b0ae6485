"""The rules that an 8-bit picture must pass before it becomes a row. Each answers (True, "") or (False, reason)."""

import cv2
import numpy as np

MIN_ASPECT = 0.4  # the paper's bound: shorter side over longer side
MIN_SIDE = 24  # pixels; below this a picture of 224 would be interpolation
MIN_CONTRAST = 4  # grey levels between the darkest and the brightest pixel; below, a picture is constant
FOREGROUND = 20  # grey levels (8 % of the range) away from the most frequent one: what counts as not background
MIN_FOREGROUND = 0.01  # share of such pixels below which a slice holds no anatomy

Verdict = tuple[bool, str]
KEEP: Verdict = (True, "")


def aspect_ratio(height: float, width: float) -> Verdict:
    """Drop what is narrower than MIN_ASPECT; `height` and `width` in the same unit, millimetres for slices."""
    if min(height, width) < MIN_ASPECT * max(height, width):
        return False, "aspect ratio"
    return KEEP


def large_enough(height: int, width: int) -> Verdict:
    """Drop what has fewer than MIN_SIDE pixels on a side, as stored."""
    return KEEP if min(height, width) >= MIN_SIDE else (False, "too small")


def not_constant(pixels: np.ndarray) -> Verdict:
    """Drop a picture of one colour. `pixels`: uint8 (H, W) or (H, W, 3); a grid of it is looked at."""
    sample = np.ascontiguousarray(pixels[:: max(1, pixels.shape[0] // 256), :: max(1, pixels.shape[1] // 256)])
    return KEEP if int(sample.max()) - int(sample.min()) > MIN_CONTRAST else (False, "blank")


def not_padding(pixels: np.ndarray) -> Verdict:
    """Drop a slice of a volume that holds no anatomy: all but MIN_FOREGROUND of it is of one grey level.

    The most frequent level of the slice itself is the background, so that padding of any value is recognised; up to
    FOREGROUND levels around it are noise. Every second row and column is looked at.

    Args:
        pixels: uint8 (H, W[, 3]) after the mapping of the whole volume.

    Its errors on real volumes are in docs/dataset.md.
    """
    channel = np.ascontiguousarray((pixels if pixels.ndim == 2 else pixels[..., 1])[::2, ::2])
    counts = cv2.calcHist([channel], [0], None, [256], [0, 256]).ravel()
    background = int(counts.argmax())
    near = counts[max(0, background - FOREGROUND) : background + FOREGROUND + 1].sum()
    return KEEP if channel.size - near >= MIN_FOREGROUND * channel.size else (False, "padding")
