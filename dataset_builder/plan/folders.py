"""Walks the folders of a source: one stat call for each file, with threads on slow disks.

Places are strings below the source's folder ("" is the folder itself): with millions of files, `Path` objects would
take most of the time.
"""

import os
import resource
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from time import perf_counter, sleep

from biovfm_hf.reading.image_files import SKIPPED_FOLDERS

from ..catalog.selection import HIDDEN_FILE, HIDDEN_FOLDER
from .ahead import THREADS, Ahead

MAX_DEPTH = 32
SLOW = 5e-5  # seconds per answer of the disk beyond which threads pay off
_LOOKS = 16  # files that a thread asks about at a time, timed together
_QUICK = 32  # times as many, while the disk answers at once
_AHEAD = 64  # how many such groups of a folder are read ahead of the walk
_SAMPLES = 4  # timings of which the fastest counts, since the others may include time off the processor
_THREAD = getattr(resource, "RUSAGE_THREAD", None)  # Linux has it


Entry = tuple[str, str, os.stat_result | None, str | None]
"""An entry of a folder: name, place, status (files only), and the reason if it is neither a file nor a folder.

It is a plain tuple, since there may be millions.
"""


@dataclass(frozen=True)
class Files:
    """Consecutive entries of a folder that are all files, as columns: their names, places and statuses."""

    names: list[str] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    statuses: list[os.stat_result] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.names)

    def add(self, other: "Files") -> None:
        """Append other files."""
        self.names.extend(other.names)
        self.places.extend(other.places)
        self.statuses.extend(other.statuses)

    def entries(self) -> list[Entry]:
        """The files one by one."""
        return [(*file, None) for file in zip(self.names, self.places, self.statuses, strict=True)]


Entries = Files | list[Entry]
_Listing = tuple[list["os.DirEntry[str]"], Entries]  # lists a folder and stats the first of its entries


