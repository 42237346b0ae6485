"""Decoded pixels and their mapping to 8 bits: by a window, by percentiles, or unchanged."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from .errors import UserError

Intensity = Literal["auto", "percentile"]
Window = tuple[float, float]
Curve = Callable[[np.ndarray, Window], np.ndarray]

PERCENTILES: tuple[float, float] = (0.5, 99.5)
_PIECE = 2**22  # numbers converted at a time, so that temporaries stay small
_LARGEST = 1e300  # of what can be multiplied by 255
_SAMPLE = 1_000_000  # most values that percentiles are taken from: an error of 1-2 HU, 50 times faster


@dataclass(frozen=True)
class Pixels:
    """One decoded image: stored numbers and their conversion to values, and nothing else of the file's header.

    Attributes:
        array: (H, W) or (H, W, 3), in the stored dtype; a value is `slope * stored + intercept` (HU for CT).
        slope: factor from stored number to value, not 0.
        intercept: value of the stored number 0.
        window: (low, high) in values: the file's own range from black to white, or None.
        inverted: whether the smallest value is shown white (DICOM MONOCHROME1).
        reference: stored numbers that percentiles are taken from, the whole volume for a slice; None: `array`.
        padding: (lowest, highest) stored number of pixels outside the picture: shown black, and not counted in the
            percentiles. None if the file states none.
        sigmoid: whether the file's own window is the middle of an S-shaped curve (PS3.3 C.11.2.1.3.1), not of a ramp.
        spacing: distance between rows and between columns, in one unit; (1, 1) if the file does not state it.
    """

    array: np.ndarray
    slope: float = 1.0
    intercept: float = 0.0
    window: Window | None = None
    inverted: bool = False
    reference: np.ndarray | None = None
    padding: Window | None = None
    sigmoid: bool = False
    spacing: tuple[float, float] = (1.0, 1.0)


def percentile_window(
    array: np.ndarray, percentiles: tuple[float, float] = PERCENTILES, padding: Window | None = None
) -> Window:
    """Return the order statistics of `array` at two `percentiles` (0 to 100), as stored numbers.

    NaN, infinities and numbers within `padding` (lowest, highest) are left out. So are numbers equal to the smallest
    if these are over a fifth of all (and percentile 0 is not requested), because a wide background would pull both
    percentiles towards it. Above a million numbers a regular grid of them is used. Returns (0, 0) for an array
    without a finite number, and the same number twice for a constant one.

    Raises:
        UserError: `percentiles` are not two numbers from 0 to 100, the lower one first.
    """
    if not (len(percentiles) == 2 and 0 <= percentiles[0] < percentiles[1] <= 100):
        raise UserError(f"percentiles {percentiles}: give two numbers from 0 to 100, the lower one first")
    sample = _sample(array, padding)
    if sample.size == 0:
        return 0.0, 0.0
    smallest = sample.min()
    foreground = sample[sample != smallest]
    if 0 < foreground.size < 0.8 * sample.size and percentiles[0] > 0:
        sample = foreground
    low, high = _order_statistics(sample, percentiles)
    if low == high:  # the foreground is constant: show it against the background
        low, high = float(smallest), float(sample.max())
    return low, high


def _sample(array: np.ndarray, padding: Window | None) -> np.ndarray:
    """The numbers that percentiles are taken from: a regular grid of finite numbers outside the padding."""
    step = max(1, math.ceil((array.size / _SAMPLE) ** (1 / max(1, array.ndim))))
    sample = array[(slice(None, None, step),) * array.ndim].ravel()
    if sample.dtype.kind == "f":
        sample = sample[np.isfinite(sample)]
    return sample if padding is None else sample[(sample < padding[0]) | (sample > padding[1])]


def _order_statistics(sample: np.ndarray, percentiles: tuple[float, float]) -> Window:
    ranks = [min(sample.size - 1, int(sample.size * p / 100)) for p in percentiles]
    if sample.dtype.kind in "iu" and sample.dtype.itemsize <= 2:
        smallest = int(sample.min())
        below = np.cumsum(np.bincount(sample.astype(np.int32) - smallest))
        low, high = (float(np.searchsorted(below, rank, side="right") + smallest) for rank in ranks)
        return low, high
    ordered = np.partition(sample, ranks)
    return float(ordered[ranks[0]]), float(ordered[ranks[1]])


def to_uint8(
    pixels: Pixels,
    *,
    intensity: Intensity = "auto",
    percentiles: tuple[float, float] = PERCENTILES,
    window: Window | None = None,
) -> np.ndarray:
    """Map pixels to 8 bits for display: uint8 of the shape of `pixels.array`, 0 black.

    Args:
        pixels: what `decode` returned.
        intensity: "auto" takes the first of these that there is: `window`; the file's own window; for 8-bit numbers
            that are not of a volume, the numbers as they are; `percentiles`. "percentile" ignores the file's own
            window.
        percentiles: (low, high) in [0, 100], mapped to black and white.
        window: (low, high) in values (HU for CT), mapped to black and white; overrides everything else.

    Values outside the window become 0 or 255; NaN and padding become 0. A constant image becomes 0.
    """
    array = pixels.array
    chosen = _chosen_window(pixels, intensity, window)
    if chosen is None and array.dtype == np.uint8 and pixels.reference is None:
        mapped = array if pixels.slope > 0 else 255 - array
    else:
        mapped = _apply_window(array, _stored_window(pixels, chosen, percentiles), _curve(pixels, window, chosen))
    shown = 255 - mapped if pixels.inverted else mapped
    if pixels.inverted and array.dtype.kind == "f":
        shown = np.where(np.isnan(array), np.uint8(0), shown)
    if pixels.padding is not None:
        shown = np.where((array >= pixels.padding[0]) & (array <= pixels.padding[1]), np.uint8(0), shown)
    return shown


def _stored_window(pixels: Pixels, chosen: Window | None, percentiles: tuple[float, float]) -> Window:
    """The stored numbers mapped to black and white: from the chosen window, which is in values, else percentiles."""
    if chosen is not None:
        low, high = ((value - pixels.intercept) / pixels.slope for value in chosen)
        return low, high
    reference = pixels.array if pixels.reference is None else pixels.reference
    low, high = percentile_window(reference, percentiles, pixels.padding)
    return (low, high) if pixels.slope > 0 else (high, low)


def _curve(pixels: Pixels, window: Window | None, chosen: Window | None) -> Curve:
    return _sigmoid if pixels.sigmoid and window is None and chosen is not None else _ramp


def _chosen_window(pixels: Pixels, intensity: Intensity, window: Window | None) -> Window | None:
    if window is not None:
        low, high = map(float, window)
        if not (np.isfinite([low, high]).all() and low < high):
            raise UserError(f"window {window}: not an interval; give two finite numbers, the lower one first")
        return low, high
    if intensity not in ("auto", "percentile"):
        raise UserError(f"intensity {intensity!r}: not known; take 'auto' or 'percentile'")
    return pixels.window if intensity == "auto" else None


def _apply_window(array: np.ndarray, window: Window, curve: Curve) -> np.ndarray:
    """Map stored numbers so that window[0] becomes 0 and window[1] 255 (window[0] > window[1] inverts).

    With a window of width 0, larger numbers become white.
    """
    if array.dtype.kind in "iu" and array.dtype.itemsize <= 2:
        bits = 8 * array.dtype.itemsize
        if array.size >= 1 << bits:  # a table of all 2^bits numbers is cheaper, and equal bit for bit
            numbers = np.arange(1 << bits, dtype=f"u{array.dtype.itemsize}").view(array.dtype)
            table = curve(numbers, window)
            return table[array.view(f"u{array.dtype.itemsize}")]
    mapped = np.empty_like(array, dtype=np.uint8)
    step = max(1, _PIECE * len(array) // max(1, array.size))
    for start in range(0, len(array), step):
        mapped[start : start + step] = curve(array[start : start + step], window)
    return mapped


def _ramp(numbers: np.ndarray, window: Window) -> np.ndarray:
    low, high = window
    if low == high:
        return np.where(numbers > low, np.uint8(255), np.uint8(0))
    if max(abs(low), abs(high)) > _LARGEST:
        numbers, low, high = numbers / _LARGEST, low / _LARGEST, high / _LARGEST
    with np.errstate(invalid="ignore", over="ignore"):
        scaled = (numbers.astype(np.float64) - low) * 255.0 / (high - low)
        np.nan_to_num(scaled, copy=False, nan=0.0, posinf=255.0, neginf=0.0)
        return np.rint(np.clip(scaled, 0.0, 255.0)).astype(np.uint8)


def _sigmoid(numbers: np.ndarray, window: Window) -> np.ndarray:
    """PS3.3 C.11.2.1.3.1: 255 / (1 + exp(-4 (x - center) / width))."""
    low, high = window
    with np.errstate(invalid="ignore", over="ignore"):
        exponent = -4.0 * (numbers.astype(np.float64) - (low + high) / 2) / (high - low)
        return np.rint(np.nan_to_num(255.0 / (1.0 + np.exp(exponent)), nan=0.0)).astype(np.uint8)
