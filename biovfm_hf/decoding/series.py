"""A folder of DICOM slices as series: grouped by SeriesInstanceUID, ordered by position, with nothing else kept."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from io import BufferedReader, FileIO
from itertools import pairwise
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

from .dicom import import_pydicom

TAGS = [
    "AcquisitionTime", "SeriesInstanceUID", "InstanceNumber", "ImagePositionPatient", "ImageOrientationPatient",
    "TemporalPositionIdentifier", "SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames", "Rows", "Columns",
    "PixelSpacing",  # the last in a file
]  # fmt: skip
MAX_HEADER_BYTES = 1 << 22  # of a file, up to PixelSpacing; private elements of scanners take some 100 KiB
_PALETTE = "PALETTE COLOR"
SAME_POSITION = 0.01  # mm: files of one position may round it differently; no slices of a patient lie that close


class Place(NamedTuple):
    """Where a file lies in its series, and when it was taken, as far as its header tells.

    Attributes:
        series: the SeriesInstanceUID, None if not told.
        position: centre of the first pixel in millimetres (x, y, z), None if not told.
        plane: direction cosines of a row and of a column, six numbers; None if not told.
        pitch: millimetres between rows and between columns, None if not told.
        shape: rows and columns of one grey image, None for a file of another kind.
        moment: temporal position, instance number and time of acquisition: what orders files of one position.
    """

    series: str | None
    position: tuple[float, ...] | None
    plane: tuple[float, ...] | None
    pitch: tuple[float, ...] | None
    shape: tuple[int, int] | None
    moment: tuple[int, int, str]


def group_series(folder: Path, names: Iterable[str]) -> tuple[list[list[str]], list[str]]:
    """Names of `folder` as series, each in slice order, the series in a fixed order; and the names that are no DICOM.

    Slices are ordered along the normal of their plane where all tell their position, else by time; those of one
    position by time: TemporalPositionIdentifier, then InstanceNumber, then AcquisitionTime, which passes midnight.
    Series and their order depend on the file names and headers only; no header value is returned.
    """
    slices: dict[str, list[tuple[str, Place]]] = defaultdict(list)
    unreadable = []
    for name in names:
        try:
            place = read_place(folder / name)
            if place.series is None:
                raise ValueError("it is of no series")
        except Exception:  # a header can break pydicom in any way; the file is reported, the rest goes on
            unreadable.append(name)
            continue
        slices[str(place.series)].append((name, place))
    return sorted((_ordered(group) for group in slices.values()), key=min), unreadable


def read_place(file: Path) -> Place:
    """What the header of one file says of its place, read without its pixels.

    Raises:
        ValueError: its header is over MAX_HEADER_BYTES, or deflated, which pydicom would inflate without a bound.
        Exception: of nearly any type, from pydicom: no DICOM, or damaged.
    """
    pydicom = import_pydicom()
    tags = [pydicom.tag.Tag(tag) for tag in TAGS]
    with _Beginning(FileIO(file)) as stream:
        header = pydicom.filereader.read_partial(
            stream, stop_when=lambda tag, vr, length: tag > tags[-1], specific_tags=tags
        )
        uid = header.get("SeriesInstanceUID")
        grey = int(header.get("SamplesPerPixel") or 1) == 1 and header.get("PhotometricInterpretation") != _PALETTE
        single = int(header.get("NumberOfFrames") or 1) == 1
        return Place(
            None if uid is None else str(uid),
            _numbers(header.get("ImagePositionPatient"), 3),
            _numbers(header.get("ImageOrientationPatient"), 6),
            _numbers(header.get("PixelSpacing"), 2),
            (int(header.get("Rows") or 0), int(header.get("Columns") or 0)) if grey and single else None,
            (
                int(header.get("TemporalPositionIdentifier") or 0),
                int(header.get("InstanceNumber") or 0),
                str(header.get("AcquisitionTime") or ""),
            ),
        )


def along_normal(place: Place) -> float | None:
    """Millimetres from the origin along the normal of the file's plane, None if not told."""
    if place.position is None or place.plane is None:
        return None
    a, b, c, d, e, f = place.plane
    normal = (b * f - c * e, c * d - a * f, a * e - b * d)
    return sum(n * p for n, p in zip(normal, place.position, strict=True))


def position_numbers(distances: Sequence[float]) -> list[int]:
    """The number of each file's position, from 0; `distances` along the normal are ascending, one or more.

    Files are at one position where they differ by SAME_POSITION at most, or less in a stack of thinner slices.
    """
    tolerance = min(SAME_POSITION, (distances[-1] - distances[0]) / len(distances) / 10)
    numbers = [0]
    for before, after in pairwise(distances):
        numbers.append(numbers[-1] + (after - before > tolerance))
    return numbers


def _ordered(group: list[tuple[str, Place]]) -> list[str]:
    by_time = sorted(group, key=lambda entry: (entry[1].moment, entry[0]))
    distances = [along_normal(place) for _, place in by_time]
    told = [distance for distance in distances if distance is not None]
    if len(told) < len(distances):
        return [name for name, _ in by_time]
    order = sorted(range(len(told)), key=told.__getitem__)
    numbers = position_numbers([told[at] for at in order])
    return [by_time[at][0] for _, at in sorted(zip(numbers, order, strict=True))]


def _numbers(value: Any, count: int) -> tuple[float, ...] | None:
    numbers = tuple(map(float, value)) if value is not None and hasattr(value, "__len__") else ()
    return numbers if len(numbers) == count and all(map(isfinite, numbers)) else None


class _Beginning(BufferedReader):
    """A file that gives its first MAX_HEADER_BYTES: pydicom would hold an element of any length that it claims."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0 or self.tell() + size > MAX_HEADER_BYTES:
            raise ValueError(f"its header takes more than {MAX_HEADER_BYTES >> 20} MiB, or is deflated")
        return super().read(size)
