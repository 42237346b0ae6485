"""From stored values to 8 bits as a source's record says: untouched, by percentiles, by windows, or by the file.

A record's intensity is {"window": [low, high]}, {"windows": three of them} (they become red, green and blue),
{"percentile": [low, high]}, "as-is", or None: the default of the file's kind.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from biovfm_hf.pixels import PERCENTILES, Pixels, Window, percentile_window, to_uint8

Setting = dict[str, Any] | str | None


def image_to_uint8(pixels: Pixels, setting: Setting) -> np.ndarray:
    """Map one image to uint8 (H, W) or (H, W, 3).

    By default the window that a DICOM file states, 8-bit values as they are, else percentiles of the image.
    "as-is" passes over the file's window; a percentile pair passes over it and over 8-bit values. Windows are in the
    file's values (HU for CT).
    """
    windows = _windows(setting)
    if len(windows) == 3:
        return np.stack([to_uint8(pixels, window=window) for window in windows], axis=-1)
    if windows:
        return to_uint8(pixels, window=windows[0])
    if isinstance(setting, dict):
        return to_uint8(_stretched(pixels), intensity="percentile", percentiles=_percentiles(setting))
    return to_uint8(replace(pixels, window=None) if setting == "as-is" and not _binary(pixels) else pixels)


def volume_to_uint8(array: np.ndarray, slope: float, intercept: float, setting: Setting) -> np.ndarray:
    """Map a volume (X, Y, Z) to uint8 of the same shape, or (X, Y, Z, 3) for three windows.

    By default, and for a percentile pair, percentiles are taken over the whole volume, once.
    """
    windows = _windows(setting)
    if not windows:
        if setting == "as-is" and array.dtype == np.uint8:
            return array
        low, high = sorted(slope * stored + intercept for stored in percentile_window(array, _percentiles(setting)))
        windows = [(low, high)]
    pixels = Pixels(array, slope, intercept)
    mapped = [to_uint8(pixels, window=window) if window[0] < window[1] else _black(array) for window in windows]
    return mapped[0] if len(mapped) == 1 else np.stack(mapped, axis=-1)


def _windows(setting: Setting) -> list[Window]:
    if not isinstance(setting, dict):
        return []
    if "window" in setting:
        return [(float(setting["window"][0]), float(setting["window"][1]))]
    return [(float(low), float(high)) for low, high in setting.get("windows", [])]


def _percentiles(setting: Setting) -> tuple[float, float]:
    pair: Sequence[float] = setting["percentile"] if isinstance(setting, dict) else PERCENTILES
    return float(pair[0]), float(pair[1])


def _binary(pixels: Pixels) -> bool:
    return pixels.window == (0.0, 1.0)


def _stretched(pixels: Pixels) -> Pixels:
    """The pixels with 8-bit values in 16 bits, which `to_uint8` stretches instead of taking them as they are."""
    return replace(pixels, array=pixels.array.astype(np.uint16)) if pixels.array.dtype == np.uint8 else pixels


def _black(array: np.ndarray) -> np.ndarray:
    return np.zeros_like(array, dtype=np.uint8)
