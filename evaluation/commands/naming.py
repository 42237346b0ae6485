"""Names of a folder's files in outputs: their paths below it, or keyed hashes if paths may identify a person."""

import secrets
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from biovfm_hf.decoding.content import GZIP, first_bytes
from biovfm_hf.decoding.files import IMAGE_SUFFIXES
from biovfm_hf.decoding.identity_words import contains_word, header_words
from biovfm_hf.errors import UserError
from biovfm_hf.keyed_names import keyed_hash, longest_suffix
from biovfm_hf.reading.image_files import walk
from biovfm_hf.reading.limited import LIMITED

AUTO, KEEP, WITHHOLD = "auto", "keep", "withhold"
KNOWN_SUFFIXES = tuple(suffix for name in IMAGE_SUFFIXES for suffix in (name, f"{name}.gz"))
NAMED = "paths repeat words of the files' DICOM headers"
UNREAD = "the DICOM header of a file cannot be read, so paths may repeat its words"
ARCHIVE = "an archive there is not opened, so paths may repeat words of the headers in it"
_ARCHIVES = (
    (0, b"PK"),
    (0, b"7z\xbc\xaf"),
    (0, b"Rar!"),
    (0, GZIP),
    (0, b"BZh"),
    (0, b"\xfd7zXZ"),
    (257, b"ustar"),
    (0x8001, b"CD001"),
)  # the offset and first bytes of each format; the last is the image of a disc
_FILES = 64  # number of headers that one call reads


class Naming:
    """Names each file of a folder by its path below the folder, or by a keyed hash that `places` maps to the path.

    The key is drawn anew for each features file and kept nowhere; `places` alone leads back. (The names of private
    sources in a dataset are made with a key that the build keeps, so that they stay the same when it continues.)
    """

    def __init__(self, folder: Path, withhold: bool) -> None:
        self.folder = folder
        self.places: dict[str, str] = {}
        self._key = secrets.token_bytes(16) if withhold else None  # without it nobody can test a guess

    def __call__(self, path: Path) -> str:
        """The name of a file in the folder."""
        place = path.relative_to(self.folder).as_posix()
        if self._key is None:
            return place
        name = keyed_hash(place, self._key, 8) + longest_suffix(place, KNOWN_SUFFIXES)
        self.places[name] = place
        return name


def why_withheld(folder: Path, paths: Sequence[str] | None = None) -> str | None:
    """Why no path below a folder may be shown; None if none repeats its file's header, and none is an archive.

    Limited processes read the headers of DICOM files, until a path repeats one. A file of another format is compared
    with the headers of its neighbours. The builder compares each file with its own header in the same way; it also
    hides captured subjects, and text that looks like a date or a record number.

    Args:
        folder: the paths are below it.
        paths: the paths to compare; by default those of all files below the folder.
    """
    if paths is None:
        paths = [path.relative_to(folder).as_posix() for path, _ in walk(folder)]
    parts = [paths[start : start + _FILES] for start in range(0, len(paths), _FILES)]
    pool = ThreadPoolExecutor()
    try:
        return next(filter(None, pool.map(partial(_compare_in_limits, folder), parts)), None)
    finally:
        pool.shutdown(cancel_futures=True)


def first_archive(folder: Path) -> Path | None:
    """The first file below a folder that is an archive by its content; None if there is none."""
    return next((path for path, _ in walk(folder) if _is_unopened(path)), None)


def _compare_in_limits(folder: Path, paths: Sequence[str]) -> str | None:
    try:
        return LIMITED.call("DICOM headers", compare_headers, str(folder), list(paths))
    except UserError:  # a header stopped the process that read it
        return UNREAD


def compare_headers(folder: str, paths: list[str]) -> str | None:
    """`why_withheld` for some files, in this process; files without a header are compared with the headers of all."""
    all_words: set[str] = set()
    headerless: set[str] = set()
    for path in paths:
        file = Path(folder, path)
        try:
            if _is_unopened(file):
                return ARCHIVE
            words = header_words(file if file.is_file() else b"", file.name)
        except OSError:
            words = header_words(b"", file.name)
        if words is None:
            return UNREAD
        parts = path.split("/")
        if any(contains_word(part, words) for part in parts):
            return NAMED
        if words:
            all_words |= words
        else:
            headerless.update(parts)
    return NAMED if any(contains_word(part, all_words) for part in headerless) else None


def _is_unopened(file: Path) -> bool:
    return not file.name.lower().endswith(KNOWN_SUFFIXES) and file.is_file() and _is_archive(file)


def _is_archive(file: Path) -> bool:
    start = first_bytes(file, 0x8006)
    return any(start.startswith(mark, place) for place, mark in _ARCHIVES)
