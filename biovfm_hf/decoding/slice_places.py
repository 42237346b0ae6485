"""Where a DICOM slice lies: its series, position and plane, read from its header without its pixels."""

import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from io import BytesIO
from math import isfinite
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from .content import GZIP, unpacked_start
from .dicom_header import import_pydicom, is_grey, is_mosaic, no_picture, seek_deflated

TAGS = [
    "ImageType", "SOPClassUID", "SOPInstanceUID", "AcquisitionTime", "Modality", "SeriesInstanceUID", "InstanceNumber",
    "ImagePositionPatient", "ImageOrientationPatient", "TemporalPositionIdentifier", "SamplesPerPixel",
    "PhotometricInterpretation", "NumberOfFrames", "Rows", "Columns", "PixelSpacing",  # the last in a file
]  # fmt: skip
MAX_HEADER_BYTES = 1 << 22  # read from each file, up to PixelSpacing; scanners' private elements take some 100 KiB
_MAX_INFLATED = 1 << 21  # of a deflated header, which zlib holds twice for a moment
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


def along_normal(place: Place) -> float | None:
    """Millimetres from the origin along the normal of the slice's plane, None if not stated."""
    if place.position is None or place.plane is None:
        return None
    return float(np.dot(normal(place.plane), place.position))


def normal(plane: Sequence[float]) -> tuple[float, float, float]:
    """The normal of a plane, from six direction cosines."""
    a, b, c, d, e, f = plane
    return b * f - c * e, c * d - a * f, a * e - b * d


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
