"""DICOM files: one picture for each frame; and a series of files as one volume."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from biovfm_hf.decoding.dicom import HEADER_BYTES, import_pydicom, is_deflated, told
from biovfm_hf.decoding.series import Place, along_normal, position_numbers, read_place
from biovfm_hf.errors import UserError, require
from biovfm_hf.image_files import is_dicom
from biovfm_hf.pixels import Pixels, Volume, decode

from ..limits import (
    MAX_FRAMES,
    MAX_MEMBER_BYTES,
    MAX_PIXELS,
    MAX_SERIES_FILES,
    MAX_VOLUME_BYTES,
    TOO_LARGE,
    UNREADABLE,
    Refused,
)
from .intensity import Setting, image_to_uint8
from .picture import Picture, first_bytes, whole
from .volume import sliced, time_points

_JPEG2000 = ("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91")
_EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
# How far, in steps, a slice may lie from where even distances put it. Tables that report tenths of a millimetre move
# slices 1.25 mm apart by up to 0.08; where one slice is missing, others move by a third or more.
MAX_UNEVENNESS = 0.1
_BETWEEN_WORDS = re.compile(
    r"[\s^=,;:/\\\[\]'\"()]+"
)  # of names: = stands before other scripts, brackets around lists
_TELLING = ("PN", "LO", "SH", "LT", "ST", "UT", "UC", "DA", "DT", "AE", "UI")  # types of elements
_HARMLESS = ("Manufacturer", "ManufacturerModelName", "CodeMeaning", "CodeValue", "CodingSchemeDesignator")
_STANDARD_UID = "1.2.840.10008."


def is_dicom_file(start: bytes, name: str) -> bool:
    """Whether a file is read as DICOM: by its preamble, or without one by its name."""
    return is_dicom(start) or name.lower().endswith((".dcm", ".dicom", ".ima"))


def read(source: Path | bytes, name: str, setting: Setting, size: int) -> Iterator[Picture]:
    """Yield the picture of each frame; `view` is `2d` for a single frame, else `frame`.

    A large JPEG 2000 frame of unsigned grey values is decoded at the reduced resolution nearest above twice `size`.

    Raises:
        UserError, Refused: not an image, damaged, or over the limits.
    """
    if not isinstance(source, bytes):
        _check_size(source)
        source = source.read_bytes()
    with _told(source):
        yield from _frames(source, name, setting, size)


def _frames(source: bytes, name: str, setting: Setting, size: int) -> Iterator[Picture]:
    header = _header(source)
    rows, columns = int(header.get("Rows") or 0), int(header.get("Columns") or 0)
    frames = int(header.get("NumberOfFrames") or 1)
    if frames > MAX_FRAMES:
        raise Refused(TOO_LARGE, f"{frames} frames")
    if frames == 1:
        reduced = _reduced(source, header, size)
        pixels = decode(source if reduced is None else reduced, name=f"{name}.dcm", max_pixels=MAX_PIXELS)
        yield Picture(image_to_uint8(pixels, setting), "2d", None, _spacing(header), columns, rows)
        return
    for frame in range(frames):
        pixels = decode(source, name=f"{name}.dcm", slice_index=frame, max_pixels=MAX_PIXELS)
        yield whole(image_to_uint8(pixels, setting), "frame", frame)


def read_series(
    files: Sequence[Path], name: str, setting: Setting, views: Sequence[str], size: int
) -> Iterator[Picture]:
    """Yield the slices of a series, whose `files` are in slice order, along `views`.

    A series with several files at each position gives a volume for each time point taken, numbered as those of a 4D
    file (see `volume.read`). One that is no volume (one position, slices not evenly spaced, repeated unevenly, or of
    different shapes or planes) gives its files as 2D pictures with the view `frame`.

    Raises:
        UserError, Refused: a file of it is damaged or over MAX_MEMBER_BYTES, or a volume is over MAX_VOLUME_BYTES.
    """
    if len(files) > MAX_SERIES_FILES:
        raise Refused(TOO_LARGE, f"a series of {len(files)} files")
    stack = _stack([_place(file) for file in files])
    if stack is None:
        pictures = (picture for file in files for picture in read(file, name, setting, size))
        for number, picture in enumerate(pictures):
            yield replace(picture, view="frame", index=number)
        return
    for time in time_points(stack.times):
        yield from sliced([_volume(files[time :: stack.times], name, stack)], setting, views, time)


def identity_words(source: Path | bytes) -> set[str] | None:
    """Words of the header that may name a person, a place or a record, in lower case: no stored path may hold them.

    Every text, name, date and identifier of the header counts, in nested sequences too: that is more than the basic
    profile of DICOM PS3.15 (table E.1-1) removes. None where the header cannot be read as far as the image's size,
    which stands behind the names.
    """
    try:
        header = _header(source[: 2**20] if isinstance(source, bytes) else first_bytes(source, 2**20))
        if "Rows" not in header:
            return None
        texts = [str(text).lower() for element in header.iterall() for text in _texts(element)]
    except Exception:  # a header can break pydicom in any way
        return None
    words = {word for text in texts for word in _BETWEEN_WORDS.split(text)}
    return {word for word in words if len(word) >= (3 if word.isascii() else 2)}  # two signs may be a whole name


def _texts(element: Any) -> Sequence[Any]:
    """What an element of the header says in words, as far as it can tell who somebody is."""
    value = element.value
    if element.VR == "UN" and isinstance(value, bytes):  # private elements of files that name no types
        return [value.decode("latin-1").strip("\0 ")]
    if element.VR not in _TELLING or element.keyword in _HARMLESS or not value:
        return []
    values = value if isinstance(value, Sequence) and not isinstance(value, str | bytes) else [value]
    return [one for one in values if not str(one).startswith(_STANDARD_UID)]


def _header(source: bytes) -> Any:
    pydicom = import_pydicom()
    with _told(source):
        is_deflated(pydicom, BytesIO(source), "the file")  # refuses what inflates without end; dcmread does not
        return pydicom.dcmread(BytesIO(source), stop_before_pixels=True, force=True)


def _place(file: Path) -> Place:
    _check_size(file)
    with _told(file):
        return read_place(file)


def _check_size(file: Path) -> None:
    size = file.stat().st_size
    if size > MAX_MEMBER_BYTES:
        raise Refused(TOO_LARGE, f"a DICOM file of {size / 2**20:.0f} MiB")


@contextmanager
def _told(source: Path | bytes) -> Iterator[None]:
    """Have what pydicom raises, on reading a file or a value, told without repeating what stands in its header."""
    try:
        yield
    except (UserError, Refused):
        raise
    except Exception as error:  # pydicom raises nearly every type on damaged files
        start = source if isinstance(source, bytes) else first_bytes(source, HEADER_BYTES)
        raise UserError(f"the file: cannot be read as DICOM ({told(error, start)})") from error


def _spacing(header: Any) -> tuple[float, float]:
    """Relative distance of rows and columns; square where the header tells nothing usable."""
    for tag in ("PixelSpacing", "ImagerPixelSpacing", "PixelAspectRatio"):
        pair = header.get(tag)
        if pair and len(pair) == 2 and all(0 < float(x) < 1e4 for x in pair):
            rows, columns = float(pair[0]), float(pair[1])
            if 0.1 < rows / columns < 10:
                return rows, columns
    return 1.0, 1.0


def _reduced(source: bytes, header: Any, size: int) -> bytes | None:
    """The file with its JPEG 2000 frame replaced by an uncompressed smaller one, None where that is not certain.

    Only unsigned grey values whose precision the code stream and the header agree on: Pillow shifts others.
    """
    pydicom = import_pydicom()
    if header.file_meta.get("TransferSyntaxUID") not in _JPEG2000:
        return None
    rows, columns = int(header.Rows), int(header.Columns)
    levels = (min(rows, columns) // (2 * size)).bit_length() - 1
    grey = str(header.get("PhotometricInterpretation", "")).startswith("MONOCHROME")
    if levels < 1 or not grey or header.get("PixelRepresentation", 0) or header.get("SamplesPerPixel", 1) != 1:
        return None
    dataset = pydicom.dcmread(BytesIO(source))
    stream = pydicom.encaps.get_frame(dataset.PixelData, 0, number_of_frames=1)
    bits = _unsigned_precision(stream, rows, columns)
    if bits is None or bits != header.get("BitsStored") or not 1 <= levels <= 5:
        return None
    image = Image.open(BytesIO(stream), formats=("JPEG2000",))
    if image.mode not in ("L", "I;16"):
        return None
    image.reduce = levels  # type: ignore[method-assign,assignment]  # of JPEG 2000 images: resolutions to discard
    image.load()
    values = np.asarray(image)
    if image.mode == "I;16":
        values = values >> (16 - bits)  # Pillow scales values of fewer bits up to 16
    elif bits < 8:
        values = values >> (8 - bits)
    dataset.PixelData = values.astype("<u2" if header.BitsAllocated == 16 else "u1").tobytes()
    dataset.Rows, dataset.Columns = values.shape
    dataset["PixelData"].VR = "OW" if header.BitsAllocated == 16 else "OB"
    dataset["PixelData"].is_undefined_length = False
    dataset.file_meta.TransferSyntaxUID = _EXPLICIT_LITTLE
    out = BytesIO()
    dataset.save_as(out, enforce_file_format=False)
    return out.getvalue()


def _unsigned_precision(stream: bytes, rows: int, columns: int) -> int | None:
    """Bits per value of a one-component, unsigned JPEG 2000 code stream of the header's size, else None.

    The SIZ segment (ISO/IEC 15444-1 A.5.1): marker, length, capabilities, eight 32-bit sizes, components, depth.
    """
    start = stream.find(b"\xff\x4f\xff\x51", 0, 512)
    if start < 0 or len(stream) < start + 45:
        return None
    sizes = [int.from_bytes(stream[start + 8 + 4 * i : start + 12 + 4 * i], "big") for i in range(4)]
    components = int.from_bytes(stream[start + 40 : start + 42], "big")
    depth = stream[start + 42]
    if components != 1 or depth & 0x80 or (sizes[1] - sizes[3], sizes[0] - sizes[2]) != (rows, columns):
        return None
    return (depth & 0x7F) + 1


class _Stack(NamedTuple):
    """Slices at even distances: rows and columns of each, (4, 4) voxels to RAS+, and how often each is repeated."""

    shape: tuple[int, int]
    affine: np.ndarray
    times: int


def _stack(places: list[Place]) -> _Stack | None:
    """How files in slice order, those of one position next to each other, form volumes; None where they do not."""
    first = places[0]
    if first.shape is None or first.plane is None or first.pitch is None or min(first.pitch) <= 0:
        return None
    distances = [along_normal(place) for place in places if _like(first, place)]
    told = sorted(distance for distance in distances if distance is not None)
    if len(told) < len(places):
        return None
    numbers = position_numbers(told)
    count, times = numbers[-1] + 1, numbers.count(0)
    if count < 2 or numbers != [at // times for at in range(len(numbers))]:
        return None
    positions = np.array([place.position for place in places]).reshape(count, times, 3)
    step = (positions[-1, 0] - positions[0, 0]) / (count - 1)
    even = positions[0, 0] + np.arange(count)[:, None] * step
    off = np.linalg.norm(positions - even[:, None], axis=-1).max()
    if off > MAX_UNEVENNESS * np.linalg.norm(step):
        return None
    return _Stack(first.shape, _affine(first.plane, first.pitch, positions[0, 0], step), times)


def _like(one: Place, other: Place) -> bool:
    """Whether two files have the same shape, directions and pitch, but for rounding."""
    if one.shape != other.shape or other.plane is None or other.pitch is None:
        return False
    numbers = ((*(place.plane or ()), *(place.pitch or ())) for place in (one, other))
    return all(abs(a - b) <= 1e-3 for a, b in zip(*numbers, strict=True))


def _volume(files: Sequence[Path], name: str, stack: _Stack) -> Volume:
    """The files, one for each position, as a RAS+ volume of rescaled values."""
    nibabel = require("nibabel", "data")
    rows, columns = stack.shape
    if rows * columns * len(files) * 2 > MAX_VOLUME_BYTES:
        raise Refused(TOO_LARGE, f"{columns} x {rows} x {len(files)} voxels")
    array = np.empty((columns, rows, len(files)), dtype=np.int16, order="F")
    for number, file in enumerate(files):
        _check_size(file)
        pixels = decode(file, name=f"{name}.dcm", max_pixels=MAX_PIXELS)
        if pixels.array.shape != stack.shape:
            raise Refused(UNREADABLE, "a slice has another shape than its header claims")
        array[:, :, number] = _values(pixels).T
    image = nibabel.as_closest_canonical(nibabel.Nifti1Image(array, stack.affine))
    x, y, z = (float(mm) for mm in nibabel.affines.voxel_sizes(image.affine))
    return Volume(np.asanyarray(image.dataobj), (x, y, z))


def _values(pixels: Pixels) -> np.ndarray:
    """Rescaled values as int16: each slice may have a slope of its own (PET), so stored numbers cannot be mixed."""
    values = pixels.array * np.float32(pixels.slope) + np.float32(pixels.intercept)
    if pixels.inverted:
        values = -values
    return np.clip(np.rint(values), -32768, 32767).astype(np.int16)


def _affine(plane: Sequence[float], pitch: Sequence[float], first: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Voxel indices (column, row, slice) to RAS+ millimetres (DICOM PS3.3 C.7.6.2.1.1; DICOM counts to the left)."""
    affine = np.eye(4)
    affine[:3, 0] = np.array(plane[:3]) * pitch[1]
    affine[:3, 1] = np.array(plane[3:]) * pitch[0]
    affine[:3, 2] = step
    affine[:3, 3] = first
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
