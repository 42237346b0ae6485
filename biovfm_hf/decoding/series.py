"""Sorts DICOM slices into series and volumes: grouped by series, ordered by position, stacked if evenly spaced."""

import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from io import BytesIO
from itertools import pairwise
from math import isfinite
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from ..errors import TooLarge, UserError
from ..intensity import Pixels, Window
from ..volumes import AXES, Volume, canonical
from .content import GZIP, NO_PICTURE, unpacked_start
from .dicom_header import import_pydicom, is_grey, is_mosaic, no_picture, seek_deflated

TAGS = [
    "ImageType", "SOPClassUID", "SOPInstanceUID", "AcquisitionTime", "Modality", "SeriesInstanceUID", "InstanceNumber",
    "ImagePositionPatient", "ImageOrientationPatient", "TemporalPositionIdentifier", "SamplesPerPixel",
    "PhotometricInterpretation", "NumberOfFrames", "Rows", "Columns", "PixelSpacing",  # the last in a file
]  # fmt: skip
MAX_HEADER_BYTES = 1 << 22  # read from each file, up to PixelSpacing; scanners' private elements take some 100 KiB
_MAX_INFLATED = 1 << 21  # of a deflated header, which zlib holds twice for a moment
COPY = "a copy of another file of its series"
NOT_DICOM = "not a readable DICOM file"
SAME_POSITION = 0.01  # mm: files of one position may round it differently; real slices are never that close
# How far, in steps, a slice may lie from where even distances put it. Tables that report tenths of a millimetre move
# slices 1.25 mm apart by up to 0.08; where one slice is missing, others move by a third or more.
MAX_UNEVENNESS = 0.1
# Share of a stack's slices that may be missing, no two of them neighbours. A damaged file counts as missing, and so
# does one of another shape.
MAX_MISSING = 0.1

Open = Callable[[], AbstractContextManager[BinaryIO]]


class Place(NamedTuple):
    """Position of a slice in its series and time of acquisition, as far as its header states them.

    Attributes:
        series: the SeriesInstanceUID, None if not stated.
        position: centre of the first pixel in millimetres (x, y, z), None if not stated.
        plane: direction cosines of a row and of a column, six numbers; None if not stated.
        pitch: millimetres between rows and between columns, None if not stated.
        shape: rows and columns of one grey image, None for a file of another kind.
        moment: temporal position, instance number and time of acquisition, which order files of one position.
        instance: the SOPInstanceUID.
        no_picture: why the file holds no picture, None if it holds one.
        mosaic: whether the one image holds all slices of a volume, as Siemens stores time series.
    """

    series: str | None
    position: tuple[float, ...] | None
    plane: tuple[float, ...] | None
    pitch: tuple[float, ...] | None
    shape: tuple[int, int] | None
    moment: tuple[int, int, str] = (0, 0, "")
    instance: str | None = None
    no_picture: str | None = None
    mosaic: bool = False


class Stack(NamedTuple):
    """Evenly spaced slices, of which a few may be missing.

    Attributes:
        shape: rows and columns of each.
        affine: (4, 4) voxels to RAS+.
        times: how often each is repeated.
        places: number along the stack of each slice that exists, ascending from 0; the last exists.
    """

    shape: tuple[int, int]
    affine: np.ndarray
    times: int
    places: tuple[int, ...]


def group_series(places: Iterable[tuple[str, Place | None]]) -> tuple[list[list[str]], dict[str, str]]:
    """Group files by series, each in slice order, the series in a fixed order; and why other files belong to none.

    Slices are ordered along the normal of their plane if all state their position, else by time. Slices of one
    position are ordered by TemporalPositionIdentifier, InstanceNumber, then AcquisitionTime (it may pass midnight). A
    scout of another plane and a second file of one position form a series of their own, so that the volume is not
    lost. Files that state no series count as one if they form a stack; otherwise each is a series of its own. Series
    and their order depend on the file names and headers only; no header value is returned.

    Args:
        places: the name of each file and its place, as `read_places` yields them.
    """
    slices: dict[str | None, list[tuple[str, Place]]] = defaultdict(list)
    left_out: dict[str, str] = {}
    for name, place in places:
        if place is None:
            left_out[name] = NOT_DICOM
        elif place.no_picture is not None:
            left_out[name] = NO_PICTURE
        else:
            slices[place.series].append((name, place))
    series = []
    for uid, group in slices.items():
        kept, copies = _without_copies(group)
        left_out |= dict.fromkeys(copies, COPY)
        alone = uid is None and not _is_stack(kept)
        series += [[name] for name, _ in kept] if alone else [_ordered(part) for part in _parts(kept)]
    return sorted(series, key=min), left_out


def read_places(files: Iterable[tuple[str, Open]]) -> Iterator[tuple[str, Place | None]]:
    """Yield the name of each file and its place; None if it is not readable as DICOM."""
    for name, opened in files:
        try:
            with opened() as file:
                place = read_place(file)
            yield name, place
        except Exception:  # a header can break pydicom in any way; the file is reported, the other files are read
            yield name, None


