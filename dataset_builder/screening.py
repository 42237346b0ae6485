"""The rules that an 8-bit picture must pass before it becomes a row. Each answers (True, "") or (False, reason)."""

import numpy as np

MIN_ASPECT = 0.4  # the paper's bound: shorter side over longer side
MIN_SIDE = 24  # pixels; below this a picture of 224 would be interpolation
FOREGROUND = 0.08  # of the range 0 to 255: what counts as not background
MIN_FOREGROUND = 0.02  # share of such pixels below which a slice holds no anatomy
MIN_CONTRAST = 4  # grey levels between the darkest and the brightest pixel; below, a picture is constant

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
    """Drop a picture of one colour. `pixels`: uint8 (H, W) or (H, W, 3)."""
    sample = pixels[:: max(1, pixels.shape[0] // 256), :: max(1, pixels.shape[1] // 256)]
    return KEEP if int(sample.max()) - int(sample.min()) > MIN_CONTRAST else (False, "blank")


def not_padding(pixels: np.ndarray) -> Verdict:
    """Drop a slice of a volume that holds no anatomy: constant, or almost nothing above the background.

    `pixels`: uint8 (H, W) after the intensity mapping of its whole volume, in which 0 is air or background.
    """
    if not not_constant(pixels)[0]:
        return False, "padding"
    foreground = np.count_nonzero(pixels > FOREGROUND * 255)
    return KEEP if foreground >= MIN_FOREGROUND * pixels.size else (False, "padding")
