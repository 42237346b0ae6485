"""DICOM files: one picture for each frame; and a series of files as one volume."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from biovfm_hf.dicom import HEADER_BYTES, import_pydicom, told
from biovfm_hf.errors import UserError, require
from biovfm_hf.pixels import Pixels, Volume, decode

from ..intensity import Setting, image_to_uint8
from ..limits import (
    MAX_FRAMES,
    MAX_MEMBER_BYTES,
    MAX_PIXELS,
    MAX_SERIES_FILES,
    MAX_VOLUME_BYTES,
    TOO_LARGE,
    Refused,
)
from .picture import Picture, first_bytes, whole
from .volume import sliced

_JPEG2000 = ("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91")
_EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
_IDENTITY = (
    "PatientName", "PatientID", "PatientBirthDate", "OtherPatientIDs", "OtherPatientNames", "AccessionNumber",
)  # fmt: skip


def is_dicom(start: bytes) -> bool:
    """Whether a file that begins with `start` (132 bytes or more) is DICOM with its preamble."""
    return start[128:132] == b"DICM"


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
        if source.stat().st_size > MAX_MEMBER_BYTES:
            raise Refused(TOO_LARGE, f"a DICOM file of {source.stat().st_size / 2**20:.0f} MiB")
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

    A series that is no volume (one slice, slices of different shapes, no positions) gives its files as 2D pictures
    with the view `axial` where they are parallel to that plane, else as `2d`.

    Raises:
        UserError, Refused: a file of it is damaged, or all of it is over MAX_VOLUME_BYTES.
    """
    if len(files) > MAX_SERIES_FILES:
        raise Refused(TOO_LARGE, f"a series of {len(files)} files")
    with _told(*(_start(file) for file in (files[0], files[-1]))):
        volume = _stacked(files, name)
    if volume is None:
        for number, file in enumerate(files):
            for picture in read(file, name, setting, size):
                yield replace(picture, view="frame", index=number)
        return
    yield from sliced([volume], setting, views)


def identity_words(source: Path | bytes) -> set[str] | None:
    """Words of the header that name a person or record, in lower case: what must not stand in a stored path.

    None where the header cannot be read as far as the image's size, which stands behind them.
    """
    try:
        header = _header(source[: 2**20] if isinstance(source, bytes) else first_bytes(source, 2**20))
    except UserError:
        return None
    if "Rows" not in header:
        return None
    words = set()
    for tag in _IDENTITY:
        for value in str(header.get(tag) or "").replace("^", " ").replace(",", " ").split():
            words.add(value.lower())
    return {word for word in words if len(word) >= 3}


def _header(source: bytes) -> Any:
    with _told(source):
        return import_pydicom().dcmread(BytesIO(source), stop_before_pixels=True, force=True)


def _start(file: Path) -> bytes:
    with file.open("rb") as stream:
        return stream.read(HEADER_BYTES)


@contextmanager
def _told(*starts: bytes) -> Iterator[None]:
    """Have what pydicom raises, on reading a file or a value, told without repeating what stands in its header."""
    try:
        yield
    except (UserError, Refused):
        raise
    except Exception as error:  # pydicom raises nearly every type on damaged files
        raise UserError(f"the file: cannot be read as DICOM ({told(error, *starts)})") from error


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


def _stacked(files: Sequence[Path], name: str) -> Volume | None:
    """The files as one RAS+ volume of rescaled values, None where they do not form one."""
    nibabel = require("nibabel", "data")
    headers = [_header(file.read_bytes()[: 2**22]) for file in (files[0], files[-1])]
    positions = [header.get("ImagePositionPatient") for header in headers]
    plane, pitch = headers[0].get("ImageOrientationPatient"), headers[0].get("PixelSpacing")
    if len(files) < 2 or any(p is None or len(p) != 3 for p in positions) or not plane or not pitch:
        return None
    rows, columns = int(headers[0].Rows), int(headers[0].Columns)
    if rows * columns * len(files) * 2 > MAX_VOLUME_BYTES:
        raise Refused(TOO_LARGE, f"{columns} x {rows} x {len(files)} voxels")
    array: np.ndarray | None = None
    for number, file in enumerate(files):
        pixels = decode(file, name=f"{name}.dcm", max_pixels=MAX_PIXELS)
        if pixels.array.shape != (rows, columns):
            return None
        if array is None:
            array = np.empty((columns, rows, len(files)), dtype=np.int16, order="F")
        array[:, :, number] = _values(pixels).T
    assert array is not None
    image = nibabel.as_closest_canonical(nibabel.Nifti1Image(array, _affine(plane, pitch, positions, len(files))))
    x, y, z = (float(mm) for mm in nibabel.affines.voxel_sizes(image.affine))
    return Volume(np.asanyarray(image.dataobj), (x, y, z))


def _values(pixels: Pixels) -> np.ndarray:
    """Rescaled values as int16: each slice may have a slope of its own (PET), so stored numbers cannot be mixed."""
    values = pixels.array * np.float32(pixels.slope) + np.float32(pixels.intercept)
    if pixels.inverted:
        values = -values
    return np.clip(np.rint(values), -32768, 32767).astype(np.int16)


def _affine(plane: Any, pitch: Any, positions: list[Any], count: int) -> np.ndarray:
    """Voxel indices (column, row, slice) to RAS+ millimetres (DICOM PS3.3 C.7.6.2.1.1; DICOM counts to the left)."""
    along_row, along_column = np.array(plane[:3], float), np.array(plane[3:], float)
    first, last = (np.array(position, float) for position in positions)
    step = (last - first) / (count - 1)
    if np.linalg.norm(step) < 1e-6:  # positions that do not move: assume millimetre slices along the normal
        step = np.cross(along_row, along_column)
    affine = np.eye(4)
    affine[:3, 0] = along_row * float(pitch[1])
    affine[:3, 1] = along_column * float(pitch[0])
    affine[:3, 2] = step
    affine[:3, 3] = first
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
