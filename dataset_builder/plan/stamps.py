"""The identity of an input: what is compared when it is read, so that nothing is taken for another file in silence."""

import hashlib
import os
from functools import lru_cache
from pathlib import Path

from ..item import Item
from ..readers.archives import is_archive, members_digest

STAMP = "/"  # between size and time


def stamp_of(item: Item, raw: str | Path, listed: dict[str, str] | None = None) -> str:
    """Size and time of change (ns) of an input's file; of an archive also what it says of its members.

    Of a series the hash of its files'.

    Members of a ZIP, or of a TAR that is not compressed, are read at places; that what is there is called as it was
    when it was listed, their reader sees. Members of other archives are found by their names.

    `listed` holds the stamps of files that were looked at already, by their paths below `raw`; that of a file which is
    one input is taken out.

    Beside the plan and not in an `Item`: what is written must not depend on when a file was copied.
    """
    listed = {} if listed is None else listed
    if item.files:
        return hashlib.sha256(" ".join(_stamp(raw, file, listed) for file in item.files).encode()).hexdigest()[:16]
    if item.member is not None and item.path in listed:
        return listed[item.path]
    return _stamp(raw, item.path, listed)


def stamp(path: str, status: os.stat_result) -> str:
    """Size and time of change of a file; of an archive also a hash of what it says of its members."""
    sizes = f"{status.st_size}{STAMP}{status.st_mtime_ns}"
    if not is_archive(path):
        return sizes
    return f"{sizes}{STAMP}{_members(path, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)}"


@lru_cache(maxsize=64)
def _members(path: str, *_changed: int) -> str:
    """Read once as long as the system tells no change: the time of status cannot be set back."""
    try:
        return members_digest(path)
    except OSError:  # what cannot be opened is told when it is listed, or read
        return ""


def _stamp(raw: str | Path, path: str, listed: dict[str, str]) -> str:
    if path in listed:
        return listed.pop(path)
    try:
        return stamp(f"{raw}/{path}", os.stat(f"{raw}/{path}"))  # noqa: PTH116 (there may be millions)
    except (OSError, ValueError):
        return ""
