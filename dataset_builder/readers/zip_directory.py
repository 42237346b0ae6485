"""Reads the central directory of a ZIP, entry by entry and without trusting its claims."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, BinaryIO

_BLOCK = 4 << 20  # bytes of a ZIP's directory that are read at a time; some 40,000 members
HEADER = struct.Struct("<4s4xHH8xIIHHH4xII")  # of one entry in a ZIP's central directory
_LONGEST_ENTRY = HEADER.size + 3 * 0xFFFF  # with its name, extra field and comment


class BrokenArchive(ValueError):
    """Why an archive cannot be listed, without repeating its content."""


@dataclass(frozen=True)
class Directory:
    """The central directory of a ZIP, walked entry by entry: `zipfile` would load all of it.

    It takes gigabytes for millions of images. The first block is kept, so that a shorter directory is read once.

    Attributes:
        file: the archive.
        start: where the directory begins.
        count: its entries.
        shift: bytes before the archive in its file.
        tail: all bytes from `start` on, if they have been read already.
    """

    file: BinaryIO
    start: int
    count: int
    shift: int
    tail: bytes

    @cached_property
    def _first(self) -> bytes:
        return self.tail or self._block(self.start)

    def _block(self, at: int) -> bytes:
        self.file.seek(at)
        return self.file.read(_BLOCK)

    def blocks(self) -> Iterator[bytes]:
        """All bytes from the directory to the end of the file."""
        block, at = self._first, self.start
        while block:
            yield block
            at += len(block)
            block = self._block(at) if len(block) == _BLOCK else b""

    def entries(self) -> Iterator[tuple[tuple[Any, ...], bytes, bytes]]:
        """The fixed fields of each entry, its stored name and its extra field.

        Raises:
            BrokenArchive: an entry does not begin like one.
        """
        blocks, buffer, at = self.blocks(), b"", 0
        for _ in range(self.count):
            if len(buffer) - at < _LONGEST_ENTRY and (block := next(blocks, b"")):
                buffer, at = buffer[at:] + block, 0
            if len(buffer) - at < HEADER.size or buffer[at : at + 4] != b"PK\1\2":
                raise BrokenArchive("broken archive (bad central directory)")
            fields = HEADER.unpack_from(buffer, at)
            name, extra = at + HEADER.size, at + HEADER.size + fields[5]
            yield fields, buffer[name:extra], buffer[extra : extra + fields[6]]
            at = extra + fields[6] + fields[7]


def central_directory(opened: BinaryIO) -> Directory:
    """Find the central directory of a ZIP.

    Raises:
        BrokenArchive: the archive is broken, truncated or split.
    """
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
    start += shift
    return Directory(opened, start, count, shift, tail[start - tail_start :] if start >= tail_start else b"")


def zip_name(stored: bytes, flags: int) -> str:
    """The name of a member of a ZIP with these general purpose flags."""
    name = stored.decode("utf-8" if flags & 0x800 else "cp437", "backslashreplace")
    return name.replace("\\", "/")  # some Windows programs write backslashes, against APPNOTE 4.4.17


def wide_fields(extra: bytes, size: int, packed: int, offset: int) -> tuple[int, int, int]:
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
