"""Names of a folder's files in what is written: their paths below it, or keyed hashes where paths tell of a person."""

import hashlib
import secrets
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from biovfm_hf.decoding.content import GZIP, first_bytes
from biovfm_hf.decoding.files import IMAGE_SUFFIXES
from biovfm_hf.decoding.identity_words import bears, header_words
from biovfm_hf.errors import UserError
from biovfm_hf.reading.image_files import walk
from biovfm_hf.reading.limited import LIMITED

AUTO, KEEP, WITHHOLD = "auto", "keep", "withhold"
KNOWN_SUFFIXES = tuple(suffix for name in IMAGE_SUFFIXES for suffix in (name, f"{name}.gz"))
NAMED = "paths repeat what the files' DICOM headers tell"
UNREAD = "the DICOM header of a file cannot be read, so nobody knows whether paths repeat it"
ARCHIVE = "an archive there is not opened, so nobody knows whether paths repeat what its files tell"
_ARCHIVES = (
    (0, b"PK"),
    (0, b"7z\xbc\xaf"),
    (0, b"Rar!"),
    (0, GZIP),
    (0, b"BZh"),
    (0, b"\xfd7zXZ"),
    (257, b"ustar"),
    (0x8001, b"CD001"),
)  # their marks, each at its place; the last is of an image of a disc
_FILES = 64  # headers that one call reads


class Naming:
    """Names each file of a folder by its path below the folder, or by a keyed hash that `places` maps to the path."""

    def __init__(self, folder: Path, withhold: bool) -> None:
        self.folder = folder
        self.places: dict[str, str] = {}
        self._key = secrets.token_bytes(16) if withhold else None  # nobody can test a guess against a hash

    def __call__(self, path: Path) -> str:
        """The name of a file in the folder."""
        place = path.relative_to(self.folder).as_posix()
        if self._key is None:
            return place
        digest = hashlib.blake2b(place.encode("utf-8", "surrogateescape"), key=self._key, digest_size=8).hexdigest()
        suffixes = [suffix for suffix in KNOWN_SUFFIXES if place.lower().endswith(suffix)]
        name = digest + max(suffixes, key=len, default="")
        self.places[name] = place
        return name


def why_withheld(folder: Path, paths: Sequence[str] | None = None) -> str | None:
    """Why no path below a folder may be shown; None if none repeats its file's header, and none is an archive.

    Headers are those of DICOM files, read by limited processes up to the first that tells; a file of another format is
    compared with the headers of its neighbours. The builder compares each file with its own in the same way; it also
    hides captured subjects, and what looks like a date or a record number in no header.

    Args:
        folder: the paths are below it.
        paths: those to compare; by default of all files below the folder.
    """
    if paths is None:
        paths = [path.relative_to(folder).as_posix() for path, _ in walk(folder)]
    parts = [paths[start : start + _FILES] for start in range(0, len(paths), _FILES)]
    pool = ThreadPoolExecutor()
    try:
        return next(filter(None, pool.map(partial(_compared, folder), parts)), None)
    finally:
        pool.shutdown(cancel_futures=True)


def _compared(folder: Path, paths: Sequence[str]) -> str | None:
    try:
        return LIMITED.call("DICOM headers", why_told, str(folder), list(paths))
    except UserError:  # a header that stops its reader
        return UNREAD


def why_told(folder: str, paths: list[str]) -> str | None:
    """`why_withheld` in this process. Files without a header are compared with the headers of those beside them."""
    told: set[str] = set()
    without: set[str] = set()
    for path in paths:
        file = Path(folder, path)
        try:
            if not path.lower().endswith(KNOWN_SUFFIXES) and file.is_file() and _is_archive(file):
                return ARCHIVE
            words = header_words(file if file.is_file() else b"", file.name)
        except OSError:
            words = header_words(b"", file.name)
        if words is None:
            return UNREAD
        parts = path.split("/")
        if any(bears(part, words) for part in parts):
            return NAMED
        if words:
            told |= words
        else:
            without.update(parts)
    return NAMED if any(bears(part, told) for part in without) else None


def _is_archive(file: Path) -> bool:
    start = first_bytes(file, 0x8006)
    return any(start.startswith(mark, place) for place, mark in _ARCHIVES)
