"""NIfTI, NRRD, MetaImage and DICOM series: slices along the anatomical axes, each volume read once."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from io import BytesIO
from math import ceil
from pathlib import Path
from typing import BinaryIO

import numpy as np

from biovfm_hf.decoding.metaimage import is_metaimage, read_metaimage
from biovfm_hf.decoding.nrrd import read_nrrd
from biovfm_hf.pixels import Volume, read_volume

from ..limits import MAX_FRAMES, MAX_VOLUME_BYTES, TOO_LARGE, Refused
from .intensity import Setting, volume_to_uint8
from .picture import Picture
from .slicing import slices

MAX_TIME_POINTS = 5  # 3D volumes taken of a 4D series, evenly spread from the first on


def read(source: Path | bytes, name: str, setting: Setting, views: Sequence[str]) -> Iterator[Picture]:
    """Yield the slices of a volume file along `views`, in patient orientation.

    A series of n time points gives every ceil(n / MAX_TIME_POINTS)th of them as a volume of its own, with percentiles
    of its own; slice k of time point t then has the index t * slices + k.

    Raises:
        UserError, Refused: not a volume, damaged, or over MAX_VOLUME_BYTES.
    """
    with BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
        volume = _opened(file, name, None if isinstance(source, bytes) else source.parent)
    yield from sliced([volume], setting, views)


def time_points(count: int) -> range:
    """Which of `count` time points of a series are taken: MAX_TIME_POINTS at most, evenly spread."""
    return range(0, count, ceil(count / MAX_TIME_POINTS))


def sliced(volumes: list[Volume], setting: Setting, views: Sequence[str], time: int = 0) -> Iterator[Picture]:
    """Yield the slices of the one volume in the list, which is taken out so that its memory can be freed.

    `time`: which time point of its series a volume without a time axis is.
    """
    volume = volumes.pop()
    if max(volume.array.shape[:3]) > MAX_FRAMES:
        raise Refused(TOO_LARGE, f"more than {MAX_FRAMES} slices along one axis")
    if volume.rgb:
        setting = "as-is"
    if volume.array.ndim == 4 and not volume.rgb:
        for time in time_points(volume.array.shape[3]):
            moment = replace(volume, array=volume.array[..., time])
            yield from _pictures(_mapped(moment, setting), volume.spacing, views, time)
        return
    spacing, mapped = volume.spacing, _mapped(volume, setting)
    del volume  # the 8-bit volume is all that the slices need
    yield from _pictures(mapped, spacing, views, time)


def _opened(file: BinaryIO, name: str, folder: Path | None) -> Volume:
    start = file.read(512)
    file.seek(0)
    if start.startswith(b"NRRD0"):
        return read_nrrd(file, folder, MAX_VOLUME_BYTES)
    if is_metaimage(start):
        return read_metaimage(file, folder, MAX_VOLUME_BYTES)
    return read_volume(file, name=name, max_bytes=MAX_VOLUME_BYTES)


def _mapped(volume: Volume, setting: Setting) -> np.ndarray:
    return volume_to_uint8(volume.array, volume.slope, volume.intercept, setting)


def _pictures(volume: np.ndarray, spacing: Sequence[float], views: Sequence[str], time: int) -> Iterator[Picture]:
    depth = dict(zip(("sagittal", "coronal", "axial"), volume.shape, strict=False))
    for one in slices(volume, spacing, views):
        rows, columns = one.pixels.shape[:2]
        pixels = np.ascontiguousarray(one.pixels)
        yield Picture(pixels, one.view, time * depth[one.view] + one.index, one.spacing, columns, rows)
