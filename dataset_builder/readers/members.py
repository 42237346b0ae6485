"""Reads members of ZIP and TAR archives in place, one at a time and up to their claimed size."""

import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from io import BytesIO
from itertools import groupby
from pathlib import Path
from typing import IO, BinaryIO

from biovfm_hf.errors import unquoted

from ..item import Item, Part
from ..limits import CHANGED, MAX_MEMBER_BYTES, MAX_RATIO, MAX_VOLUME_BYTES, TOO_LARGE, UNREADABLE, Refused
from .archives import START, Archive, Member, open_tar, zip_name

_LOCAL_HEADER = struct.Struct("<4s5H3I2H")
_BLOCK = 2**20
_START_BLOCK = 2**12  # packed bytes that are read at a time if only a member's start is needed
_ENCRYPTED, _SIZES_FOLLOW = 0x1, 0x8
_FAILURES = (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError, ValueError, TypeError)
"""Exceptions of broken archives; tarfile raises TypeError if a compressed stream ends in its header."""


def members(path: Path, items: Sequence[Item]) -> Iterator[tuple[Item, bytes | Refused]]:
    """Yield the bytes of the members that `items` name, or why they cannot be read; `items` in archive order.

    A ZIP or an uncompressed TAR is read at the offsets in the plan, a compressed TAR once from its start.
    """
    name = path.name.lower()
    if name.endswith(".zip"):
        with path.open("rb") as file:
            for outer, group in groupby(items, key=lambda item: item.outer):
                yield from _of_zip(file, path, outer, group)
    elif name.endswith(".tar"):
        with path.open("rb") as file:
            for item in items:
                yield item, _caught(_tar_member, file, path, item)
    else:
        yield from _streamed(path, items)


def series(path: Path, items: Sequence[Item]) -> Iterator[tuple[Item, list[bytes | Refused]]]:
    """Yield the files of the series that `items` name, in slice order; `items` in the order of their last files.

    For archives that can only be read as a stream, once for all `items`. Files stay in memory until their series is
    complete.
    """
    listed = sorted(
        (part.at or 0, number, place, part)
        for number, item in enumerate(items)
        for place, part in enumerate(item.members)
    )
    contents: list[dict[int, bytes | Refused]] = [{} for _ in items]
    ready = 0
    in_order = [Item(path.name, part.name, "image", size=part.size) for *_, part in listed]
    for (_, number, place, _), (_, data) in zip(listed, members(path, in_order), strict=True):
        contents[number][place] = data
        if sum(len(one) for one in contents[number].values() if isinstance(one, bytes)) > MAX_VOLUME_BYTES:
            contents[number] = dict.fromkeys(contents[number], Refused(TOO_LARGE, "a series; unpack the archive here"))
        while ready < len(items) and len(contents[ready]) == len(items[ready].members):
            yield items[ready], [contents[ready][at] for at in range(len(contents[ready]))]
            contents[ready] = {}
            ready += 1


def content_of(archive: Archive, member: Member) -> bytes | Refused:
    """The bytes of the member that was listed last, or why they cannot be read."""
    item = member.part().item(archive.path.name)
    if member.stream is not None:
        return _caught(_stream_bytes(member.stream, member.size), None, archive.path, item)  # type: ignore[arg-type]
    return _caught(_zip_member if archive.is_zip else _tar_member, archive.file, archive.path, item)


def start_of(archive: Archive, member: Member) -> bytes:
    """The first `START` bytes of a member; fewer, or none, if it is shorter or cannot be read."""
    if member.offset is None:
        return member.start
    item = member.part().item(archive.path.name)
    start = _caught(_zip_start if archive.is_zip else _tar_start, archive.file, archive.path, item)
    return start if isinstance(start, bytes) else b""


def _of_zip(
    file: BinaryIO, path: Path, outer: Part | None, items: Iterable[Item]
) -> Iterator[tuple[Item, bytes | Refused]]:
    """Members of the archive, or of the ZIP inside it that `outer` describes, which is kept in memory."""
    if outer is not None:
        content = _caught(_zip_member, file, path, outer.item(path.name, "archive"))
        if isinstance(content, Refused):
            yield from ((item, content) for item in items)
            return
        file = BytesIO(content)
    for item in items:
        yield item, _caught(_zip_member, file, path, item)


