"""Shared reader of NRRD and MetaImage: the lines of a text header, and the voxels that it describes, within limits."""

import binascii
import bz2
import math
import warnings
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from ..errors import TooLarge, UserError
from ..intensity import Pixels
from ..volumes import Volume, believable, canonical
from .content import GZIP, Content, Pages, Source

_BLOCK = 2**20
MAX_HEADER_LINE = 2**16
MAX_HEADER_BYTES = 16 * 2**20  # tracked ultrasound has four lines for each frame
_COMPRESSED = ("zlib", "bz2")
_LONGEST_NUMBER = 32  # characters, with the space behind it


@dataclass(frozen=True)
class Stored:
    """A header's description of the voxels.

    Attributes:
        shape: fastest axis first, without channels: two extents, three, or a fourth for time.
        dtype: with its byte order.
        affine: (4, 4), voxel indices to RAS+ millimetres.
        encoding: "raw", "zlib" (which stands for gzip too), "bz2", "text" or "hex".
        files: names of the files beside the header that hold the voxels, in order; if empty, they follow the header.
        channels: numbers per voxel; 3 is RGB, of 4 the last is dropped.
        channel_axis: how many axes of `shape` vary faster than the channels; 0: a voxel's numbers are neighbours.
        skip_lines: lines of each file to skip before its voxels.
        skip_bytes: bytes of each file, after any decompression, to skip before its voxels; -1: voxels end the file.
        time_axis: which axis holds time points, or the frames of a list; None: the fourth, if there is one.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    affine: np.ndarray
    encoding: str
    files: tuple[str, ...] = ()
    channels: int = 1
    channel_axis: int = 0
    skip_lines: int = 0
    skip_bytes: int = 0
    time_axis: int | None = None


def header_lines(source: Source) -> Iterator[str]:
    """Yield the lines of a text header, stripped; whatever follows the last one requested stays unread.

    Raises:
        UserError: the header does not end within MAX_HEADER_BYTES, or within the file.
    """
    total = 0
    while total < MAX_HEADER_BYTES:
        line = source.file.readline(MAX_HEADER_LINE)
        if not line:
            break
        total += len(line)
        yield line.decode("latin-1").strip()
    else:
        raise UserError(f"{source.name}: its header has no end within {MAX_HEADER_BYTES >> 20} MiB; it is damaged")


def read_stored(source: Source, stored: Stored) -> Content:
    """Read the voxels and turn them to RAS+; no more is inflated than the header claims, which is bounded.

    Raises:
        UserError: over `source.max_bytes`, truncated, damaged, or in a file that may not be opened.
    """
    if min(stored.shape) < 1 or stored.channels not in (1, 3, 4) or not 2 <= len(stored.shape) <= 4:
        raise UserError(
            f"{source.name}: has shape {stored.shape} with {stored.channels} numbers per voxel; a picture, a volume "
            "or a series of volumes of grey or RGB is needed"
        )
    size = math.prod(stored.shape, start=stored.channels * stored.dtype.itemsize)
    if size > source.max_bytes:
        raise TooLarge(f"{source.name}: its header claims {size / 2**20:.0f} MiB of voxels, over the limit")
    data = _voxels(source, stored, size)
    axis, channels = stored.channel_axis, (stored.channels,) if stored.channels > 1 else ()
    array = data.view(stored.dtype).reshape((*stored.shape[:axis], *channels, *stored.shape[axis:]), order="F")
    array = np.moveaxis(array, axis, -1)[..., :3] if channels else array
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if stored.time_axis is not None:
        array = np.moveaxis(array, stored.time_axis, len(stored.shape) - 1)
    if _is_flat(stored):
        return _flat(array.reshape(*array.shape[:2], -1, *array.shape[len(stored.shape) :]), stored.affine)
    turned, spacing, _ = canonical(array, stored.affine)
    return Volume(turned, spacing, rgb=bool(channels))


def _is_flat(stored: Stored) -> bool:
    """Whether there is one picture, or a list of them instead of slices."""
    spatial = [extent for axis, extent in enumerate(stored.shape) if axis != stored.time_axis]
    return len(spatial) == 2 or (stored.time_axis is not None and spatial[2:] == [1])


def _flat(array: np.ndarray, affine: np.ndarray) -> Pages:
    """Pictures of an array (X, Y, N[, 3])."""
    x, y = np.linalg.norm(affine[:3, :2], axis=0)
    spacing = believable((float(y), float(x)))

    def page(number: int) -> Pixels:
        return Pixels(np.ascontiguousarray(array[:, :, number].swapaxes(0, 1)), spacing=spacing)

    return Pages(array.shape[2], page, "frame", in_memory=True)


def _voxels(source: Source, stored: Stored, size: int) -> np.ndarray:
    if stored.encoding == "text":
        return _numbers(source, stored, size)
    data = np.empty(size, dtype=np.uint8)
    done = 0
    for block in _blocks(source, stored, size):
        taken = min(len(block), size - done)
        data[done : done + taken] = np.frombuffer(block, np.uint8, taken)
        done += taken
        if done == size:
            return data
    raise UserError(f"{source.name}: ends after {done} of {size} bytes of voxels; it is truncated, fetch it again")


def _blocks(source: Source, stored: Stored, size: int) -> Iterator[bytes]:
    """The voxels' bytes in blocks of at most _BLOCK, so that a decompression bomb is cut off at the header's claim."""
    share = size // max(1, len(stored.files))
    most = share // stored.dtype.itemsize * _LONGEST_NUMBER if stored.encoding == "text" else share
    try:
        with ExitStack() as stack:
            if not stored.files:
                yield from _of_file(source.file, stored, size)
            for name in stored.files:
                file = stack.enter_context(source.companion(name))
                yield from _first(_of_file(file, stored, share), most)
                yield from [b" "] if stored.encoding == "text" else []
                stack.close()
    except (zlib.error, binascii.Error, OSError, EOFError) as error:
        raise UserError(f"{source.name}: damaged compression ({error}); fetch the file again") from error


def _first(blocks: Iterator[bytes], size: int) -> Iterator[bytes]:
    """Blocks up to a number of bytes: a file of a list may hold more than its share."""
    for block in blocks:
        yield block[:size]
        size -= len(block)
        if size <= 0:
            return


def _last(blocks: Iterator[bytes], size: int) -> bytes:
    """The last `size` bytes of blocks, with at most one more block in memory."""
    end = bytearray()
    for block in blocks:
        end += block
        del end[: max(0, len(end) - size)]
    return bytes(end)


def _of_file(file: BinaryIO, stored: Stored, size: int) -> Iterator[bytes]:
    for _ in range(stored.skip_lines):
        file.readline(MAX_HEADER_BYTES)
    packed = stored.encoding in _COMPRESSED
    if stored.skip_bytes < 0 and not packed:
        file.seek(max(0, file.seek(0, 2) - size))
    elif not packed:
        file.seek(stored.skip_bytes, 1)
    blocks = {"raw": _raw, "text": _raw, "zlib": inflated, "bz2": unbzipped, "hex": _unhexed}[stored.encoding](file)
    if stored.skip_bytes < 0 and packed:
        yield _last(blocks, size)
        return
    skip = stored.skip_bytes if packed else 0
    for block in blocks:
        if skip <= 0:
            yield block
        elif skip < len(block):
            yield block[skip:]
        skip -= len(block)


def _numbers(source: Source, stored: Stored, size: int) -> np.ndarray:
    """Voxels written as decimal numbers, converted to bytes."""
    count = size // stored.dtype.itemsize
    text = b"".join(_first(_blocks(source, stored, size), _LONGEST_NUMBER * count))
    values = numbers_of(text, stored.dtype.newbyteorder("="), count, source.name)
    return values.astype(stored.dtype).view(np.uint8)


def numbers_of(text: bytes, dtype: np.dtype, count: int, name: str) -> np.ndarray:
    """The first `count` decimal numbers of a text, separated by spaces, commas or line ends.

    Raises:
        UserError: there is other text among them, or there are fewer.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # numpy only warns if something is not a number
            values = np.fromstring(text.replace(b",", b" "), dtype, sep=" ")[:count]
    except (ValueError, DeprecationWarning) as error:
        raise UserError(f"{name}: holds text among its numbers; fetch it again") from error
    if len(values) < count:
        raise UserError(f"{name}: holds fewer numbers ({len(values)}) than its header says; fetch it again")
    return values


