"""Decoder of DICOM files: one picture for each frame, or a volume if frames or a mosaic are its slices."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property, partial
from typing import Any, BinaryIO

import numpy as np

from ..errors import NoPicture, TooLarge, UserError, one_line, require
from ..intensity import Pixels
from ..volumes import Volume
from . import jpegxl
from .code_streams import at_lower_resolution, check_stream
from .content import GZIP, Content, Pages, Source, unpacked
from .dicom_header import (
    DEFLATED,
    HEADER_BYTES,
    described,
    functional_group,
    import_pydicom,
    is_deflated,
    is_grey,
    is_mosaic,
    no_picture,
)
from .dicom_values import pixels_of
from .mosaic import mosaic_volume
from .series import slice_order, stack_of
from .slice_places import Place, along_normal, numbers
from .stacking import over_time, stacked

DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
Fragments = tuple[list[int], list[int]]  # offsets and lengths, as in the Extended Offset Table
_JPEG_FAMILY = "1.2.840.10008.1.2.4."
_JPEG2000 = ("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91")
_JPEG_XL = tuple(f"{_JPEG_FAMILY}{number}" for number in (110, 111, 112))
_JPEG_EXTENDED = "1.2.840.10008.1.2.4.51"
_LARGE = 1 << 20
_MAX_FRAMES = 10_000  # half a millisecond each, besides their pixels


def is_dicom(start: bytes) -> bool:
    """Whether a file that begins with `start` (132 bytes or more) is DICOM with its preamble."""
    return start[128:132] == b"DICM"


def is_dicom_file(start: bytes, name: str) -> bool:
    """Whether a file is read as DICOM: by its preamble, or without one by its name."""
    return is_dicom(start) or name.lower().endswith(DICOM_SUFFIXES)


def read_dicom(source: Source) -> Content:
    """Open a DICOM file: its frames, which may be slices of a volume (`Pages.volume`), or the volume of a mosaic.

    A file packed by gzip is unpacked.

    Raises:
        NoPicture: it holds a report, a dose, a segmentation or something else that is not a picture.
        UserError: no pixel data, a missing decoder, a claimed size over the limit, damaged data.
    """
    if source.file.read(2) == GZIP:  # a slice of a series, whose files are known to be DICOM
        source = replace(source, file=unpacked(source))
    source.file.seek(0)
    file = _File(source)
    dataset = file.dataset
    with file.as_user_error():
        if what := no_picture(dataset):
            raise NoPicture(f"{source.name}: is not a picture but {what}; leave it out")
        if not dataset.get("Rows") or not dataset.get("Columns"):
            raise UserError(f"{source.name}: is DICOM without an image (or not DICOM); leave it out")
        rows, columns = int(dataset.Rows), int(dataset.Columns)
        frames = int(dataset.get("NumberOfFrames") or 1)
        if not 0 < rows * columns <= source.max_pixels:
            raise TooLarge(
                f"{source.name}: claims {columns} x {rows} pixels, limit {source.max_pixels}; check it, or raise "
                "max_pixels"
            )
        if frames > _MAX_FRAMES:
            raise TooLarge(f"{source.name}: {frames} frames are over the limit of {_MAX_FRAMES}; split the file")
        mosaic = mosaic_volume(dataset, partial(file.frame, 0)) if frames == 1 and is_mosaic(dataset) else None
        if mosaic is not None:
            return mosaic
        volume_of = partial(_frames_volume, file, frames) if frames > 1 else None
        return Pages(frames, file.frame, "frame", (columns, rows), volume_of)


class _Measured:
    """A file that is never read beyond its end: memory would be reserved for gigabytes that an element claims."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek, self.tell, start = file.seek, file.tell, file.tell()
        self._size = file.seek(0, 2)
        file.seek(start)

    def read(self, size: int = -1) -> bytes:
        return self._file.read(size if size < _LARGE else max(0, min(size, self._size - self.tell())))


