"""Lists the members of an archive, without unpacking it and without trusting its claims."""

import hashlib
import struct
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from unicodedata import category

from biovfm_hf.decoding.content import GZIP
from biovfm_hf.reading.image_files import has_no_suffix

from ..limits import ARCHIVES, TOO_LARGE, Refused

UNREADABLE = (".rar", ".7z")
# A TAR that unpacks to more than this times its size is taken for a bomb; images shrink by far less.
MAX_EXPANSION = 200
ALLOWANCE = 1 << 30  # bytes that any archive may unpack to
MAX_TAR_HEADERS = 1 << 20  # header bytes of one member of a TAR; a long name and its attributes take a few KiB
_PACKED = (GZIP, b"BZh", b"\xfd7zXZ\0")  # how gzip, bzip2 and xz begin
_PACKED_END = 4096  # bytes that hold a packed file's last checksums
_START = 132  # bytes of a member by which DICOM is recognised
_UNPRINTABLE = ("Cc", "Cs", "Zl", "Zp")  # control characters, halves of characters, ends of lines and paragraphs
HEADER = struct.Struct("<4s4xHH8xIIHHH4xII")  # of one entry in a ZIP's central directory


@dataclass(frozen=True)
class Member:
    """One file in an archive: its stored name, unpacked size and offset; and why it cannot be read, if so.

    A file of a ZIP inside a ZIP is named `INNER.zip!NAME`, and begins at `offset` of the inner one. `start` holds the
    first bytes of a file without a suffix that only a stream can reach.
    """

    name: str
    size: int
    offset: int | None  # ZIP: local header; uncompressed TAR: data; None if only a stream can reach it
    problem: str | None = None
    outer: "Member | None" = None  # the inner ZIP itself
    start: bytes = b""


class BrokenArchive(ValueError):
    """Why an archive cannot be listed, without repeating its content."""


def is_archive(name: str) -> bool:
    """Whether the name ends like an archive that `list_members` reads."""
    return name.lower().endswith(ARCHIVES)


def is_zip(name: str) -> bool:
    """Whether the name ends like a ZIP archive."""
    return name.lower().endswith(".zip")


def list_members(file: Path) -> Iterator[Member]:
    """The files in a ZIP or TAR, in the archive's order, one at a time.

    Raises:
        BrokenArchive: the archive is broken, truncated, split or a bomb; members already yielded stay valid.
        OSError: it cannot be read.
    """
    if not is_zip(file.name):
        yield from _tar_members(file)
        return
    with file.open("rb") as opened:
        yield from zip_members(opened)


def members_digest(file: str) -> str:
    """A hash of what an archive states about its members, to distinguish archives of the same size and time.

    For a ZIP it is the hash of the central directory, which has names and checksums. A compressed TAR has no
    directory, so the end of its file is hashed, where gzip and bzip2 keep a checksum of all content, and xz one of its
    last block. The hash is empty for archives that cannot be listed, and for a TAR that is not compressed, whatever
    its name, because such a TAR has no checksum of its content.
    """
    name, digest = file.lower(), hashlib.blake2b(digest_size=8)
    with open(file, "rb") as opened:  # noqa: PTH123 (a Path for each of many archives takes time)
        try:
            if is_zip(name):
                start = _central_directory(opened)[0]
            elif opened.read(6).startswith(_PACKED):
                start = max(0, opened.seek(0, 2) - _PACKED_END)
            else:
                return ""
        except BrokenArchive:
            return ""
        opened.seek(start)
        while block := opened.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def open_tar(file: Path) -> tarfile.TarFile:
    """Open a TAR as a stream; members whose headers exceed MAX_TAR_HEADERS raise Refused on the way."""
    return tarfile.open(file, "r:" if file.name.lower().endswith(".tar") else "r|*", tarinfo=_Bounded)


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


def _tar_members(file: Path) -> Iterator[Member]:
    limit = file.stat().st_size * MAX_EXPANSION + ALLOWANCE
    plain = file.name.lower().endswith(".tar")
    try:
        with open_tar(file) as archive:
            for entry in archive:
                archive.members.clear()  # type: ignore[attr-defined]  # tarfile would remember every member it has passed
                if entry.offset_data + entry.size > limit:
                    raise BrokenArchive(f"it claims to unpack to more than {MAX_EXPANSION} times its size")
                if entry.isdir():
                    continue
                problem = unsafe(entry.name) or (None if entry.isfile() else "a link or device inside an archive")
                if entry.issparse():  # its bytes are not contiguous
                    problem = problem or "a sparse file inside an archive: unpack it here"
                start = b"" if plain or problem or not has_no_suffix(entry.name) else _first_bytes(archive, entry)
                yield Member(entry.name, entry.size, entry.offset_data if plain else None, problem, start=start)
    except BrokenArchive:
        raise
    except Refused as refused:
        raise BrokenArchive(str(refused)) from refused
    except Exception as error:  # broken streams break tarfile and the decompressors in many ways, TypeError included
        raise BrokenArchive(f"broken archive ({type(error).__name__})") from error


