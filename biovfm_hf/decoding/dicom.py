"""DICOM pixel data to `Pixels`: one frame, its rescale, window and polarity; no patient data leaves this file."""

import logging
import re
import warnings
import zlib
from dataclasses import replace
from functools import cache
from typing import Any, BinaryIO

import numpy as np

from ..errors import UserError, one_line, require
from ..intensity import Pixels, Window

_DEFLATED = "1.2.840.10008.1.2.1.99"
_JPEG_FAMILY = "1.2.840.10008.1.2.4."
_MAX_INFLATED_BYTES = 1 << 30
HEADER_BYTES = 1 << 16
_PIXEL_DATA = (b"\xe0\x7f\x10\x00", b"\x7f\xe0\x00\x10")  # its tag in either byte order


def read_dicom(file: BinaryIO, name: str, frame: int | None, max_pixels: int) -> Pixels:
    """Decode one frame of an open DICOM file.

    Args:
        file: open binary file at its start.
        name: what messages call it.
        frame: which frame, from 0; may be None where there is one.
        max_pixels: most pixels (rows x columns) the header may claim.

    Raises:
        UserError: no pixel data, an absent frame or decoder, a claimed size over the limit, damaged data.
    """
    pydicom = import_pydicom()
    start = file.tell()
    try:
        dataset = pydicom.dcmread(file, force=True, stop_before_pixels=not is_deflated(pydicom, file, name))
        frame = _checked_frame(dataset, name, frame, max_pixels)
        if dataset.file_meta.get("TransferSyntaxUID", "").startswith(_JPEG_FAMILY):
            _check_stream(pydicom, dataset, file, frame, name, max_pixels)
        file.seek(start)
        array = _decoded(pydicom, dataset, file, frame)
        if not array.dtype.isnative:
            array = array.astype(array.dtype.newbyteorder("="))
        return replace(_values(pydicom, dataset, array, frame), spacing=_spacing(dataset, frame))
    except UserError:
        raise
    except Exception as error:  # pydicom and its decoders raise nearly every type on damaged files
        if "missing dependencies" in str(error):
            raise UserError(
                f"{name}: no installed decoder reads its compression ({one_line(error)}); "
                "get more with: pip install 'biovfm-hf[data]'"
            ) from error
        file.seek(start)
        reason = told(error, file.read(HEADER_BYTES))
        raise UserError(f"{name}: cannot be read as DICOM ({reason}); check or fetch the file again") from error


def import_pydicom() -> Any:
    """pydicom without its warnings, printed or logged: of damaged headers they repeat what stands there."""
    pydicom = require("pydicom", "data")
    _silence()
    return pydicom


@cache
def _silence() -> None:
    warnings.filterwarnings("ignore", module="pydicom")
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)


def told(error: Exception, start: bytes) -> str:
    """A decoder's message, cut before the first word that also stands in the header, where it may be a patient's name.

    Args:
        error: as pydicom raised it; it may quote a value, such as text where a number is expected.
        start: the first bytes of the file.
    """
    if _DEFLATED.encode() in start:  # what stands there cannot be seen
        return type(error).__name__
    ends = [end for tag in _PIXEL_DATA if (end := start.find(tag)) > 0]
    header = start[: min(ends, default=HEADER_BYTES)].lower()
    header_words = set(re.findall(rb"\w+", header))
    message = re.sub(r"\\x[0-9a-f]{2}|\\[nrt]", " ", str(error))
    kept = []
    for word in message.split():
        tokens = [token.encode() for token in re.findall(r"\w{2,}", word.lower())]
        quoted = "'" in word or '"' in word  # as values are, whole or in part; outside of quotes "of" is just "of"
        found = any(token in header if quoted else len(token) > 2 and token in header_words for token in tokens)
        if found or not word.isascii():
            kept.append("...")
            break
        kept.append(word)
    return " ".join(kept)[:300] if kept not in ([], ["..."]) else type(error).__name__