class _File:
    """An open DICOM file whose header has been read."""

    def __init__(self, source: Source) -> None:
        self.source = source = replace(source, file=_Measured(source.file))  # type: ignore[arg-type]
        self.pydicom = import_pydicom()
        self._start = source.file.tell()
        with self.as_user_error():
            deflated = is_deflated(self.pydicom, source.file, source.name)
            self.dataset = self.pydicom.dcmread(source.file, force=True, stop_before_pixels=not deflated)
            self._pixels_at = source.file.tell()

    @contextmanager
    def as_user_error(self) -> Iterator[None]:
        """Turn pydicom's exceptions into messages that repeat nothing of the file's header."""
        name = self.source.name
        try:
            yield
        except (UserError, MemoryError):
            raise
        except Exception as error:  # pydicom and its decoders raise nearly every type on damaged files
            if "missing dependencies" in str(error):
                raise UserError(
                    f"{name}: no installed decoder reads its compression ({one_line(error)}); "
                    "get more with: pip install 'biovfm-hf[data]'"
                ) from error
            self.source.file.seek(self._start)
            reason = described(error, self.source.file.read(HEADER_BYTES))
            raise UserError(f"{name}: cannot be read as DICOM ({reason}); check or fetch the file again") from error

    def frame(self, number: int) -> Pixels:
        """Decode one frame, at a reduced resolution if the source needs no more and the file offers one."""
        with self.as_user_error():
            file, dataset = self.source.file, self.dataset
            syntax = dataset.file_meta.get("TransferSyntaxUID", "")
            reduced = self._reduced(syntax)
            if reduced is not None:
                return pixels_of(self.pydicom, dataset, reduced, number)
            if syntax.startswith(_JPEG_FAMILY):
                check_stream(partial(self._stream, number), self.source.name, self.source.max_pixels)
            if syntax == _JPEG_EXTENDED and int(dataset.get("BitsStored") or 8) > 8:
                return pixels_of(self.pydicom, dataset, self._extended_jpeg(number), number)
            if syntax in _JPEG_XL:
                return pixels_of(self.pydicom, dataset, self._jpeg_xl(number), number)
            file.seek(self._start)
            array = _decoded(self.pydicom, dataset, file, number, self._fragments)
            return pixels_of(self.pydicom, dataset, array, number)

    def frames(self, count: int) -> np.ndarray:
        """All frames, decoded at once: (frames, rows, columns)."""
        dataset, limit = self.dataset, self.source.max_bytes
        if count * int(dataset.Rows) * int(dataset.Columns) * int(dataset.BitsAllocated) // 8 > limit:
            raise TooLarge(f"{self.source.name}: {count} frames are over the limit of {limit >> 20} MiB; cut it")
        self.source.file.seek(self._start)
        whole = self.pydicom.dcmread(self.source.file, force=True)
        return _shifted(np.asarray(self.pydicom.pixels.pixel_array(whole, **_options(dataset))), dataset)

    def _stream(self, number: int) -> bytes:
        """One compressed frame. The file's pixel data begins 12 bytes on: tag, value representation and length."""
        self.source.file.seek(self._pixels_at + 12)
        frames = int(self.dataset.get("NumberOfFrames") or 1)
        table = self._fragments
        return self.pydicom.encaps.get_frame(self.source.file, number, extended_offsets=table, number_of_frames=frames)

    @cached_property
    def _fragments(self) -> Fragments | None:
        """Where the compressed frames of a file lie, each in one fragment; None for other files.

        It is looked up once; otherwise pydicom would go through all fragments again for each frame.
        """
        file, frames = self.source.file, int(self.dataset.get("NumberOfFrames") or 1)
        syntax = self.dataset.file_meta.get("TransferSyntaxUID")
        if frames == 1 or syntax is None or not (syntax in _JPEG_XL or syntax.is_encapsulated):
            return None
        try:
            file.seek(self._pixels_at + 12)
            self.pydicom.encaps.parse_basic_offsets(file)
            start = file.tell()
            _, places = self.pydicom.encaps.parse_fragments(file)
            file.seek(places[-1] + 4)
            ends = [*places[1:], places[-1] + 8 + int.from_bytes(file.read(4), "little")]
        except Exception:  # what is wrong with it shows when a frame is decoded
            return None
        if len(places) != frames:
            return None
        return [place - start for place in places], [end - place - 8 for place, end in zip(places, ends, strict=True)]

    def _extended_jpeg(self, number: int) -> np.ndarray:
        """A JPEG of 12 bits, which GDCM reads though pydicom does not ask it to."""
        gdcm, dataset, stream = require("gdcm", "data"), self.dataset, self._stream(number)
        fragment, fragments = gdcm.Fragment(), gdcm.SequenceOfFragments.New()
        fragment.SetByteStringValue(stream)
        fragments.AddFragment(fragment)
        element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
        element.SetValue(fragments.__ref__())
        image = gdcm.Image()
        image.SetNumberOfDimensions(2)
        image.SetDimensions((int(dataset.Columns), int(dataset.Rows), 1))
        image.SetDataElement(element)
        kind = gdcm.PhotometricInterpretation.GetPIType(str(dataset.PhotometricInterpretation))
        image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(kind))
        image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(_JPEG_EXTENDED)))
        bits = (int(dataset.BitsAllocated), int(dataset.BitsStored), int(dataset.HighBit))
        signed = int(dataset.get("PixelRepresentation") or 0)
        image.SetPixelFormat(gdcm.PixelFormat(int(dataset.get("SamplesPerPixel") or 1), *bits, signed))
        data = image.GetBuffer()
        data = data if isinstance(data, bytes) else data.encode("utf-8", "surrogateescape")
        shape = (int(dataset.Rows), int(dataset.Columns))
        return np.frombuffer(data, np.int16 if signed else np.uint16, shape[0] * shape[1]).reshape(shape)

    def _jpeg_xl(self, number: int) -> np.ndarray:
        """A frame of JPEG XL (PS3.5 A.4.12), which pydicom does not know yet."""
        if self.dataset.get("PixelRepresentation"):
            raise UserError(f"{self.source.name}: JPEG XL of signed numbers is not read; save it uncompressed")
        return jpegxl.decoded(self._stream(number), self.source.name, self.source.max_pixels)

    def _reduced(self, syntax: str) -> np.ndarray | None:
        side = self.source.shorter_side
        if side is None or syntax not in _JPEG2000 or int(self.dataset.get("NumberOfFrames") or 1) > 1:
            return None
        try:
            return at_lower_resolution(self.dataset, self._stream(0), side)
        except Exception:  # for instance a stream of one resolution; the whole frame is decoded then
            return None


