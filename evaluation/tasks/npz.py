"""Reads untrusted .npz files: no pickles, sizes checked before memory is allocated, rows streamed.

`numpy.load` ignores `mmap_mode` for .npz files and unpacks a whole member at once, while the 224-pixel MedMNIST files
contain up to 13 GB. Here a member's header is read first, and its rows follow in blocks.
"""

import ast
import math
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from biovfm_hf.errors import UserError

MAX_BYTES = 2**31
MAX_HEADER = 2**16
BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError, RuntimeError, OSError)


@dataclass(frozen=True)
class ArrayHeader:
    """The header of a .npy member: shape, dtype, and whether it is in Fortran order (the last axis varies slowest)."""

    shape: tuple[int, ...]
    dtype: np.dtype
    fortran_order: bool

    @property
    def nbytes(self) -> int:
        """Size of the data in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


def array_names(path: str | Path) -> list[str]:
    """Names of the arrays in a .npz file, without the suffix `.npy`.

    Raises:
        UserError: the file does not exist or is not a .npz file.
    """
    with _open_zip(Path(path)) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist()]


def header(path: str | Path, name: str) -> ArrayHeader:
    """Shape and dtype of one array of a .npz file, without reading its data.

    Raises:
        UserError: the file or array does not exist, is damaged, or contains Python objects.
    """
    with _open_member(Path(path), name) as (_, header):
        return header


def read(path: str | Path, name: str, max_bytes: int = MAX_BYTES) -> np.ndarray:
    """Read one whole array.

    Raises:
        UserError: as `header`, or the array is larger than `max_bytes`.
    """
    with _open_member(Path(path), name) as (stream, header):
        if header.nbytes > max_bytes:
            raise UserError(
                f"{path}: {name} is {header.nbytes / 2**30:.1f} GiB, more than the {max_bytes / 2**30:.1f} GiB "
                "that are read at once; check what the file holds"
            )
        data = _exactly(stream, header.nbytes, Path(path), name)
        return np.ndarray(header.shape, header.dtype, data, order="F" if header.fortran_order else "C")


def rows(path: str | Path, name: str, block: int) -> Iterator[np.ndarray]:
    """Yield an array in blocks of up to `block` rows, with one block in memory at a time.

    Raises:
        UserError: as `header`, or the array is stored column by column.
    """
    with _open_member(Path(path), name) as (stream, header):
        if header.fortran_order or not header.shape:
            raise UserError(f"{path}: {name} is not stored row by row; save it again with numpy.savez")
        each = math.prod(header.shape[1:]) * header.dtype.itemsize
        for start in range(0, header.shape[0], block):
            count = min(block, header.shape[0] - start)
            data = _exactly(stream, count * each, Path(path), name)
            yield np.frombuffer(data, header.dtype).reshape(count, *header.shape[1:])


@contextmanager
def _open_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        archive = zipfile.ZipFile(path)
    except BROKEN as error:
        raise UserError(f"{path}: not a .npz file ({error}); write it with numpy.savez") from error
    with archive:
        yield archive


@contextmanager
def _open_member(path: Path, name: str) -> Iterator[tuple[IO[bytes], ArrayHeader]]:
    with _open_zip(path) as archive:
        names = [entry.removesuffix(".npy") for entry in archive.namelist()]
        if name not in names:
            raise UserError(f"{path}: holds no array {name!r}; it holds: {', '.join(names[:20]) or 'nothing'}")
        try:
            stream = archive.open(archive.namelist()[names.index(name)])
            header = _read_header(stream)
        except BROKEN as error:
            raise UserError(
                f"{path}: {name} cannot be read ({error}); the file is damaged or not an .npz file"
            ) from error
        if header.dtype.itemsize == 0:
            raise UserError(f"{path}: {name} holds items of no size; save plain numbers")
        if header.dtype.hasobject:
            raise UserError(f"{path}: {name} holds Python objects, which are never unpickled; save plain numbers")
        with stream:
            yield stream, header


def _read_header(stream: IO[bytes]) -> ArrayHeader:
    """Parse a .npy header (NumPy enhancement proposal 1) of bounded length."""
    magic = stream.read(8)
    if magic[:6] != b"\x93NUMPY":
        raise ValueError("no .npy header")
    width = 2 if magic[6] == 1 else 4
    length = int.from_bytes(stream.read(width), "little")
    if length > MAX_HEADER:
        raise ValueError("the .npy header is too long")
    try:
        fields = ast.literal_eval(stream.read(length).decode("latin1"))
        shape, fortran_order = fields["shape"], bool(fields["fortran_order"])
        dtype = np.dtype(np.lib.format.descr_to_dtype(fields["descr"]))
    except (SyntaxError, KeyError, TypeError, IndexError, RecursionError, MemoryError) as error:
        raise ValueError("the .npy header does not describe an array") from error
    if not isinstance(shape, tuple) or not all(isinstance(n, int) and n >= 0 for n in shape):
        raise ValueError("the .npy header declares no shape")
    return ArrayHeader(shape, dtype, fortran_order)


def _exactly(stream: IO[bytes], count: int, path: Path, name: str) -> bytearray:
    data = bytearray()
    try:
        while len(data) < count:
            chunk = stream.read(min(count - len(data), 2**24))
            if not chunk:
                raise EOFError(f"{count - len(data)} bytes are missing")
            data += chunk
    except BROKEN as error:
        raise UserError(f"{path}: {name} cannot be read ({error}); fetch the file again") from error
    return data
