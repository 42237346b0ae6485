"""Decoder of DICOM files: one picture for each frame, or a volume if frames or a mosaic are its slices."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property, partial
from io import BytesIO
from math import ceil, sqrt
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from ..errors import NoPicture, TooLarge, UserError, one_line, require
from ..intensity import Pixels
from ..volumes import Volume, canonical
from . import jpegxl
from .bounds import jpeg_frame
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
from .series import slice_order, stack_of
from .slice_places import Place, along_normal, normal, numbers, plane_affine
from .stacking import over_time, stacked

DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
Fragments = tuple[list[int], list[int]]  # offsets and lengths, as in the Extended Offset Table
_JPEG_FAMILY = "1.2.840.10008.1.2.4."
_JPEG2000 = ("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91")
_JPEG_XL = tuple(f"{_JPEG_FAMILY}{number}" for number in (110, 111, 112))
_JPEG_EXTENDED = "1.2.840.10008.1.2.4.51"
_LARGE = 1 << 20
_MAX_MOSAIC = 1 << 12  # slices
_MAX_FRAMES = 10_000  # half a millisecond each, besides their pixels
# Private elements of Siemens: group, creator, number in its block.
_NUMBER_IN_MOSAIC, _CSA_HEADER = (0x0019, "SIEMENS MR HEADER", 0x0A), (0x0029, "SIEMENS CSA HEADER", 0x10)


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
        if frames == 1 and is_mosaic(dataset) and (volume := _mosaic(file)) is not None:
            return volume
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
                _check_stream(partial(self._stream, number), self.source.name, self.source.max_pixels)
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
            return _at_lower_resolution(self.dataset, self._stream(0), side)
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


def _mosaic(file: _File) -> Volume | None:
    """The volume of a Siemens mosaic: tiles in rows from the top left, black ones at the end left out.

    Slices follow the normal in Siemens' own header, else the normal of the plane. None if the header does not state
    the number of tiles or the plane.
    """
    dataset = file.dataset
    plane, pitch = numbers(dataset.get("ImageOrientationPatient"), 6), numbers(dataset.get("PixelSpacing"), 2)
    count = _tiles(dataset)
    side = ceil(sqrt(count)) if 1 < count <= _MAX_MOSAIC else 0
    if not side or plane is None or pitch is None or int(dataset.Rows) % side or int(dataset.Columns) % side:
        return None
    pixels = file.frame(0)
    rows, columns = pixels.array.shape[0] // side, pixels.array.shape[1] // side
    tiles = pixels.array[: rows * side, : columns * side].reshape(side, rows, side, columns).transpose(0, 2, 1, 3)
    slices = tiles.reshape(side * side, rows, columns)[:count]
    distance = float(dataset.get("SpacingBetweenSlices") or dataset.get("SliceThickness") or pitch[0])
    step = np.array(_csa_numbers(dataset, b"SliceNormalVector", 3) or normal(plane)) * distance
    turned, spacing, _ = canonical(slices.transpose(2, 1, 0), plane_affine(plane, pitch, np.zeros(3), step))
    return Volume(turned, spacing, pixels.slope, pixels.intercept, inverted=pixels.inverted, padding=pixels.padding)


def _tiles(dataset: Any) -> int:
    element = _private(dataset, *_NUMBER_IN_MOSAIC)
    if element is not None and isinstance(element.value, bytes):
        return int.from_bytes(element.value[:2], "little")
    told_in_csa = _csa_numbers(dataset, b"NumberOfImagesInMosaic", 1)
    return int(element.value) if element is not None else int(told_in_csa[0]) if told_in_csa else 0


def _private(dataset: Any, group: int, creator: str, number: int) -> Any:
    """A private element of the block that names its creator (PS3.5 7.8.1), or else of the first; None: absent."""
    try:
        return dataset.private_block(group, creator)[number]
    except KeyError:
        return dataset.get((group, 0x1000 + number))


def _csa_numbers(dataset: Any, name: bytes, count: int) -> tuple[float, ...] | None:
    """Numbers of one element of Siemens' CSA header: a name of 64 bytes, and items of text behind 20 bytes."""
    element = _private(dataset, *_CSA_HEADER)
    data = element.value if element is not None and isinstance(element.value, bytes) else b""
    at = data.find(name + b"\0")
    if at < 0:
        return None
    items = int.from_bytes(data[at + 76 : at + 80], "little")
    at, values = at + 84, []
    for _ in range(min(items, 32)):
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        text = data[at + 16 : at + 16 + length].split(b"\0")[0].strip()
        values += [float(text)] if text else []
        at += 16 + -(-length // 4) * 4
    return numbers(values[:count], count)


def _at_lower_resolution(dataset: Any, stream: bytes, shorter_side: int) -> np.ndarray | None:
    """A JPEG 2000 frame at the resolution nearest above `shorter_side`, None if that might be wrong.

    It is right for unsigned grey values if code stream and header agree on their precision: Pillow shifts others.
    """
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    levels = (min(rows, columns) // shorter_side).bit_length() - 1
    grey = str(dataset.get("PhotometricInterpretation", "")).startswith("MONOCHROME")
    if levels < 1 or not grey or dataset.get("PixelRepresentation", 0) or dataset.get("SamplesPerPixel", 1) != 1:
        return None
    bits = _unsigned_precision(stream, rows, columns)
    if bits is None or bits != dataset.get("BitsStored") or not 1 <= levels <= 5:
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
    return values.astype(np.uint16 if dataset.BitsAllocated == 16 else np.uint8)


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


def _check_stream(stream_of: Callable[[], bytes], name: str, max_pixels: int) -> None:
    """Refuse a compressed frame that claims too many pixels: decoders allocate by its claim, not by the header's."""
    try:
        stream = stream_of()
    except Exception:  # what is wrong with it shows when it is decoded
        return
    claimed = _stream_pixels(stream)
    if claimed > max_pixels:
        raise TooLarge(f"{name}: its compressed frame claims {claimed} pixels, limit {max_pixels}; leave it out")


def _stream_pixels(stream: bytes) -> int:
    """Return height x width (x components / 3) that a JPEG, JPEG-LS or JPEG 2000 stream claims; 0 if none is found.

    JPEG 2000: the SIZ segment, ISO/IEC 15444-1 A.5.1.
    """
    place = stream.find(b"\xff\x4f\xff\x51", 0, 4096)
    if place >= 0 and len(stream) >= place + 42:
        width, height, left, top = (int.from_bytes(stream[place + n : place + n + 4]) for n in (8, 12, 16, 20))
        return (width - left) * (height - top) * max(1, int.from_bytes(stream[place + 40 : place + 42]) // 3)
    _, rows, columns = jpeg_frame(stream) or (0, 0, 0)
    return rows * columns


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