def read_place(file: BinaryIO) -> Place:
    """Read the place of one file, which may be packed by gzip, from its header, without its pixels.

    Raises:
        ValueError: its header is over MAX_HEADER_BYTES, or states neither an object's class nor an image's size.
        Exception: of nearly any type, from pydicom: not DICOM, or damaged.
    """
    pydicom = import_pydicom()
    if file.read(2) == GZIP:
        file = BytesIO(unpacked_start(file, MAX_HEADER_BYTES))
    file.seek(0)
    tags = [pydicom.tag.Tag(tag) for tag in TAGS]
    limits = {"stop_when": lambda tag, vr, length: tag > tags[-1], "specific_tags": tags}
    try:
        header = pydicom.filereader.read_partial(_Beginning(file), force=True, **limits)
    except _WholeFileError:  # pydicom inflates without a bound
        file.seek(0)
        header = pydicom.filereader.read_dataset(_inflated(pydicom, file), False, True, **limits)
    if "SOPClassUID" not in header and "Rows" not in header:
        raise ValueError("is not a DICOM file")
    return _place(header)


def _place(header: Any) -> Place:
    uid = header.get("SeriesInstanceUID")
    mosaic = is_mosaic(header)
    single = int(header.get("NumberOfFrames") or 1) == 1 and not mosaic
    return Place(
        str(uid) if uid else None,
        numbers(header.get("ImagePositionPatient"), 3),
        numbers(header.get("ImageOrientationPatient"), 6),
        numbers(header.get("PixelSpacing"), 2),
        (int(header.get("Rows") or 0), int(header.get("Columns") or 0)) if single and is_grey(header) else None,
        (
            int(header.get("TemporalPositionIdentifier") or 0),
            int(header.get("InstanceNumber") or 0),
            str(header.get("AcquisitionTime") or ""),
        ),
        str(header.get("SOPInstanceUID") or "") or None,
        no_picture(header) or (None if header.get("Rows") and header.get("Columns") else "an object without pixels"),
        mosaic,
    )


