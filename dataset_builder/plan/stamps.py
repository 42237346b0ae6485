"""The identity of an input: what is compared when it is read, so that nothing is taken for another file in silence."""

import hashlib
import os
from functools import lru_cache
from pathlib import Path

from ..item import Item
from ..readers.archives import list_members


def stamp_of(item: Item, raw: str | Path, listed: dict[str, str] | None = None) -> str:
    """Size and time of change (ns) of an input's file; of a series the hash of its files'.

    Of a member of a ZIP, or of a TAR that is not compressed, a hash of the archive's directory of members is added:
    they are read at places that it tells. Members of other archives are found by their names.

    `listed` holds the stamps of files that were looked at already, by their paths below `raw`, which lose those used.

    Beside the plan and not in an `Item`: what is written must not depend on when a file was copied.
    """
    listed = {} if listed is None else listed
    if item.files:
        return hashlib.sha256(" ".join(_stamp(raw, file, listed) for file in item.files).encode()).hexdigest()[:16]
    by_place = item.offset is not None or bool(item.members)
    if not by_place or not item.path.lower().endswith((".zip", ".tar")):
        return _stamp(raw, item.path, listed)
    path = Path(raw, item.path)
    own = _stamp(raw, item.path, {})
    return f"{own}/{_directory(path, path.stat().st_ctime_ns)}" if own else own


def stamp(status: os.stat_result) -> str:
    """Size and time of change of a file."""
    return f"{status.st_size}/{status.st_mtime_ns}"


def _stamp(raw: str | Path, path: str, listed: dict[str, str]) -> str:
    if path in listed:
        return listed.pop(path)
    try:
        return stamp(os.stat(f"{raw}/{path}"))  # noqa: PTH116 (there may be millions)
    except (OSError, ValueError):
        return ""


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
