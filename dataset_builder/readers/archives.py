"""Lists the members of an archive, without unpacking it and without trusting its claims."""

import hashlib
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO
from unicodedata import category

from biovfm_hf.decoding.content import GZIP
from biovfm_hf.reading.image_files import has_no_suffix

from ..item import Part
from ..limits import ARCHIVES, TOO_LARGE, Refused
from .zip_directory import BrokenArchive, Directory, central_directory, wide_fields, zip_name

UNREADABLE = (".rar", ".7z")
# A TAR that unpacks to more than this times its size is taken for a bomb; images shrink by far less.
MAX_EXPANSION = 200
ALLOWANCE = 1 << 30  # bytes that any archive may unpack to
MAX_TAR_HEADERS = 1 << 20  # header bytes of one member of a TAR; a long name and its attributes take a few KiB
_PACKED = (GZIP, b"BZh", b"\xfd7zXZ\0")  # how gzip, bzip2 and xz begin
_PACKED_END = 4096  # bytes that hold a packed file's last checksums
START = 132  # bytes of a member by which DICOM is recognised
_UNPRINTABLE = ("Cc", "Cs", "Zl", "Zp")  # control characters, halves of characters, ends of lines and paragraphs


@dataclass(frozen=True)
class Member:
    """One file in an archive: its stored name, unpacked size and offset; and why it cannot be read, if so.

    A file of a ZIP inside a ZIP is named `INNER.zip!NAME`, and begins at `offset` of the inner one. `start` holds the
    first bytes of a file without a suffix that only a stream can reach; `stream` reads a file that only a stream can
    reach from its start, until the next one is listed.
    """

    name: str
    size: int
    offset: int | None  # ZIP: local header; uncompressed TAR: data; None if only a stream can reach it
    problem: str | None = None
    outer: "Member | None" = None  # the inner ZIP itself
    start: bytes = b""
    stream: BufferedReader | None = field(default=None, compare=False, repr=False)

    def part(self, at: int | None = None) -> Part:
        """The fields that a reader needs to find the member; `at` is its place among those that are read."""
        outer = None if self.outer is None else self.outer.part()
        return Part(self.name, self.size, self.offset, outer, at)


def is_archive(name: str) -> bool:
    """Whether the name ends like an archive that `list_members` reads."""
    return name.lower().endswith(ARCHIVES)


def is_zip(name: str) -> bool:
    """Whether the name ends like a ZIP archive."""
    return name.lower().endswith(".zip")


def list_members(file: Path) -> Iterator[Member]:
    """The members of a file, as `Archive.members` yields them."""
    with Archive(file) as archive:
        yield from archive.members()


class Archive:
    """A ZIP or TAR that is opened once, when it is first read; the directory of a ZIP is read once.

    Args:
        path: its file; only its name is used if `file` is given.
        file: its content, such as that of a ZIP inside a ZIP.
    """

    def __init__(self, path: Path, file: BinaryIO | None = None) -> None:
        self.path = path
        self.is_zip = is_zip(path.name)
        self._opened = file

    def __enter__(self) -> "Archive":
        return self

    def __exit__(self, *_: object) -> None:
        if self._opened is not None:
            self._opened.close()

    @property
    def file(self) -> BinaryIO:
        """The open file.

        Raises:
            OSError: it cannot be opened.
        """
        if self._opened is None:
            self._opened = self.path.open("rb")
        return self._opened

    def members(self) -> Iterator[Member]:
        """The files in it, in its own order, one at a time; the file may be read elsewhere in between.

        Raises:
            BrokenArchive: the archive is broken, truncated, split or a bomb; members already yielded stay valid.
            OSError: it cannot be read.
        """
        return _zip_members(self._directory) if self.is_zip else _tar_members(self)

    def digest(self) -> str:
        """A hash of what it states about its members, to distinguish archives of the same size and time.

        For a ZIP it is the hash of the central directory, which has names and checksums. A compressed TAR has no
        directory, so the end of its file is hashed, where gzip and bzip2 keep a checksum of all content, and xz one of
        its last block. The hash is empty for archives that cannot be listed, and for a TAR that is not compressed,
        whatever its name, because such a TAR has no checksum of its content.

        Raises:
            OSError: it cannot be read.
        """
        digest = hashlib.blake2b(digest_size=8)
        if not self.is_zip:
            end = self._packed_end()
            digest.update(end)
            return digest.hexdigest() if end else ""
        try:
            directory = self._directory
        except BrokenArchive:
            return ""
        for block in directory.blocks():
            digest.update(block)
        return digest.hexdigest()

    @cached_property
    def _directory(self) -> Directory:
        return central_directory(self.file)

    def _packed_end(self) -> bytes:
        """The end of a compressed TAR; nothing of one that is not compressed."""
        self.file.seek(0)
        if not self.file.read(6).startswith(_PACKED):
            return b""
        self.file.seek(max(0, self.file.seek(0, 2) - _PACKED_END))
        return self.file.read()


