"""Fills a volume with the slices of a series: stored numbers if they share a scale, else values."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

import numpy as np

from ..errors import TooLarge, UserError
from ..intensity import Pixels, Window
from ..volumes import AXES, Volume, canonical
from .series import Stack


def stacked(
    slices: Sequence[Callable[[], Pixels]], stack: Stack, name: str, max_bytes: int
) -> tuple[Volume, dict[int, UserError]]:
    """The slices, one for each of `stack.places`, as a RAS+ volume; and the errors of those that cannot be read.

    Errors are by number in `slices`. If all slices share dtype, slope and intercept, the volume holds stored numbers;
    otherwise values in float32, since each slice of a PET has a slope of its own. A slice that is missing or cannot be
    read repeats its neighbour and is marked `absent`.

    Raises:
        UserError: over `max_bytes`, or fewer than half of the slices can be read.
    """
    rows, columns = stack.shape
    filling = _Filling((columns, rows, stack.places[-1] + 1), name, max_bytes)
    failures: dict[int, UserError] = {}
    for number, read in enumerate(slices):
        try:
            pixels = read()
            if pixels.array.shape != stack.shape:
                raise UserError(f"{name}: a slice has another shape than its header claims; leave it out")
            filling.add(stack.places[number], pixels)
        except TooLarge:
            raise
        except UserError as error:
            failures[number] = error
    if 2 * len(failures) > len(slices):
        raise next(iter(failures.values()))
    there = {place for number, place in enumerate(stack.places) if number not in failures}
    return filling.volume(stack.affine, there), failures


class _Filling:
    """A volume that is filled slice by slice: stored numbers while all slices share a scale, values after that."""

    def __init__(self, shape: tuple[int, int, int], name: str, max_bytes: int) -> None:
        self._shape, self._name, self._max_bytes = shape, name, max_bytes
        self._array: np.ndarray | None = None
        self._first: Pixels | None = None
        self._scale = (1.0, 0.0)
        self._in_values = False

    def add(self, number: int, pixels: Pixels) -> None:
        if self._array is None or self._first is None:
            self._first, self._scale = pixels, (pixels.slope, pixels.intercept)
            self._array = self._empty(pixels.array.dtype)
        if self._in_values or self._kind(pixels) != self._kind(self._first):
            self._to_values(number)
            self._array[:, :, number] = _values(pixels.array, pixels.slope, pixels.intercept, pixels.padding).T
        else:
            self._array[:, :, number] = pixels.array.T

    def volume(self, affine: np.ndarray, there: Collection[int]) -> Volume:
        array, first = self._array, self._first
        if array is None or first is None:
            raise UserError(f"{self._name}: no slice of the series can be read; fetch it again")
        gone = [number for number in range(array.shape[2]) if number not in there]
        for number in gone:
            array[:, :, number] = array[:, :, min(there, key=lambda one: abs(one - number))]
        turned, spacing, orientation = canonical(array, affine)
        axis, sign = int(orientation[2][0]), int(orientation[2][1])
        last = array.shape[2] - 1
        places = frozenset((AXES[axis], number if sign > 0 else last - number) for number in gone)
        padding = None if self._in_values else first.padding
        return Volume(turned, spacing, *self._scale, inverted=first.inverted, padding=padding, absent=places)

    def _to_values(self, filled: int) -> None:
        if self._array is None or self._first is None or self._in_values:
            return
        self._in_values = True
        stored, self._array = self._array, self._empty(np.dtype(np.float32))
        for number in range(filled):
            self._array[:, :, number] = _values(stored[:, :, number], *self._scale, self._first.padding)
        self._scale = (1.0, 0.0)

    @staticmethod
    def _kind(pixels: Pixels) -> tuple[object, ...]:
        return pixels.slope, pixels.intercept, pixels.array.dtype, pixels.padding

    def _empty(self, dtype: np.dtype) -> np.ndarray:
        columns, rows, count = self._shape
        if columns * rows * count * dtype.itemsize > self._max_bytes:
            raise TooLarge(f"{self._name}: {columns} x {rows} x {count} voxels are over the limit; leave it out")
        return np.empty(self._shape, dtype, order="F")


def _values(stored: np.ndarray, slope: float, intercept: float, padding: Window | None) -> np.ndarray:
    """Values of stored numbers, NaN for padding."""
    values = (stored * np.float64(slope) + np.float64(intercept)).astype(np.float32)
    if padding is not None:
        values[(stored >= padding[0]) & (stored <= padding[1])] = np.nan
    return values


def over_time(volumes: Sequence[Volume]) -> Volume:
    """Volumes of one place as one with an axis of time: stored numbers where all share their scale, else values."""
    first = volumes[0]
    if len(volumes) == 1:
        return first
    if len({(one.slope, one.intercept, one.array.dtype, one.padding) for one in volumes}) == 1:
        return replace(first, array=np.stack([one.array for one in volumes], axis=3))
    arrays = [_values(one.array, one.slope, one.intercept, one.padding) for one in volumes]
    return replace(first, array=np.stack(arrays, axis=3), slope=1.0, intercept=0.0, padding=None)
