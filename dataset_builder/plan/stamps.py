"""The identity of an input: what is compared when it is read, so that nothing is taken for another file in silence."""

import hashlib
from functools import lru_cache
from pathlib import Path

from ..item import Item
from ..readers.archives import list_members


def stamp_of(item: Item, raw: Path) -> str:
    """Size and time of change (ns) of an input's file; of a series the hash of its files'.

    Of a member of a ZIP, or of a TAR that is not compressed, a hash of the archive's directory of members is added:
    they are read at places that it tells. Members of other archives are found by their names.

    Beside the plan and not in an `Item`: what is written must not depend on when a file was copied.
    """
    if item.files:
        return hashlib.sha256(" ".join(_stamp(raw / file) for file in item.files).encode()).hexdigest()[:16]
    path = raw / item.path
    stamp = _stamp(path)
    if stamp and (item.offset is not None or item.members) and path.name.lower().endswith((".zip", ".tar")):
        stamp += f"/{_directory(path, path.stat().st_ctime_ns)}"
    return stamp


def _stamp(path: Path) -> str:
    try:
        status = path.stat()
    except (OSError, ValueError):
        return ""
    return f"{status.st_size}/{status.st_mtime_ns}"


@lru_cache(maxsize=4)
def _directory(path: Path, _changed: int) -> str:
    """A hash of what the archive holds; read again when anything about the file has changed."""
    digest = hashlib.sha256()
    try:
        for member in list_members(path):
            digest.update(f"{member.name}\0{member.size}\0{member.offset}\0".encode("utf-8", "backslashreplace"))
    except (OSError, ValueError):  # what was listed before stands
        digest.update(b"broken")
    return digest.hexdigest()[:16]