def is_deflated(pydicom: Any, file: BinaryIO, name: str) -> bool:
    """Tell whether the data set is deflated; refuse one that inflates beyond any image, as pydicom sets no bound."""
    start = file.tell()
    file.seek(start + 128)
    deflated = False
    if file.read(4) == b"DICM":  # only the meta group is read here: dcmread would inflate what follows at once
        meta = pydicom.filereader.read_dataset(file, False, True, stop_when=lambda tag, vr, length: tag >> 16 != 2)
        deflated = meta.get("TransferSyntaxUID") == _DEFLATED
    if deflated:
        file.seek(start + 132 + 12 + int(meta.FileMetaInformationGroupLength))
        inflater, total = zlib.decompressobj(-zlib.MAX_WBITS), 0
        while not inflater.eof and (block := file.read(1 << 16)):  # behind its end stands a pad byte (PS3.5 A.5)
            while block and not inflater.eof and total <= _MAX_INFLATED_BYTES:
                total += len(inflater.decompress(block, 1 << 24))
                block = inflater.unconsumed_tail
            if total > _MAX_INFLATED_BYTES:
                raise UserError(f"{name}: inflates to over 1 GiB; it is damaged or hostile, leave it out")
    file.seek(start)
    return deflated


def _checked_frame(dataset: Any, name: str, frame: int | None, max_pixels: int) -> int:
    if not dataset.get("Rows") or not dataset.get("Columns"):
        raise UserError(f"{name}: is DICOM without an image (or not DICOM); leave it out")
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    if not 0 < rows * columns <= max_pixels:
        raise UserError(f"{name}: claims {columns} x {rows} pixels, limit {max_pixels}; check it, or raise max_pixels")
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frame is None and frames > 1:
        raise UserError(f"{name}: holds {frames} frames; choose one with slice_index=0 to {frames - 1}")
    if not 0 <= (frame or 0) < frames:
        raise UserError(f"{name}: has no frame {frame}; choose slice_index=0 to {frames - 1}")
    return frame or 0


def _check_stream(pydicom: Any, dataset: Any, file: BinaryIO, frame: int, name: str, max_pixels: int) -> None:
    """Refuse a compressed frame that claims too many pixels: decoders allocate what it claims, not the header.

    The file stands at its pixel data element: tag, value representation and length take 12 bytes.
    """
    file.seek(12, 1)
    try:
        stream = pydicom.encaps.get_frame(file, frame, number_of_frames=int(dataset.get("NumberOfFrames") or 1))
    except Exception:  # what is wrong with it shows when it is decoded
        return
    claimed = _stream_pixels(stream)
    if claimed > max_pixels:
        raise UserError(f"{name}: its compressed frame claims {claimed} pixels, limit {max_pixels}; leave it out")


def _stream_pixels(stream: bytes) -> int:
    """Return height x width (x components / 3) that a JPEG, JPEG-LS or JPEG 2000 stream claims; 0: none found.

    JPEG: the frame header, ISO/IEC 10918-1 B.2.2. JPEG 2000: the SIZ segment, ISO/IEC 15444-1 A.5.1.
    """
    place = stream.find(b"\xff\x4f\xff\x51", 0, 4096)
    if place >= 0 and len(stream) >= place + 42:
        width, height, left, top = (int.from_bytes(stream[place + n : place + n + 4]) for n in (8, 12, 16, 20))
        return (width - left) * (height - top) * max(1, int.from_bytes(stream[place + 40 : place + 42]) // 3)
    place = 2
    while stream[:2] == b"\xff\xd8" and place + 10 <= len(stream) and stream[place] == 0xFF:
        marker = stream[place + 1]
        if (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)) or marker == 0xF7:
            return int.from_bytes(stream[place + 5 : place + 7]) * int.from_bytes(stream[place + 7 : place + 9])
        place += 1 if marker == 0xFF else 2 + int.from_bytes(stream[place + 2 : place + 4])
    return 0


