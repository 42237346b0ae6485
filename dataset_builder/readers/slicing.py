"""Cuts volumes into pictures: slices along the anatomical axes, mapped to 8 bits by one rule for each volume."""

from collections.abc import Collection, Iterator, Sequence
from math import ceil

import numpy as np

from biovfm_hf.pixels import Pixels, Volume
from biovfm_hf.volumes import AXES, pixel_spacing, upright

from ..limits import MAX_FRAMES, TOO_LARGE, Refused
from .intensity import Setting, mapped
from .picture import Picture

VIEWS = ("axial", "sagittal", "coronal")
MAX_TIME_POINTS = 5  # 3D volumes taken from a 4D series, evenly spread, beginning with the first


def time_points(count: int) -> range:
    """The sampled time points of a series of `count`: at most MAX_TIME_POINTS, evenly spread."""
    return range(0, count, ceil(count / MAX_TIME_POINTS))


def sliced(volumes: list[Volume], setting: Setting, views: Sequence[str], time: int = 0) -> Iterator[Picture]:
    """Yield the slices of the only volume in the list, which is removed so that its memory can be freed.

    A series of n time points gives every ceil(n / MAX_TIME_POINTS)th of them as a volume of its own, with percentiles
    of its own; slice k of time point t then has the index t * slices + k.

    `time`: the time point in its series, for a volume without a time axis.

    Raises:
        Refused: more slices than MAX_FRAMES.
    """
    volume = volumes.pop()
    if max(volume.array.shape[:3]) > MAX_FRAMES:
        raise Refused(TOO_LARGE, f"more than {MAX_FRAMES} slices along one axis")
    views = volume.views(views)
    if volume.times > 1:
        for moment in time_points(volume.times):
            shown = _mapped(volume, volume.at_time(moment), setting)
            yield from _pictures(shown, volume.spacing, volume.absent, views, moment)
        return
    shown, spacing, absent = _mapped(volume, volume.at_time(None), setting), volume.spacing, volume.absent
    del volume  # the slices need only the 8-bit volume
    yield from _pictures(shown, spacing, absent, views, time)


def _mapped(volume: Volume, array: np.ndarray, setting: Setting) -> np.ndarray:
    reference = None if volume.rgb else array
    pixels = Pixels(
        array, volume.slope, volume.intercept, None, volume.inverted, reference=reference, padding=volume.padding
    )
    return mapped(pixels, "as-is" if volume.rgb and array.dtype == np.uint8 else setting)


def _pictures(
    volume: np.ndarray, spacing: Sequence[float], absent: Collection[tuple[str, int]], views: Sequence[str], time: int
) -> Iterator[Picture]:
    for view in views:
        depth = volume.shape[AXES.index(view)]
        for index in range(depth):
            if (view, index) not in absent:
                pixels = np.ascontiguousarray(upright(volume, view, index))
                rows, columns = pixels.shape[:2]
                yield Picture(pixels, view, time * depth + index, pixel_spacing(spacing, view), columns, rows)
