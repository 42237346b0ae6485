"""Decoded pixels and their one mapping to 8 bits: by a window, by percentiles, or as they are."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from .errors import UserError

Intensity = Literal["auto", "percentile"]
Window = tuple[float, float]

PERCENTILES: tuple[float, float] = (0.5, 99.5)
_PIECE = 2**22  # numbers converted at once, so that no temporary is large
_SAMPLE = 1_000_000  # values from which the percentiles of a volume are taken: an error of 1-2 HU, 50 times faster


@dataclass(frozen=True)
class Pixels:
    """One decoded image: stored numbers, and what turns them into values. Nothing else of a file's header.

    Attributes:
        array: (H, W) or (H, W, 3), in the stored dtype; a value is `slope * stored + intercept` (HU for CT).
        slope: factor from stored number to value, not 0.
        intercept: value of the stored number 0.
        window: (low, high) in values that the file itself asks to be shown from black to white, or None.
        inverted: whether the smallest value is shown white (DICOM MONOCHROME1).
        reference: stored numbers that percentiles are taken from, the whole volume for a slice; None: `array`.
        spacing: distance between rows and between columns, in one unit; (1, 1) where the file does not tell.
    """

    array: np.ndarray
    slope: float = 1.0
    intercept: float = 0.0
    window: Window | None = None
    inverted: bool = False
    reference: np.ndarray | None = None
    spacing: tuple[float, float] = (1.0, 1.0)


def percentile_window(array: np.ndarray, percentiles: tuple[float, float] = PERCENTILES) -> Window:
    """Return the order statistics of `array` at two `percentiles` (0 to 100), as stored numbers.

    NaN and infinities are left out; so are the numbers equal to the smallest where they are over a fifth of all (and
    percentile 0 is not asked for), because a wide background would pull both percentiles towards it. Above a million
    numbers a regular grid of them is used. Returns (0, 0) for an array without a finite number, and twice the same
    number for a constant one.

    Raises:
        UserError: `percentiles` are not two numbers from 0 to 100, the lower one first.
    """
    if not (len(percentiles) == 2 and 0 <= percentiles[0] < percentiles[1] <= 100):
        raise UserError(f"percentiles {percentiles}: give two numbers from 0 to 100, the lower one first")
    step = max(1, math.ceil((array.size / _SAMPLE) ** (1 / max(1, array.ndim))))
    sample = array[(slice(None, None, step),) * array.ndim].ravel()
    if sample.dtype.kind == "f":
        sample = sample[np.isfinite(sample)]
    if sample.size == 0:
        return 0.0, 0.0
    smallest = sample.min()
    foreground = sample[sample != smallest]
    if 0 < foreground.size < 0.8 * sample.size and percentiles[0] > 0:
        sample = foreground
    ranks = [min(sample.size - 1, int(sample.size * p / 100)) for p in percentiles]
    if sample.dtype.kind in "iu" and sample.dtype.itemsize <= 2:
        below = np.cumsum(np.bincount(sample.astype(np.int32) - int(smallest)))
        low, high = (float(np.searchsorted(below, rank, side="right") + int(smallest)) for rank in ranks)
    else:
        ordered = np.partition(sample, ranks)
        low, high = (float(ordered[rank]) for rank in ranks)
    if low == high:  # the foreground is constant: show it against the background
        low, high = float(smallest), float(sample.max())
    return low, high


def to_uint8(
    pixels: Pixels,
    *,
    intensity: Intensity = "auto",
    percentiles: tuple[float, float] = PERCENTILES,
    window: Window | None = None,
) -> np.ndarray:
    """Map pixels to what a screen shows: (H, W) or (H, W, 3) uint8, 0 black.

    Args:
        pixels: what `decode` returned.
        intensity: "auto" takes, in this order, `window`, the file's own window, 8-bit numbers as they are, and
            `percentiles`. "percentile" passes over the file's own window.
        percentiles: (low, high) in [0, 100], shown black and white.
        window: (low, high) in values (HU for CT), shown black and white; overrides everything else.

    Values outside the window become 0 or 255, NaN becomes 0. A constant image becomes 0.
    """
    array = pixels.array
    chosen = _chosen_window(pixels, intensity, window)
    if chosen is None and array.dtype == np.uint8:
        mapped = array if pixels.slope > 0 else 255 - array
    else:
        if chosen is None:
            reference = array if pixels.reference is None else pixels.reference
            stored = percentile_window(reference, percentiles)
        else:
            stored = tuple((value - pixels.intercept) / pixels.slope for value in chosen)  # type: ignore[assignment]
        if pixels.slope < 0 and chosen is None:
            stored = (stored[1], stored[0])
        mapped = _apply_window(array, stored)
    return 255 - mapped if pixels.inverted else mapped


def _chosen_window(pixels: Pixels, intensity: Intensity, window: Window | None) -> Window | None:
    if window is not None:
        low, high = map(float, window)
        if not (np.isfinite([low, high]).all() and low < high):
            raise UserError(f"window {window}: not an interval; give two finite numbers, the lower one first")
        return low, high
    if intensity not in ("auto", "percentile"):
        raise UserError(f"intensity {intensity!r}: not known; take 'auto' or 'percentile'")
    return pixels.window if intensity == "auto" else None


def _apply_window(array: np.ndarray, window: Window) -> np.ndarray:
    """Map stored numbers linearly so that window[0] becomes 0 and window[1] 255 (window[0] > window[1] inverts)."""
    if window[0] == window[1]:
        return np.zeros(array.shape, np.uint8)
    if array.dtype.kind in "iu" and array.dtype.itemsize <= 2:
        bits = 8 * array.dtype.itemsize
        if array.size >= 1 << bits:  # a table of all 2^bits numbers is cheaper, and equal bit for bit
            numbers = np.arange(1 << bits, dtype=f"u{array.dtype.itemsize}").view(array.dtype)
            table = _ramp(numbers, window)
            return table[array.view(f"u{array.dtype.itemsize}")]
    mapped = np.empty_like(array, dtype=np.uint8)
    step = max(1, _PIECE * len(array) // max(1, array.size))
    for start in range(0, len(array), step):
        mapped[start : start + step] = _ramp(array[start : start + step], window)
    return mapped


def _ramp(numbers: np.ndarray, window: Window) -> np.ndarray:
    low, high = window
    with np.errstate(invalid="ignore", over="ignore"):
        scaled = (numbers.astype(np.float64) - low) * 255.0 / (high - low)
        np.nan_to_num(scaled, copy=False, nan=0.0, posinf=255.0, neginf=0.0)
        return np.rint(np.clip(scaled, 0.0, 255.0)).astype(np.uint8)