class Folders:
    """Lists folders below `top` in the order of names; use as a context manager.

    Symbolic links are followed only to files inside `top`. On a fast disk one thread does all calls; on a slow one,
    calls for the next files and folders, and for those inside them, run ahead, many at a time.
    """

    def __init__(self, top: Path) -> None:
        self._top, self._inside = f"{top}/", top.resolve()
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="listing")
        self._ahead = Ahead(self._pool, self._listing)
        self._current: dict[str, Entries] = {}  # what the walk is at, in each folder that was read without threads
        self._looks, self._seconds = 0, 0.0
        sleep(1e-6)  # from now on the count of this thread's waits is above 0 if the system counts them
        self._samples: deque[float] = deque(maxlen=_SAMPLES)
        self.slow, self._careful = False, True

    def __enter__(self) -> "Folders":
        return self

    def __exit__(self, *_: object) -> None:
        self._ahead.end()
        self._pool.shutdown(cancel_futures=True)

    def parts(self, below: str, depth: int) -> Iterator[Entries]:
        """The entries of a folder in the order of their names, some at a time; walks may be nested.

        Raises:
            OSError: it cannot be listed; before anything is yielded.
        """
        listing = self._ahead.take(below) if self.slow else None
        while self.slow and self._current:
            self._ahead.found(_folders(self._current.popitem()[1]))
        return self._parts(below, depth, *(listing or self._timed(below)))

    def _parts(self, below: str, depth: int, listed: list["os.DirEntry[str]"], first: Entries) -> Iterator[Entries]:
        yield first
        at = len(first)
        while at < len(listed) and not self.slow:
            looks = _LOOKS * _QUICK if len(self._samples) == _SAMPLES else _LOOKS
            self._current[below] = self._measured(below, depth, listed[at : at + looks])
            yield self._current[below]
            at += looks
        self._current.pop(below, None)
        waiting: deque[Future[Entries]] = deque()
        for start in range(at, len(listed), _LOOKS):
            waiting.append(self._pool.submit(self._looked, below, depth, listed[start : start + _LOOKS]))
            if len(waiting) == _AHEAD:
                yield waiting.popleft().result()
        for future in waiting:
            yield future.result()

    def _listing(self, below: str) -> _Listing:
        listed = scan(self._top + below)
        return listed, self._looked(below, below.count("/") + 1, listed[:_LOOKS])

    def _looked(self, below: str, depth: int, part: Sequence["os.DirEntry[str]"]) -> Entries:
        entries = self._look(below, depth, part)
        self._ahead.found(_folders(entries))
        return entries

    def _timed(self, below: str) -> _Listing:
        began = self._now()
        listed = scan(self._top + below)
        self._measure(1, began)
        return listed, []

    def _measured(self, below: str, depth: int, part: Sequence["os.DirEntry[str]"]) -> Entries:
        began = self._now()
        entries = self._look(below, depth, part)
        self._measure(len(part), began)
        return entries

    def _now(self) -> tuple[float, int]:
        return perf_counter(), _waits() if self._careful else 0

    def _measure(self, looks: int, began: tuple[float, int]) -> None:
        """Count the time since `began`, unless this thread only stood back for other programs.

        How often a thread waited is asked while the disk may be slow; asking for each folder takes time as well.
        """
        seconds, waits = began
        self._looks += looks
        if not waits or _waits() > waits:
            self._seconds += perf_counter() - seconds
        if self._looks >= _LOOKS:
            self._samples.append(self._seconds / self._looks)
            self._looks, self._seconds = 0, 0.0
            if len(self._samples) == _SAMPLES and not self.slow:
                self._judge(min(self._samples) > SLOW)

    def _judge(self, slow: bool) -> None:
        """Take the disk for slow if the samples were so while waits were counted; count them for the next if not."""
        self.slow = slow and self._careful
        if slow and not self._careful:
            self._samples.clear()
        self._careful = slow

    def _look(self, below: str, depth: int, part: Sequence["os.DirEntry[str]"]) -> Entries:
        within = f"{below}/" if below else ""
        return _files(within, part) or self._entries(within, depth, part)

    def _entries(self, within: str, depth: int, part: Sequence["os.DirEntry[str]"]) -> list[Entry]:
        entries: list[Entry] = []
        for entry in part:
            name = entry.name
            try:
                if name.isascii() and name[0] != "." and entry.is_file(follow_symlinks=False):
                    entries.append((name, within + name, status_of(entry), None))
                else:
                    entries.append(self._other(entry, name, within + name, depth))
            except (OSError, RuntimeError):
                entries.append((name, within + name, None, "a broken symbolic link or unreadable file"))
        return entries

    def _other(self, entry: "os.DirEntry[str]", name: str, place: str, depth: int) -> Entry:
        """An entry that is not plainly a file."""
        try:
            name.encode("utf-8")
        except UnicodeEncodeError:
            what = "folder" if _is_folder(entry) else "file"
            return name, place, None, f"the {what} name is not valid UTF-8"
        if entry.is_symlink():
            return self._link(name, place)
        if entry.is_dir(follow_symlinks=False):
            if is_hidden_folder(name):
                return name, place, None, HIDDEN_FOLDER
            return name, place, None, "folders nested too deep" if depth >= MAX_DEPTH else None
        if not entry.is_file(follow_symlinks=False):
            return name, place, None, "not a regular file"
        return (name, place, None, HIDDEN_FILE) if name[0] == "." else (name, place, status_of(entry), None)

    def _link(self, name: str, place: str) -> Entry:
        target = Path(self._top + place).resolve(strict=True)
        if not target.is_relative_to(self._inside):
            return name, place, None, "a symbolic link that leaves the source's folder"
        if not target.is_file():
            return name, place, None, "a symbolic link to a folder or device"
        if name.startswith("."):
            return name, place, None, HIDDEN_FILE
        return name, place, target.stat(), None


def scan(folder: str) -> list["os.DirEntry[str]"]:
    """A folder's entries in the order of their names."""
    with os.scandir(folder) as entries:
        return sorted(entries, key=attrgetter("name"))


def _folders(entries: Entries) -> Iterator[str]:
    """The places of the folders that a walk goes into."""
    if not isinstance(entries, Files):
        for _, place, status, problem in entries:
            if status is None and problem is None:
                yield place


def _waits() -> int:
    """How often this thread has given up the processor to wait; 0 where the system does not count it."""
    return resource.getrusage(_THREAD).ru_nvcsw if _THREAD is not None else 0


def _files(within: str, part: Sequence["os.DirEntry[str]"]) -> Files | None:
    """The entries as columns if they are all files with plain names, as nearly all are; it takes half the time."""
    names = [entry.name for entry in part]
    joined = "/" + "/".join(names)
    try:
        if joined.isascii() and "/." not in joined and all([entry.is_file(follow_symlinks=False) for entry in part]):
            return Files(names, [within + name for name in names], list(map(status_of, part)))
    except OSError:  # an entry that is gone; what was asked stays known
        pass
    return None


def status_of(entry: "os.DirEntry[str]") -> os.stat_result:
    """The status of a file: the only system call for it."""
    return entry.stat(follow_symlinks=False)


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:
        return False


def is_hidden_folder(name: str) -> bool:
    """Whether a folder of this name is skipped."""
    return name.startswith(".") or name in SKIPPED_FOLDERS
