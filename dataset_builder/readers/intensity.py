"""Maps stored values to 8 bits by a source's record: unchanged, by percentiles, by windows, or by the file.

A record's intensity is {"window": [low, high]}, {"windows": three of them} (they become red, green and blue),
{"percentile": [low, high]}, "as-is", or None: the default of the file's kind.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from biovfm_hf.pixels import PERCENTILES, Pixels, Window, to_uint8

Setting = dict[str, Any] | str | None


def mapped(pixels: Pixels, setting: Setting) -> np.ndarray:
    """Map an image, or a volume whose `reference` is itself, to uint8 of its shape; three windows give colours.

    The default is a DICOM file's own window, then 8-bit values of an image unchanged, else percentiles. "as-is"
    ignores the file's window and keeps 8-bit values of volumes too. A percentile pair ignores the window and stretches
    8-bit values. Windows are in the file's values (HU for CT).
    """
    windows = _windows(setting)
    if windows:
        shown = [_by_window(pixels, window) for window in windows]
        return shown[0] if len(shown) == 1 else np.stack(shown, axis=-1)
    if isinstance(setting, dict):
        return to_uint8(_stretched(pixels), intensity="percentile", percentiles=_percentiles(setting))
    if setting == "as-is" and not _binary(pixels):
        reference = None if pixels.array.dtype == np.uint8 else pixels.reference
        return to_uint8(replace(pixels, window=None, reference=reference))
    return to_uint8(pixels)


def _by_window(pixels: Pixels, window: Window) -> np.ndarray:
    return to_uint8(pixels, window=window) if window[0] < window[1] else np.zeros(pixels.array.shape, np.uint8)


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
    """The pixels with themselves as reference, so that `to_uint8` also stretches 8-bit values."""
    return replace(pixels, reference=pixels.array) if pixels.reference is None else pixels
