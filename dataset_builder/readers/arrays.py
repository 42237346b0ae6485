"""HDF5 data sets, .npy and .mat arrays: an image, a row of a table of images, an encoded image, or a volume."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from biovfm_hf.decoding.matlab import MAX_BYTES, largest_array
from biovfm_hf.errors import require
from biovfm_hf.pixels import Volume, decode

from ..limits import MAX_PIXELS, MAX_VOLUME_BYTES, TOO_LARGE, UNREADABLE, Refused
from .intensity import Setting, image_to_uint8
from .picture import Picture, first_bytes, whole
from .raster import read as read_raster
from .volume import sliced

_COLOURS = (1, 3, 4)


def read_hdf5(
    source: Path | bytes, member: str | None, row: int | None, setting: Setting, size: int
) -> Iterator[Picture]:
    """Yield the picture of row `row` of data set `member`; without a row, of the encoded image or the stack it holds.

    Raises:
        Refused: no such data set or row, or over the limits.
    """
    with _hdf5(source) as file:
        data = _data_set(file, member)
        if row is not None:
            yield whole(image_to_uint8(decode(_bounded(data, row), name="row"), setting))
            return
        if data.shape == () or data.ndim == 1:
            yield from read_raster(_encoded(data), "data set", setting, size)
            return
        yield from _of_array(_bounded(data, ...), setting)


def read_npy(source: Path | bytes, setting: Setting) -> Iterator[Picture]:
    """Yield the pictures of a .npy array: an image (H, W[, 3]) or a stack (slices, H, W).

    Raises:
        Refused: Python objects, over the limits, or another shape.
    """
    file = BytesIO(source) if isinstance(source, bytes) else source.open("rb")
    with file:
        major, _ = np.lib.format.read_magic(file)
        header = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
        shape, _, dtype = header(file)
        _check(shape, dtype)
        file.seek(0)
        array = np.load(file, allow_pickle=False)
    yield from _of_array(array, setting)


def read_mat(source: Path | bytes, setting: Setting) -> Iterator[Picture]:
    """Yield the pictures of the largest numeric array of a .mat file (versions 5 and 7.3).

    Raises:
        Refused: no such array, or over the limits.
    """
    if b"MATLAB 7.3" in first_bytes(source, 128):
        with _hdf5(source) as file:
            found = [key for key in file if getattr(file.get(key), "ndim", 0) >= 2]
            if not found:
                raise Refused(UNREADABLE, "holds no array")
            largest = _data_set(file, max(found, key=lambda key: file[key].size))
            # MATLAB stores columns first, HDF5 shows them reversed.
            yield from _of_array(_bounded(largest, ...).T, setting)
        return
    if not isinstance(source, bytes) and source.stat().st_size > MAX_BYTES:
        raise Refused(TOO_LARGE, f"a .mat file of {source.stat().st_size / 2**20:.0f} MiB")
    yield from _of_array(largest_array(source if isinstance(source, bytes) else source.read_bytes()), setting)


def _of_array(array: np.ndarray, setting: Setting) -> Iterator[Picture]:
    """An image, or a stack whose shortest axis counts the slices; a stack is sliced along that axis only."""
    _check(array.shape, array.dtype)
    if array.ndim == 2 or (array.ndim == 3 and array.shape[-1] in _COLOURS):
        yield whole(image_to_uint8(decode(array), setting))
        return
    if array.ndim != 3:
        raise Refused(UNREADABLE, f"an array of shape {array.shape}")
    axis = int(np.argmin(array.shape)) if array.shape[0] > min(array.shape) else 0
    # `slices` turns a RAS+ volume for display: turned beforehand, rows and columns come out as stored.
    turned = np.moveaxis(array, axis, 0)[:, ::-1, ::-1].transpose(2, 1, 0)
    yield from sliced([Volume(turned, (1.0, 1.0, 1.0))], setting, ("axial",))


def _bounded(data: Any, index: Any) -> np.ndarray:
    _check(data.shape if index is ... else data.shape[1:], data.dtype)
    if index is not ... and not 0 <= index < data.shape[0]:
        raise Refused(UNREADABLE, f"no row {index} of {data.shape[0]}")
    return np.asarray(data[index])


def _encoded(data: Any) -> bytes:
    if data.size > MAX_PIXELS:
        raise Refused(TOO_LARGE, f"an encoded image of {data.size} bytes")
    value = data[()]
    return value if isinstance(value, bytes) else value.tobytes()


def _check(shape: tuple[int, ...], dtype: np.dtype) -> None:
    if dtype.hasobject or dtype.kind not in "biuf":
        raise Refused(UNREADABLE, f"holds {dtype}, not numbers")
    size = math.prod(map(int, shape), start=dtype.itemsize)
    if size > MAX_VOLUME_BYTES:
        raise Refused(TOO_LARGE, f"an array of {size / 2**20:.0f} MiB")


@contextmanager
def _hdf5(source: Path | bytes) -> Iterator[Any]:
    h5py = require("h5py", "data")
    try:
        if isinstance(source, bytes):
            with h5py.File(BytesIO(source), "r") as file:
                yield file
        else:
            yield _kept_open(source)
    except (OSError, KeyError, RuntimeError) as error:
        raise Refused(UNREADABLE, f"HDF5: {error}") from error


@lru_cache(maxsize=1)
def _kept_open(path: Path) -> Any:
    """The file of the last row that was read: a table of images is opened once, not once for each row."""
    return require("h5py", "data").File(path, "r")


def _data_set(file: Any, member: str | None) -> Any:
    """A data set that is stored in this file itself, not behind a link or in other files."""
    h5py = require("h5py", "data")
    parts = (member or "").split("/")
    for depth in range(1, len(parts) + 1):
        link = file.get("/".join(parts[:depth]), getlink=True)
        if not isinstance(link, h5py.HardLink):
            raise Refused(UNREADABLE, f"no data set {member!r} in the file itself")
    data = file[member]
    if not isinstance(data, h5py.Dataset) or data.is_virtual or data.external:
        raise Refused(UNREADABLE, f"{member!r} is no data set of the file itself")
    return data
