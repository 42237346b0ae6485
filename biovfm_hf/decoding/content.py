"""Input and output of decoders: a file with access to its companions, and pictures or a volume."""

import gzip
import os
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from ..errors import TooLarge, UnsafePath, UserError
from ..intensity import Pixels
from ..pictures import MAX_PIXELS, reason
from ..volumes import MAX_VOLUME_BYTES, Volume

Beside = Callable[[str], BinaryIO]
MAX_FILE_BYTES = 512 << 20
GZIP = b"\x1f\x8b"  # how a gzip file begins
_MASK = re.compile(r"mask|label|seg|annot|ground.?truth|^gt|gt$", re.IGNORECASE)
NO_PICTURE = "no picture"
"""Why a sound file without a picture is left out."""


@dataclass(frozen=True)
class Source:
    """One file to decode.

    Attributes:
        file: open at its start, seekable.
        name: what messages call it; its suffix helps if the content does not determine the format.
        beside: opens a file by its name relative to this one; None if no other file may be opened.
        max_pixels: most pixels that one picture may claim.
        max_bytes: most bytes that the voxels of a volume may take.
        shorter_side: pixels needed on the shorter side; a decoder may drop finer detail. None: all.
    """

    file: BinaryIO
    name: str
    beside: Beside | None = None
    max_pixels: int = MAX_PIXELS
    max_bytes: int = MAX_VOLUME_BYTES
    shorter_side: int | None = None

    def whole(self) -> bytes:
        """All bytes of the file, for decoders that need it in memory.

        Raises:
            TooLarge: over `MAX_FILE_BYTES`.
        """
        self.file.seek(0)
        data = self.file.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise TooLarge(f"{self.name}: is over the limit of {MAX_FILE_BYTES >> 20} MiB; cut it into tiles")
        return data

    @contextmanager
    def companion(self, *names: str) -> Iterator[BinaryIO]:
        """Open the first of the files `names` that exists beside this one.

        Raises:
            UnsafePath: no other file may be opened, or it is elsewhere, missing or a link.
        """
        if self.beside is None:
            raise UnsafePath(f"{self.name}: its voxels lie in another file, which is not here; give a path with both")
        with self._first(self.beside, names) as file:
            yield file

    def _first(self, beside: Beside, names: tuple[str, ...]) -> BinaryIO:
        try:
            return beside(names[0])
        except UnsafePath as error:
            if names[1:]:
                return self._first(beside, names[1:])
            raise UnsafePath(f"{self.name}: {error}") from None


@dataclass(frozen=True)
class Pages:
    """Flat pictures of one file, decoded one at a time.

    Attributes:
        count: how many, including those whose size does not show whether they are pictures of their own.
        page: decodes number 0 to count - 1; None for one that is not a picture of its own, such as a thumbnail.
        word: what messages call one, such as page or frame.
        size: columns and rows as stored, before any reduced decoding; None: those of the decoded picture.
        volume: reads the pages as the slices of a volume; None, or returns None, if they are not slices.
        in_memory: whether all are decoded already, so that another one costs nothing.
    """

    count: int
    page: Callable[[int], Pixels | None]
    word: str = "page"
    size: tuple[int, int] | None = None
    volume: Callable[[], Volume | None] | None = None
    in_memory: bool = False


Content = Pages | Volume


def one_picture(pixels: Pixels, size: tuple[int, int] | None = None) -> Pages:
    """The content of a file that holds one picture."""
    return Pages(1, lambda _: pixels, size=size)


def folder_beside(place: Path) -> Beside:
    """A function that opens files of a folder: no links, nothing outside it."""
    top = place.resolve()

    def beside(name: str) -> BinaryIO:
        path = top / name
        if (
            Path(name).is_absolute()
            or ".." in Path(name).parts
            or os.path.realpath(path) != str(path)
            or not path.is_file()
        ):
            raise UnsafePath("the file that holds the voxels is missing, a link, or not beside the header; fetch it")
        return path.open("rb")

    return beside


def unpacked(source: Source) -> BinaryIO:
    """A file packed by gzip, unpacked in memory.

    Raises:
        UserError: damaged, or over `MAX_FILE_BYTES`.
    """
    source.file.seek(0)
    try:
        data = gzip.GzipFile(fileobj=source.file).read(MAX_FILE_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{source.name}: damaged gzip data ({reason(error)}); fetch the file again") from error
    if len(data) > MAX_FILE_BYTES:
        raise TooLarge(f"{source.name}: inflates to more than {MAX_FILE_BYTES >> 20} MiB, over the limit")
    return BytesIO(data)


def unpacked_start(file: BinaryIO, count: int) -> bytes:
    """The first `count` bytes that a file packed by gzip unpacks to, as far as it is sound; `file` stays at 0."""
    file.seek(0)
    inflater, data = zlib.decompressobj(zlib.MAX_WBITS | 16), b""
    try:
        while len(data) < count and not inflater.eof and (block := file.read(1 << 16)):
            data += inflater.decompress(block, count - len(data))
    except zlib.error:  # its decoder will report it
        pass
    file.seek(0)
    return data


def first_bytes(source: Path | bytes, count: int) -> bytes:
    """The first `count` bytes of a file, which is given by its path or its content."""
    if isinstance(source, bytes):
        return source[:count]
    with source.open("rb") as file:
        return file.read(count)


def names_mask(name: str) -> bool:
    """Whether an array's name is that of a mask; a picture of the same size is preferred to it."""
    return _MASK.search(name.rpartition("/")[2].removesuffix(".npy")) is not None