def _raw(file: BinaryIO) -> Iterator[bytes]:
    while block := file.read(_BLOCK):
        yield block


def _unhexed(file: BinaryIO) -> Iterator[bytes]:
    rest = b""
    while block := file.read(_BLOCK):
        digits = rest + b"".join(block.split())
        even = len(digits) // 2 * 2
        rest = digits[even:]
        yield binascii.unhexlify(digits[:even])


def inflated(file: BinaryIO) -> Iterator[bytes]:
    """Yield inflated zlib or gzip data, consecutive members joined (RFC 1952, 2.2)."""
    pending = file.read(_BLOCK)
    while pending:
        inflater = zlib.decompressobj(zlib.MAX_WBITS | 32)
        while pending and not inflater.eof:
            yield inflater.decompress(pending, _BLOCK)
            pending = inflater.unconsumed_tail or (b"" if inflater.eof else file.read(_BLOCK))
        yield inflater.flush()
        pending = inflater.unused_data + file.read(_BLOCK) if inflater.eof else b""
        if not pending.startswith(GZIP):  # padding behind the voxels
            return


def unbzipped(file: BinaryIO) -> Iterator[bytes]:
    """Yield unpacked bzip2 data, consecutive streams joined."""
    pending = file.read(_BLOCK)
    while pending.startswith(b"BZh"):
        inflater = bz2.BZ2Decompressor()
        while not inflater.eof:
            yield inflater.decompress(pending, _BLOCK)
            pending = b""
            if inflater.needs_input and not inflater.eof and not (pending := file.read(_BLOCK)):
                return
        pending = inflater.unused_data + file.read(_BLOCK)