def _first_bytes(archive: tarfile.TarFile, entry: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(entry)
    return file.read(min(entry.size, _START)) if file else b""


def zip_members(opened: BinaryIO) -> Iterator[Member]:
    """Walk the central directory entry by entry: `zipfile` would load all of it, gigabytes for millions of images.

    Raises:
        BrokenArchive: as `list_members`.
    """
    start, count, shift = _central_directory(opened)
    left = start - shift  # members must not overlap before the directory
    opened.seek(start)
    for _ in range(count):
        header = opened.read(HEADER.size)
        if len(header) < HEADER.size or header[:4] != b"PK\1\2":
            raise BrokenArchive("broken archive (bad central directory)")
        _, flags, method, packed, size, lengths, extras, comments, attributes, offset = HEADER.unpack(header)
        raw = opened.read(lengths)
        if extras:
            size, packed, offset = _wide(opened.read(extras), size, packed, offset)
        opened.read(comments)
        left -= packed
        if left < 0:
            raise BrokenArchive("broken archive (its members overlap)")
        name = zip_name(raw, flags)
        if not name.endswith("/"):
            problem = unsafe(name) or _problem(flags, method, attributes >> 16)
            yield Member(name, size, offset + shift, problem)


def zip_name(stored: bytes, flags: int) -> str:
    """The name of a member of a ZIP with these general purpose flags."""
    name = stored.decode("utf-8" if flags & 0x800 else "cp437", "backslashreplace")
    return name.replace("\\", "/")  # some Windows programs write backslashes, against APPNOTE 4.4.17


def _problem(flags: int, method: int, mode: int) -> str | None:
    if flags & 1:
        return "encrypted inside the archive"
    if method not in (0, 8, 12, 14):
        return f"packed with ZIP method {method}, which is not supported"
    if mode & 0o170000 == 0o120000:
        return "a link or device inside an archive"
    return None


def _central_directory(opened: BinaryIO) -> tuple[int, int, int]:
    """Where the central directory begins, its number of entries, and how far the archive is shifted in its file."""
    length = opened.seek(0, 2)
    tail_start = max(0, length - 65557)
    opened.seek(tail_start)
    tail = opened.read()
    at = tail.rfind(b"PK\5\6")
    if at < 0 or len(tail) - at < 22:
        raise BrokenArchive("broken archive (no end record: truncated, or not a ZIP)")
    disk, first_disk, _, count, size, start = struct.unpack("<HHHHII", tail[at + 4 : at + 20])
    end = tail_start + at
    if at >= 20 and tail[at - 20 : at - 16] == b"PK\6\7":
        end -= 76  # the ZIP64 end record (56) and its locator (20); the stated place is wrong in a shifted archive
        opened.seek(max(end, 0))
        record = opened.read(56)
        if len(record) < 56 or record[:4] != b"PK\6\6":
            raise BrokenArchive("broken archive (bad ZIP64 record)")
        disk, first_disk, _, count, size, start = struct.unpack("<IIQQQQ", record[16:56])
    if disk or first_disk:
        raise BrokenArchive("one part of a split archive: join the parts first")
    shift = end - size - start
    if shift < 0 or count * 46 > size:
        raise BrokenArchive("broken archive (end record and size disagree)")
    return start + shift, count, shift


def _wide(extra: bytes, size: int, packed: int, offset: int) -> tuple[int, int, int]:
    """Sizes and offset, from the ZIP64 extra field if the short fields are full."""
    at = 0
    while at + 4 <= len(extra):
        tag, length = struct.unpack("<HH", extra[at : at + 4])
        if tag == 1:
            wide = extra[at + 4 : at + 4 + length]
            values = [value for (value,) in struct.iter_unpack("<Q", wide[: len(wide) // 8 * 8])]
            full = [number == 0xFFFFFFFF for number in (size, packed, offset)]
            if sum(full) > len(values):
                raise BrokenArchive("broken archive (bad ZIP64 field)")
            size, packed, offset = (
                values.pop(0) if is_full else number
                for is_full, number in zip(full, (size, packed, offset), strict=True)
            )
        at += 4 + length
    return size, packed, offset