def _caught(read, file: BinaryIO, path: Path, item: Item) -> bytes | Refused:
    try:
        if item.size is not None and item.size > MAX_MEMBER_BYTES:
            raise Refused(TOO_LARGE, f"a member of {item.size / 2**20:.0f} MiB; unpack the archive here")
        return read(file, path, item)
    except Refused as refused:
        return refused
    except (*_FAILURES, zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
        return Refused(UNREADABLE, unquoted(error).replace(str(path), "the archive"))


def _zip_member(file: BinaryIO, path: Path, item: Item) -> bytes:
    """Read a stored or deflated member; zipfile reads other methods."""
    if item.offset is None:
        return _through_zipfile(file, item)
    flags, method, crc = _local_header(file, item)
    size = item.size or 0
    if method == zipfile.ZIP_STORED:
        data = file.read(size)
    elif method == zipfile.ZIP_DEFLATED:
        data = _inflated(file, size + 1, _BLOCK)
        if len(data) > size:
            raise Refused(TOO_LARGE, f"inflates beyond the {size} bytes that it claims")
    else:
        return _through_zipfile(file, item)
    if len(data) != size or (not flags & _SIZES_FOLLOW and zlib.crc32(data) != crc):
        raise Refused(UNREADABLE, f"damaged: {len(data)} of {size} bytes, or a wrong checksum")
    return data


def _zip_start(file: BinaryIO, path: Path, item: Item) -> bytes:
    method = _local_header(file, item)[1]
    most = min(START, item.size or 0)
    if method == zipfile.ZIP_STORED:
        return file.read(most)
    if method == zipfile.ZIP_DEFLATED:
        return _inflated(file, most, _START_BLOCK)
    return _through_zipfile(file, item)[:most]


def _local_header(file: BinaryIO, item: Item) -> tuple[int, int, int]:
    """Flags, method and checksum of a member, whose data come next (APPNOTE 4.3.7)."""
    file.seek(item.offset or 0)
    fixed = file.read(_LOCAL_HEADER.size)
    if len(fixed) < _LOCAL_HEADER.size:
        raise Refused(UNREADABLE, "the archive is truncated")
    magic, _, flags, method, _, _, crc, packed, _, name_length, extra_length = _LOCAL_HEADER.unpack(fixed)
    if magic != b"PK\x03\x04":
        raise Refused(UNREADABLE, "no member begins where the archive's list says")
    if flags & _ENCRYPTED:
        raise Refused(UNREADABLE, "encrypted")
    if _own_name(item) != zip_name(file.read(name_length), flags):
        raise Refused(CHANGED, "the archive lists another member there")
    size, stated = item.size or 0, not flags & _SIZES_FOLLOW and packed != 0xFFFFFFFF
    if method == zipfile.ZIP_DEFLATED and stated and size > packed * MAX_RATIO:
        raise Refused(TOO_LARGE, f"claims {size} bytes out of {packed}")
    file.seek(extra_length, 1)
    return flags, method, crc


def _inflated(file: BinaryIO, most: int, block_size: int) -> bytes:
    """Up to `most` bytes of a deflated member."""
    inflater, pieces, total = zlib.decompressobj(-zlib.MAX_WBITS), [], 0
    while not inflater.eof and total < most and (block := file.read(block_size)):
        while block and not inflater.eof and total < most:
            pieces.append(inflater.decompress(block, most - total))
            total += len(pieces[-1])
            block = inflater.unconsumed_tail
    return b"".join(pieces)


def _through_zipfile(file: BinaryIO, item: Item) -> bytes:
    name = (item.member or "").rpartition("!")[2] if item.outer is not None else item.member or ""
    with zipfile.ZipFile(file) as archive:
        stored = next((one for one in archive.infolist() if one.filename.replace("\\", "/") == name), name)
        with archive.open(stored) as member:
            data = member.read(MAX_MEMBER_BYTES + 1)
    if len(data) > MAX_MEMBER_BYTES:
        raise Refused(TOO_LARGE, f"a member of more than {MAX_MEMBER_BYTES / 2**20:.0f} MiB; unpack the archive here")
    return data


def _own_name(item: Item) -> str:
    """A member's name in its innermost archive."""
    name = item.member or ""
    return name if item.outer is None else name.removeprefix(f"{item.outer.name}!")


def _tar_member(file: BinaryIO, path: Path, item: Item) -> bytes:
    data = _tar_data(file, item, item.size or 0)
    if len(data) != item.size:
        raise Refused(UNREADABLE, "the archive is truncated")
    return data


def _tar_start(file: BinaryIO, path: Path, item: Item) -> bytes:
    return _tar_data(file, item, min(START, item.size or 0))


def _tar_data(file: BinaryIO, item: Item, most: int) -> bytes:
    file.seek((item.offset or 0) - tarfile.BLOCKSIZE)
    if not _names(file.read(tarfile.BLOCKSIZE), item):
        raise Refused(CHANGED, "the archive lists another member there")
    return file.read(most)


def _names(header: bytes, item: Item) -> bool:
    """Whether a block of a TAR is the header of a member; blocks before it hold long names and sizes."""
    try:
        entry = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    except tarfile.TarError:
        return False
    name = item.member or ""
    whole = name.isascii() and len(name) <= tarfile.LENGTH_NAME
    return entry.size in (item.size, 0) and (entry.name == name if whole else True)


def _streamed(path: Path, items: Sequence[Item]) -> Iterator[tuple[Item, bytes | Refused]]:
    """Stream through a compressed TAR. Members of the same name go to the items of that name in turn."""
    waiting = list(items)
    done = 0
    try:
        with path.open("rb") as file, open_tar(file, path.name) as archive:
            for entry in archive:
                archive.members.clear()  # type: ignore[attr-defined]  # tarfile would keep all earlier members
                if done == len(waiting):
                    return
                if entry.name != waiting[done].member or not entry.isfile():
                    continue
                item = waiting[done]
                done += 1
                stream = archive.extractfile(entry)
                yield item, _caught(_stream_bytes(stream, entry.size), None, path, item)  # type: ignore[arg-type]
    except Refused as refused:
        answer = refused
    except Exception as error:  # broken streams break tarfile and the decompressors in many ways
        answer = Refused(UNREADABLE, f"the archive is damaged ({type(error).__name__})")
    else:
        answer = Refused(UNREADABLE, "no longer in the archive")
    for item in waiting[done:]:
        yield item, answer


def _stream_bytes(stream: IO[bytes] | None, size: int):
    def read(file: BinaryIO, path: Path, item: Item) -> bytes:
        data = stream.read(min(size, MAX_MEMBER_BYTES)) if stream else b""  # it allocates the requested size
        if len(data) != size:
            raise Refused(UNREADABLE, f"ends after {len(data)} of {size} bytes")
        return data

    return read
