"""Decoder of arrays in .npy, .npz and .mat files: a picture, a stack of pictures, or the slices of a volume."""

import math
import zipfile
from typing import Any

import numpy as np

from ..errors import TooLarge, UserError, unquoted
from ..pictures import as_pixels, dtype_name
from ..volumes import Volume
from .content import Content, Pages, Source, names_mask, one_picture
from .matlab import MAX_BYTES, is_level_4, largest_array, largest_of_level_4

_COLOURS = (1, 3, 4)
_LEVEL_5 = b"MATLAB 5.0"


def content_of(array: np.ndarray, name: str) -> Content:
    """Interpret an array by its shape.

    - (H, W), (H, W, C) and (C, H, W) with C of 1 or 3, or 4 if it is last: one picture.
    - (N, H, W, C), (N, C, H, W): N pictures.
    - Three other axes: a volume, sliced along one of them. That is the first, (slices, H, W), unless the first two
      alone are equal or the last is shorter than half of either: then it is the last, (H, W, slices).

    Raises:
        UserError: another shape, or no real numbers.
    """
    if array.ndim == 2 or (array.ndim == 3 and (array.shape[2] in _COLOURS or array.shape[0] in (1, 3))):
        return one_picture(as_pixels(array, None, name))
    if array.ndim == 4 and (array.shape[3] in _COLOURS or array.shape[1] in (1, 3)):
        channels = "last" if array.shape[3] in _COLOURS else "first"
        return Pages(len(array), lambda number: as_pixels(array[number], channels, name), "picture", in_memory=True)
    if array.ndim != 3 or array.dtype.kind not in "biuf":
        raise UserError(
            f"{name}: an array of {dtype_name(array.dtype)} and shape {array.shape} is not a picture (H, W) or "
            "(H, W, 3), a stack of them or a volume; save it as one of these"
        )
    if min(array.shape) < 1:
        raise UserError(f"{name}: has no pixels (shape {array.shape}); leave it out")
    stack = np.moveaxis(array, slice_axis(array.shape), 0)
    stack = stack.astype(np.uint8 if stack.dtype == bool else stack.dtype.newbyteorder("="), copy=False)
    # Volumes are turned for display: this inverse turn keeps rows and columns as stored.
    return Volume(stack[:, ::-1, ::-1].transpose(2, 1, 0), (1.0, 1.0, 1.0), axes=("axial",))


def slice_axis(shape: tuple[int, ...]) -> int:
    """Which of three axes numbers the slices: see `content_of`."""
    first, second, last = shape
    if first == second != last:
        return 2
    return 2 if second != last and 2 * last < min(first, second) else 0


def read_npy(source: Source) -> Content:
    """Read a .npy file.

    Raises:
        UserError: Python objects, damaged, over `source.max_bytes`, or no picture.
    """
    try:
        shape, dtype = _header(source.file)
        _check(shape, dtype, source)
        source.file.seek(0)
        array = np.lib.format.read_array(source.file, allow_pickle=False)
    except (ValueError, EOFError, OSError, TypeError, SyntaxError) as error:
        raise UserError(f"{source.name}: cannot be read as .npy ({unquoted(error)}); save it again") from error
    return content_of(array, source.name)


def read_npz(source: Source) -> Content:
    """Read the largest array of numbers in a .npz file; of equally large ones, one that is not a mask.

    Raises:
        UserError: no such array, damaged, over `source.max_bytes`, or no picture.
    """
    try:
        with zipfile.ZipFile(source.file) as archive:
            arrays = {}
            for member in archive.infolist():
                with archive.open(member) as file:
                    shape, dtype = _header(file)
                if dtype.kind in "biuf" and len(shape) >= 2:
                    arrays[member] = (shape, dtype)
            if not arrays:
                raise UserError(f"{source.name}: holds no array of numbers; leave it out")
            largest = max(arrays, key=lambda member: _rank(member.filename, *arrays[member]))
            _check(*arrays[largest], source)
            with archive.open(largest) as file:
                array = np.lib.format.read_array(file, allow_pickle=False)
    except (ValueError, EOFError, OSError, TypeError, SyntaxError, RuntimeError, zipfile.BadZipFile) as error:
        raise UserError(f"{source.name}: cannot be read as .npz ({unquoted(error)}); save it again") from error
    return content_of(array, source.name)


def read_mat(source: Source) -> Content:
    """Read the largest array of numbers in a .mat file of level 4 or 5, in structures and cells too.

    Raises:
        UserError: no such array, damaged, over `source.max_bytes`, or no picture.
    """
    data = source.file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise TooLarge(f"{source.name}: is over the limit of {MAX_BYTES >> 20} MiB for a .mat file; save fewer slices")
    largest = largest_array if data.startswith(_LEVEL_5) else largest_of_level_4
    return content_of(largest(data, source.name), source.name)


def _header(file: Any) -> tuple[tuple[int, ...], np.dtype]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    return tuple(map(int, shape)), dtype


def _rank(name: str, shape: tuple[int, ...], dtype: np.dtype) -> tuple[int, bool]:
    return math.prod(shape), not (dtype.kind == "b" or names_mask(name))


def _check(shape: tuple[int, ...], dtype: np.dtype, source: Source) -> None:
    if dtype.hasobject:
        raise UserError(f"{source.name}: holds Python objects, which are never read; save one image as numbers")
    size = math.prod(shape, start=dtype.itemsize)
    if size > source.max_bytes:
        raise TooLarge(f"{source.name}: an array of {size / 2**20:.0f} MiB, over the limit; save fewer slices")


def is_npy(start: bytes) -> bool:
    """Whether a file that begins with `start` is .npy."""
    return start[:6] == b"\x93NUMPY"


def is_mat(start: bytes, name: str) -> bool:
    """Whether a file that begins with `start` is a MAT-file; level 4 also needs the name."""
    return start.startswith(_LEVEL_5) or (name.lower().removesuffix(".gz").endswith(".mat") and is_level_4(start))


def is_npz(start: bytes, name: str) -> bool:
    """Whether a file that begins with `start` is .npz: a ZIP file with that suffix."""
    return start[:4] == b"PK\3\4" and name.lower().endswith(".npz")
