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
from typing import BinaryIO

from biovfm_hf.errors import unquoted

from ..item import Item, Part
from ..limits import CHANGED, MAX_MEMBER_BYTES, MAX_RATIO, MAX_VOLUME_BYTES, TOO_LARGE, UNREADABLE, Refused
from .archives import open_tar, zip_name

_LOCAL_HEADER = struct.Struct("<4s5H3I2H")
_BLOCK = 2**20
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


def zip_member(file: BinaryIO, path: Path, item: Item) -> bytes | Refused:
    """The bytes of a member of an opened ZIP, which may be one inside the archive `path`, or why not."""
    return _caught(_zip_member, file, path, item)


def _of_zip(
    file: BinaryIO, path: Path, outer: Part | None, items: Iterable[Item]
) -> Iterator[tuple[Item, bytes | Refused]]:
    """Members of the archive, or of the ZIP inside it that `outer` describes, which is kept in memory."""
    if outer is not None:
        content = zip_member(file, path, outer.item(path.name, "archive"))
        if isinstance(content, Refused):
            yield from ((item, content) for item in items)
            return
        file = BytesIO(content)
    for item in items:
        yield item, zip_member(file, path, item)


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
    """Read a stored or deflated member at its local header (APPNOTE 4.3.7); zipfile reads other methods."""
    if item.offset is None:
        return _through_zipfile(file, item)
    file.seek(item.offset)
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
    file.seek(extra_length, 1)
    size = item.size or 0
    if method == zipfile.ZIP_STORED:
        data = file.read(size)
    elif method == zipfile.ZIP_DEFLATED:
        data = _inflated(file, size, None if flags & _SIZES_FOLLOW or packed == 0xFFFFFFFF else packed)
    else:
        return _through_zipfile(file, item)
    if len(data) != size or (not flags & _SIZES_FOLLOW and zlib.crc32(data) != crc):
        raise Refused(UNREADABLE, f"damaged: {len(data)} of {size} bytes, or a wrong checksum")
    return data


def _inflated(file: BinaryIO, size: int, packed: int | None) -> bytes:
    if packed is not None and size > packed * MAX_RATIO:
        raise Refused(TOO_LARGE, f"claims {size} bytes out of {packed}")
    inflater, pieces, total = zlib.decompressobj(-zlib.MAX_WBITS), [], 0
    while not inflater.eof and total <= size and (block := file.read(_BLOCK)):
        while block and not inflater.eof and total <= size:
            pieces.append(inflater.decompress(block, size - total + 1))
            total += len(pieces[-1])
            block = inflater.unconsumed_tail
    if total > size:
        raise Refused(TOO_LARGE, f"inflates beyond the {size} bytes that it claims")
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
    file.seek((item.offset or 0) - tarfile.BLOCKSIZE)
    if not _names(file.read(tarfile.BLOCKSIZE), item):
        raise Refused(CHANGED, "the archive lists another member there")
    data = file.read(item.size or 0)
    if len(data) != item.size:
        raise Refused(UNREADABLE, "the archive is truncated")
    return data


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
        with open_tar(path) as archive:
            for entry in archive:
                archive.members.clear()  # type: ignore[attr-defined]  # tarfile would keep all earlier members
                if done == len(waiting):
                    return
                if entry.name != waiting[done].member or not entry.isfile():
                    continue
                item = waiting[done]
                done += 1
                yield item, _caught(_entry_bytes(archive, entry), None, path, item)  # type: ignore[arg-type]
    except Refused as refused:
        answer = refused
    except Exception as error:  # broken streams break tarfile and the decompressors in many ways
        answer = Refused(UNREADABLE, f"the archive is damaged ({type(error).__name__})")
    else:
        answer = Refused(UNREADABLE, "no longer in the archive")
    for item in waiting[done:]:
        yield item, answer


def _entry_bytes(archive: tarfile.TarFile, entry: tarfile.TarInfo):
    def read(file: BinaryIO, path: Path, item: Item) -> bytes:
        member = archive.extractfile(entry)
        data = member.read(min(entry.size, MAX_MEMBER_BYTES)) if member else b""  # it allocates the requested size
        if len(data) != entry.size:
            raise Refused(UNREADABLE, f"ends after {len(data)} of {entry.size} bytes")
        return data

    return read