def open_tar(file: BinaryIO, name: str) -> tarfile.TarFile:
    """A TAR as a stream from its start; members whose headers exceed MAX_TAR_HEADERS raise Refused on the way."""
    file.seek(0)
    return tarfile.open(fileobj=file, mode="r:" if name.lower().endswith(".tar") else "r|*", tarinfo=_Bounded)


class _Bounded(tarfile.TarInfo):
    """A member whose headers are read up to a bound: plain tarfile would load all the gigabytes that they claim."""

    @classmethod
    def fromtarfile(cls, tarfile: tarfile.TarFile) -> "_Bounded":
        file = tarfile.fileobj
        if isinstance(file, _Allowance):  # the header that an extended one belongs to
            return super().fromtarfile(tarfile)
        tarfile.fileobj = _Allowance(file)  # type: ignore[assignment]
        try:
            entry = super().fromtarfile(tarfile)
        finally:
            tarfile.fileobj = file
        if sum(len(name) + len(value) for name, value in tarfile.pax_headers.items()) > MAX_TAR_HEADERS:
            raise _too_many_headers()  # global headers for all later members pile up
        return entry


class _Allowance:
    """A file that raises Refused once more than MAX_TAR_HEADERS bytes are read."""

    def __init__(self, file: Any):
        self._file, self._left = file, MAX_TAR_HEADERS
        self.tell = file.tell

    def read(self, size: int) -> bytes:
        self._left -= size
        if self._left < 0:
            raise _too_many_headers()
        return self._file.read(size)


def _too_many_headers() -> Refused:
    mib = MAX_TAR_HEADERS >> 20
    return Refused(TOO_LARGE, f"a member with more than {mib} MiB of headers; unpack the archive here")


def unsafe(name: str) -> str | None:
    """Why a stored name may not be used, such as one outside the folder it is unpacked in; None if it may."""
    name = name.replace("\\", "/")
    if name.startswith("/") or "\0" in name or ".." in name.split("/") or name[1:2] == ":":
        return "the name leaves the archive"
    if len(name) > 1024 or (not name.isprintable() and any(category(sign) in _UNPRINTABLE for sign in name)):
        return "the name is not usable"
    return None


def _tar_members(archive: Archive) -> Iterator[Member]:
    plain = archive.path.name.lower().endswith(".tar")
    try:
        limit = archive.file.seek(0, 2) * MAX_EXPANSION + ALLOWANCE
        with open_tar(archive.file, archive.path.name) as tar:
            for entry in tar:
                tar.members.clear()  # type: ignore[attr-defined]  # tarfile would remember every member it has passed
                if entry.offset_data + entry.size > limit:
                    raise BrokenArchive(f"it claims to unpack to more than {MAX_EXPANSION} times its size")
                if entry.isdir():
                    continue
                problem = unsafe(entry.name) or (None if entry.isfile() else "a link or device inside an archive")
                if entry.issparse():  # its bytes are not contiguous
                    problem = problem or "a sparse file inside an archive: unpack it here"
                if plain or problem:
                    yield Member(entry.name, entry.size, entry.offset_data if plain else None, problem)
                else:
                    yield _streamed_member(tar, entry)
    except BrokenArchive:
        raise
    except Refused as refused:
        raise BrokenArchive(str(refused)) from refused
    except Exception as error:  # broken streams break tarfile and the decompressors in many ways, TypeError included
        raise BrokenArchive(f"broken archive ({type(error).__name__})") from error


def _streamed_member(tar: tarfile.TarFile, entry: tarfile.TarInfo) -> Member:
    stream = tarfile.ExFileObject(tar, entry)
    start = stream.peek(START)[:START] if has_no_suffix(entry.name) else b""
    return Member(entry.name, entry.size, None, start=start, stream=stream)


def _zip_members(directory: Directory) -> Iterator[Member]:
    left = directory.start - directory.shift  # members must not overlap before the directory
    for fields, raw, extra in directory.entries():
        _, flags, method, packed, size, _, _, _, attributes, offset = fields
        if extra:
            size, packed, offset = wide_fields(extra, size, packed, offset)
        left -= packed
        if left < 0:
            raise BrokenArchive("broken archive (its members overlap)")
        name = zip_name(raw, flags)
        if not name.endswith("/"):
            problem = unsafe(name) or _problem(flags, method, attributes >> 16)
            yield Member(name, size, offset + directory.shift, problem)


def _problem(flags: int, method: int, mode: int) -> str | None:
    if flags & 1:
        return "encrypted inside the archive"
    if method not in (0, 8, 12, 14):
        return f"packed with ZIP method {method}, which is not supported"
    if mode & 0o170000 == 0o120000:
        return "a link or device inside an archive"
    return None