def stack_of(places: Sequence[Place]) -> Stack | None:
    """How ordered slices, those of one position next to each other, form volumes; None if they do not."""
    first = places[0]
    if first.shape is None or first.plane is None or first.pitch is None or min(first.pitch) <= 0:
        return None
    distances = [along_normal(place) for place in places if _alike(first, place)]
    known = sorted(distance for distance in distances if distance is not None)
    if len(known) < len(places):
        return None
    positions_of = position_numbers(known)
    count, times = positions_of[-1] + 1, positions_of.count(0)
    if count < 2 or positions_of != [at // times for at in range(len(positions_of))]:
        return None
    positions = np.array([place.position for place in places]).reshape(count, times, 3)
    numbered = _places(known[::times])
    if numbered is None:
        return None
    step = (positions[-1, 0] - positions[0, 0]) / numbered[-1]
    even = positions[0, 0] + np.array(numbered)[:, None] * step
    off = np.linalg.norm(positions - even[:, None], axis=-1).max()
    if off > MAX_UNEVENNESS * np.linalg.norm(step):
        return None
    return Stack(first.shape, plane_affine(first.plane, first.pitch, positions[0, 0], step), times, numbered)


def _places(distances: Sequence[float]) -> tuple[int, ...] | None:
    """Number ascending distances along an evenly spaced stack; None if more than MAX_MISSING slices are missing."""
    steps = np.diff(distances)
    gaps = np.maximum(np.rint(steps / np.median(steps)), 1).astype(int)
    numbered = (0, *np.cumsum(gaps).tolist())
    missing = numbered[-1] + 1 - len(distances)
    return numbered if gaps.max() <= 2 and missing <= MAX_MISSING * (numbered[-1] + 1) else None


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


def along_normal(place: Place) -> float | None:
    """Millimetres from the origin along the normal of the slice's plane, None if not stated."""
    if place.position is None or place.plane is None:
        return None
    return float(np.dot(normal(place.plane), place.position))


def normal(plane: Sequence[float]) -> tuple[float, float, float]:
    """The normal of a plane, from six direction cosines."""
    a, b, c, d, e, f = plane
    return b * f - c * e, c * d - a * f, a * e - b * d


def position_numbers(distances: Sequence[float]) -> list[int]:
    """The number of each slice's position, from 0; `distances` along the normal are ascending, one or more.

    Slices share a position if they differ by at most SAME_POSITION, or less in a stack of thinner slices.
    """
    tolerance = min(SAME_POSITION, (distances[-1] - distances[0]) / len(distances) / 10)
    numbers = [0]
    for before, after in pairwise(distances):
        numbers.append(numbers[-1] + (after - before > tolerance))
    return numbers


def plane_affine(plane: Sequence[float], pitch: Sequence[float], first: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Voxel indices (column, row, slice) to RAS+ millimetres (DICOM PS3.3 C.7.6.2.1.1; DICOM counts to the left)."""
    affine = np.eye(4)
    affine[:3, 0] = np.array(plane[:3]) * pitch[1]
    affine[:3, 1] = np.array(plane[3:]) * pitch[0]
    affine[:3, 2] = step
    affine[:3, 3] = first
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def numbers(value: Any, count: int) -> tuple[float, ...] | None:
    """A header's value as `count` finite numbers, else None."""
    values = tuple(map(float, value)) if value is not None and hasattr(value, "__len__") else ()
    return values if len(values) == count and all(map(isfinite, values)) else None


def _without_copies(group: list[tuple[str, Place]]) -> tuple[list[tuple[str, Place]], list[str]]:
    """The files of a series without repeats of an earlier file's identifier, place and moment."""
    kept: dict[Any, tuple[str, Place]] = {}
    copies = []
    for name, place in sorted(group, key=lambda entry: entry[0]):
        key = (place.instance or name, place.position, place.moment)
        if key in kept:
            copies.append(name)
        else:
            kept[key] = (name, place)
    return list(kept.values()), copies


def _parts(group: list[tuple[str, Place]]) -> Iterator[list[tuple[str, Place]]]:
    """The files of the commonest plane, without second files of a position; then the remaining files."""
    kinds: list[list[tuple[str, Place]]] = []
    for entry in group:
        kind = next((kind for kind in kinds if _alike(kind[0][1], entry[1])), None)
        if kind is None and len(kinds) < 16:  # a scout or two, but not a radial scan with a plane for each slice
            kinds.append([entry])
        elif kind is not None:
            kind.append(entry)
    largest = max(kinds, key=len)
    if 2 * len(largest) > len(group):
        largest = _evenly_repeated(largest)
    if len(largest) == len(group) or not _is_stack(largest):
        yield group
        return
    yield largest
    names = {name for name, _ in largest}
    yield [entry for entry in group if entry[0] not in names]


def _evenly_repeated(group: list[tuple[str, Place]]) -> list[tuple[str, Place]]:
    """The files of a plane, each position with no more files than most positions have."""
    order = _sorted(group)
    distances = [along_normal(place) for _, place in order]
    known = [distance for distance in distances if distance is not None]
    if len(known) < len(order):
        return group
    at = position_numbers(known)
    usual = Counter(Counter(at).values()).most_common(1)[0][0]
    seen: Counter[int] = Counter()
    kept = []
    for entry, number in zip(order, at, strict=True):
        seen[number] += 1
        if seen[number] <= usual:
            kept.append(entry)
    return kept


def _is_stack(group: list[tuple[str, Place]]) -> bool:
    return stack_of([place for _, place in _sorted(group)]) is not None


def _alike(one: Place, other: Place) -> bool:
    """Whether two slices have the same shape, directions and pitch, apart from rounding."""
    if one.shape != other.shape or (one.plane is None) != (other.plane is None):
        return False
    if (one.pitch is None) != (other.pitch is None):
        return False
    pairs = zip((*(one.plane or ()), *(one.pitch or ())), (*(other.plane or ()), *(other.pitch or ())), strict=True)
    return all(abs(a - b) <= 1e-3 for a, b in pairs)


def _ordered(group: list[tuple[str, Place]]) -> list[str]:
    return [name for name, _ in _sorted(group)]


def _sorted(group: list[tuple[str, Place]]) -> list[tuple[str, Place]]:
    by_time = sorted(group, key=lambda entry: (entry[1].moment, entry[0]))
    return [by_time[number] for number in slice_order([place for _, place in by_time])]


def slice_order(places: Sequence[Place]) -> list[int]:
    """The numbers of slices along the normal of their plane, those of one position in their own order.

    If the position of a slice is unknown, all slices keep their order.
    """
    known = [distance for place in places if (distance := along_normal(place)) is not None]
    if len(known) < len(places) or not known:
        return list(range(len(places)))
    order = sorted(range(len(known)), key=known.__getitem__)
    at = position_numbers([known[number] for number in order])
    return [number for _, number in sorted(zip(at, order, strict=True))]


def _inflated(pydicom: Any, file: BinaryIO) -> "_Beginning":
    """The beginning of a deflated data set, inflated."""
    if not seek_deflated(pydicom, file):
        raise ValueError("its header has no end")
    data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(file.read(_MAX_INFLATED), _MAX_INFLATED)
    return _Beginning(BytesIO(data))


class _WholeFileError(ValueError):
    """pydicom asked for all the rest of a file."""


class _Beginning:
    """A file cut after MAX_HEADER_BYTES: pydicom would load an element of any claimed length."""

    name = "the file"

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.tell, self.seek = file.tell, file.seek

    def read(self, size: int = -1) -> bytes:
        if size < 0:
            raise _WholeFileError
        if self.tell() + size > MAX_HEADER_BYTES:
            raise ValueError(f"its header takes more than {MAX_HEADER_BYTES >> 20} MiB")
        return self._file.read(size)