def _frames_volume(file: _File, frames: int) -> Volume | None:
    """The frames as a volume, with a time axis if positions repeat; None if they are not evenly spaced slices."""
    with file.as_user_error():
        as_stored = [_frame_place(file.dataset, number) for number in range(frames)]
        order = slice_order(as_stored)
        places = [as_stored[number] for number in order]
        if any(along_normal(place) is None for place in places) or (stack := stack_of(places)) is None:
            return None
        array = file.frames(frames)

        def read(number: int) -> Pixels:
            return pixels_of(file.pydicom, file.dataset, array[number], number)

        return over_time([
            stacked([partial(read, n) for n in order[time :: stack.times]], stack, file.source.name,
                    file.source.max_bytes)[0]
            for time in range(stack.times)
        ])  # fmt: skip


def _frame_place(dataset: Any, number: int) -> Place:
    position = functional_group(dataset, number, "PlanePositionSequence")
    plane = functional_group(dataset, number, "PlaneOrientationSequence")
    measures = functional_group(dataset, number, "PixelMeasuresSequence")
    return Place(
        None,
        numbers(position.get("ImagePositionPatient"), 3) if position is not dataset else None,
        numbers(plane.get("ImageOrientationPatient"), 6),
        numbers(measures.get("PixelSpacing"), 2),
        (int(dataset.Rows), int(dataset.Columns)) if is_grey(dataset) else None,
    )


def _decoded(pydicom: Any, dataset: Any, file: BinaryIO, frame: int, fragments: Fragments | None) -> np.ndarray:
    """Decode one frame, reading only that frame if the file allows it."""
    known = _options(dataset)
    if fragments is not None:
        known["extended_offsets"] = fragments
    start = file.tell()
    if dataset.file_meta.get("TransferSyntaxUID") not in (None, DEFLATED):
        try:
            return _shifted(pydicom.pixels.pixel_array(file, index=frame, **known), dataset)
        except Exception:  # some files are only understood when parsed whole; what is wrong with them shows there too
            file.seek(start)
    dataset = pydicom.dcmread(file, force=True)
    if "TransferSyntaxUID" not in dataset.file_meta:  # without a meta group, the way in which it parsed shows it
        implicit, little = dataset.original_encoding
        explicit = pydicom.uid.ExplicitVRLittleEndian if little else pydicom.uid.ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian if implicit else explicit
    return _shifted(pydicom.pixels.pixel_array(dataset, index=frame, **_options(dataset)), dataset)


def _options(dataset: Any) -> dict[str, Any]:
    """Options where pydicom errs: stored bits that are not the lowest, and the order of a JPEG's colours.

    More bits stored than allocated are as many as allocated, as GDCM has it; pydicom refuses such a file.
    """
    allocated, stored = (int(dataset.get(name) or 0) for name in ("BitsAllocated", "BitsStored"))
    if 0 < allocated < stored:
        return {"bits_stored": allocated}
    options: dict[str, Any] = {"correct_unused_bits": False} if _is_shifted(dataset) else {}
    if _syntax(dataset).startswith(_JPEG_FAMILY) and "PlanarConfiguration" in dataset:
        options["planar_configuration"] = 0  # a JPEG's colours lie next to each other (PS3.5 8.2.1)
    return options


def _syntax(dataset: Any) -> str:
    return str(dataset.file_meta.get("TransferSyntaxUID", "")) if hasattr(dataset, "file_meta") else ""


def _is_shifted(dataset: Any) -> bool:
    """Whether the stored bits are not the lowest (PS3.5 8.1.1, before 2014); JPEG streams state this themselves."""
    if _syntax(dataset).startswith(_JPEG_FAMILY) or not all(dataset.get(name) for name in ("BitsStored", "HighBit")):
        return False
    return int(dataset.BitsStored) <= int(dataset.HighBit) < int(dataset.get("BitsAllocated") or 0)


def _shifted(array: np.ndarray, dataset: Any) -> np.ndarray:
    """The numbers of bits that end at HighBit instead of at BitsStored - 1."""
    if not _is_shifted(dataset) or array.dtype.kind not in "iu":
        return array
    bits = 8 * array.dtype.itemsize
    return (array << (bits - 1 - int(dataset.HighBit))) >> (bits - int(dataset.BitsStored))
