"""Stamps of inputs, compared when an input is read, so that a changed file does not go unnoticed."""

import hashlib
import os
from functools import lru_cache
from pathlib import Path

from ..item import Item
from ..readers.archives import Archive, is_archive

STAMP = "/"  # between size and time


def stamp_of(item: Item, raw: str | Path, listed: dict[str, str] | None = None) -> str:
    """Size and time of change (ns) of an input's file; for an archive also a hash of what it states about its members.

    For a series it is a hash of its files' stamps.

    Members of a ZIP or an uncompressed TAR are read at offsets; their reader checks that the name there is the listed
    one. Members of other archives are found by name.

    `listed` holds the stamps of files that were looked at already, by their paths below `raw`; the stamp of a file
    that is one input is removed.

    Stamps are kept beside the plan, not in `Item`, since the dataset must not depend on when a file was copied.
    """
    listed = {} if listed is None else listed
    if item.files:
        return hashlib.sha256(" ".join(_stamp(raw, file, listed) for file in item.files).encode()).hexdigest()[:16]
    if item.member is not None and item.path in listed:
        return listed[item.path]
    return _stamp(raw, item.path, listed)


def stamp(path: str, status: os.stat_result) -> str:
    """Size and time of change of a file; for an archive, which is opened, also a hash of its member list."""
    if not is_archive(path):
        return _size_and_time(status)
    members = _members_of(path, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
    return f"{_size_and_time(status)}{STAMP}{members}"


def archive_stamp(archive: Archive, status: os.stat_result) -> str:
    """The stamp of an archive that is opened anyway.

    No header of a TAR has a checksum of the content, so members of one size could exchange theirs unseen. If the TAR
    is not packed, whatever its name, the time of status stands in place of the hash. It changes with every write and
    cannot be set back: new rights or another name of the file make it a changed one too.
    """
    return f"{_size_and_time(status)}{STAMP}{_members(archive, status.st_ctime_ns)}"


def _size_and_time(status: os.stat_result) -> str:
    return f"{status.st_size}{STAMP}{status.st_mtime_ns}"


@lru_cache(maxsize=64)
def _members_of(path: str, size: int, changed: int, status_changed: int, inode: int) -> str:
    """`_members` of a file, cached until its status changes."""
    with Archive(Path(path)) as archive:
        return _members(archive, status_changed)


def _members(archive: Archive, status_changed: int) -> str:
    """Digest of an archive's member list; without checksums, the time of status."""
    try:
        return archive.digest() or str(status_changed)
    except OSError:  # listing or reading will report it
        return ""


def _stamp(raw: str | Path, path: str, listed: dict[str, str]) -> str:
    if path in listed:
        return listed.pop(path)
    try:
        return stamp(f"{raw}/{path}", os.stat(f"{raw}/{path}"))  # noqa: PTH116 (there may be millions)
    except (OSError, ValueError):
        return ""
