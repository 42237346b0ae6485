"""What NRRD and MetaImage share: a text header that says where the voxels lie, and voxels that must not be trusted."""

import bz2
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ..errors import TooLarge, UnsafePath, UserError, require
from ..volumes import Volume

_BLOCK = 2**20
MAX_HEADER_LINE = 2**16
MAX_HEADER_LINES = 1000


@dataclass(frozen=True)
class Stored:
    """What a header says of the voxels.

    Attributes:
        shape: fastest axis first; three extents, a fourth for time, `channels` not among them.
        dtype: with its byte order.
        affine: (4, 4), voxel indices to RAS+ millimetres.
        encoding: "raw", "zlib" or "bz2"; zlib stands for gzip too.
        data_file: name of the file beside the header that holds the voxels, None where they follow the header.
        channels: numbers per voxel, stored next to each other; 3 is RGB.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    affine: np.ndarray
    encoding: str
    data_file: str | None
    channels: int = 1


def header_lines(file: BinaryIO) -> list[str]:
    """Lines up to an empty one or the one that names the data file; what follows is left unread.

    Raises:
        UserError: there is no end within MAX_HEADER_LINES.
    """
    lines: list[str] = []
    while len(lines) < MAX_HEADER_LINES:
        line = file.readline(MAX_HEADER_LINE)
        if not line.strip():
            return lines
        lines.append(line.decode("latin-1").strip())
        if lines[-1].startswith("ElementDataFile"):
            return lines
    raise UserError("the header has no end")


def read_stored(file: BinaryIO, stored: Stored, folder: Path | None, max_bytes: int) -> Volume:
    """Read the voxels and turn them to RAS+; no more is inflated than the header claims, and that is bounded.

    Raises:
        UserError: over `max_bytes`, truncated, damaged, a data file elsewhere, or an unusable affine.
    """
    nibabel = require("nibabel", "data")
    if min(stored.shape) < 1 or stored.channels not in (1, 3):
        raise UserError(f"shape {stored.shape} with {stored.channels} channels")
    size = math.prod(stored.shape, start=stored.channels * stored.dtype.itemsize)
    if size > max_bytes:
        raise TooLarge(f"the header claims {size / 2**20:.0f} MiB of voxels")
    if stored.data_file is None:
        data = _filled(file, stored.encoding, size)
    else:
        with _beside(folder, stored.data_file).open("rb") as other:
            data = _filled(other, stored.encoding, size)
    # Colours are stored next to each other: fastest axis first, they are axis 0.
    channels = (stored.channels,) if stored.channels > 1 else ()
    array = data.view(stored.dtype).reshape((*channels, *stored.shape), order="F")
    array = np.moveaxis(array, 0, -1) if channels else array
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    if not np.isfinite(stored.affine).all() or abs(np.linalg.det(stored.affine)) < 1e-12:
        raise UserError("the axes of the header do not span a volume")
    image = nibabel.as_closest_canonical(nibabel.Nifti1Image(native, stored.affine, dtype=native.dtype))
    spacing = nibabel.affines.voxel_sizes(image.affine)
    turned = np.asanyarray(image.dataobj)
    return Volume(turned, (float(spacing[0]), float(spacing[1]), float(spacing[2])), rgb=bool(channels))


def _beside(folder: Path | None, name: str) -> Path:
    """The file `name` in the header's own folder; a name that leads elsewhere is refused."""
    if folder is None or name != Path(name).name or name in (".", ".."):
        raise UnsafePath("the voxels lie in a file that is not beside the header")
    path = folder / name
    if path.is_symlink() or not path.is_file():
        raise UnsafePath("the file that holds the voxels is missing or a link")
    return path


def _filled(file: BinaryIO, encoding: str, size: int) -> np.ndarray:
    data = np.empty(size, dtype=np.uint8)
    done = 0
    for block in _blocks(file, encoding):
        taken = min(len(block), size - done)
        data[done : done + taken] = np.frombuffer(block, np.uint8, taken)
        done += taken
        if done == size:
            return data
    raise UserError(f"ends after {done} of {size} bytes of voxels")


def _blocks(file: BinaryIO, encoding: str) -> Iterator[bytes]:
    """The voxels' bytes in pieces of at most _BLOCK, so that a bomb is cut off where the header's claim ends."""
    inflate = {"raw": _raw, "zlib": _unzlib, "bz2": _unbz2}[encoding]
    try:
        yield from inflate(file)
    except (zlib.error, OSError, EOFError) as error:
        raise UserError(f"damaged compression ({error})") from error


def _raw(file: BinaryIO) -> Iterator[bytes]:
    while block := file.read(_BLOCK):
        yield block


def _unzlib(file: BinaryIO) -> Iterator[bytes]:
    inflater = zlib.decompressobj(zlib.MAX_WBITS | 32)
    while block := file.read(_BLOCK):
        while block:
            yield inflater.decompress(block, _BLOCK)
            block = inflater.unconsumed_tail


def _unbz2(file: BinaryIO) -> Iterator[bytes]:
    inflater = bz2.BZ2Decompressor()
    while not inflater.eof and (block := file.read(_BLOCK)):
        yield inflater.decompress(block, _BLOCK)
        while not inflater.needs_input and not inflater.eof:
            yield inflater.decompress(b"", _BLOCK)