def _decoded(pydicom: Any, dataset: Any, file: BinaryIO, frame: int) -> np.ndarray:
    """Decode one frame, reading no more of the file than that where the file allows it."""
    start = file.tell()
    if dataset.file_meta.get("TransferSyntaxUID") not in (None, _DEFLATED):
        try:
            return pydicom.pixels.pixel_array(file, index=frame)
        except Exception:  # some files are only understood when parsed whole; what is wrong with them shows there too
            file.seek(start)
    dataset = pydicom.dcmread(file, force=True)
    if "TransferSyntaxUID" not in dataset.file_meta:  # no meta group: the way it parsed tells
        implicit, little = dataset.original_encoding
        explicit = pydicom.uid.ExplicitVRLittleEndian if little else pydicom.uid.ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian if implicit else explicit
    return pydicom.pixels.pixel_array(dataset, index=frame)


def _values(pydicom: Any, dataset: Any, array: np.ndarray, frame: int) -> Pixels:
    photometric = str(dataset.get("PhotometricInterpretation", ""))
    if photometric == "PALETTE COLOR":
        array = pydicom.pixels.apply_color_lut(array, dataset)
        return Pixels((array >> 8).astype(np.uint8) if array.dtype == np.uint16 else array)
    if array.ndim == 3:
        return Pixels(array)
    if dataset.get("BitsAllocated") == 1:
        return Pixels(array, window=(0.0, 1.0))
    slope, intercept = 1.0, 0.0
    if "ModalityLUTSequence" in dataset:
        array = np.asarray(pydicom.pixels.apply_modality_lut(array, dataset))
    else:
        rescale = _functional_group(dataset, frame, "PixelValueTransformationSequence")
        slope = float(rescale.get("RescaleSlope") or 1.0)
        intercept = float(rescale.get("RescaleIntercept") or 0.0)
    return _with_voi(pydicom, dataset, frame, array, slope, intercept, photometric == "MONOCHROME1")


def _with_voi(
    pydicom: Any, dataset: Any, frame: int, array: np.ndarray, slope: float, intercept: float, inverted: bool
) -> Pixels:
    """Attach the first window the file states, or apply its table where it states one instead (PS3.3 C.11.2)."""
    voi = _functional_group(dataset, frame, "FrameVOILUTSequence")
    if window := _window(voi):
        return Pixels(array, slope, intercept, window, inverted)
    if voi.get("VOILUTSequence") and slope == 1.0 and intercept == 0.0:
        bits = int(voi.VOILUTSequence[0].LUTDescriptor[2])
        shown = np.asarray(pydicom.pixels.apply_voi_lut(array, voi))
        return Pixels(shown, window=(0.0, float(2**bits - 1)), inverted=inverted)
    return Pixels(array, slope, intercept, None, inverted)


def _functional_group(dataset: Any, frame: int, name: str) -> Any:
    """Return where a frame's attributes lie: its own group, the shared group, or the data set itself."""
    for groups, position in (("PerFrameFunctionalGroupsSequence", frame), ("SharedFunctionalGroupsSequence", 0)):
        items = dataset.get(groups) or []
        if position < len(items) and items[position].get(name):
            return items[position].get(name)[0]
    return dataset


def _spacing(dataset: Any, frame: int) -> tuple[float, float]:
    """Return the distance of rows and of columns in one unit, (1, 1) where the header tells nothing usable."""
    for name in ("PixelSpacing", "ImagerPixelSpacing", "PixelAspectRatio"):
        pair = _functional_group(dataset, frame, "PixelMeasuresSequence").get(name) or dataset.get(name)
        if pair and len(pair) == 2 and all(0 < float(x) < 1e4 for x in pair):
            return float(pair[0]), float(pair[1])
    return 1.0, 1.0


def _window(voi: Any) -> Window | None:
    """Return (low, high) in values of the first window, or None where it is absent or unusable (PS3.3 C.11.2.1.2)."""
    center, width = (_first(voi.get(key)) for key in ("WindowCenter", "WindowWidth"))
    if center is None or width is None or not np.isfinite([center, width]).all():
        return None
    if str(voi.get("VOILUTFunction") or "LINEAR") == "LINEAR":
        center, width = center - 0.5, width - 1.0
    return (center - width / 2, center + width / 2) if width > 0 else None


def _first(value: Any) -> float | None:
    if value is None or value == "":
        return None
    value = value[0] if hasattr(value, "__len__") and not isinstance(value, str) else value
    return float(value)
