"""Walks the folders of a source: one stat call for each file, with threads on slow disks.

Places are strings below the source's folder ("" is the folder itself): with millions of files, `Path` objects would
take most of the time.
"""

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice
from operator import attrgetter
from pathlib import Path
from time import perf_counter, sleep

from biovfm_hf.reading.image_files import SKIPPED_FOLDERS
from biovfm_hf.usage import thread_waits

from ..catalog.selection import HIDDEN_FILE, HIDDEN_FOLDER
from .ahead import THREADS, Ahead

MAX_DEPTH = 32
SLOW = 5e-5  # seconds per answer of the disk beyond which threads pay off
_GROUP = 16  # files whose statuses a thread reads at a time, timed together
_QUICK = 32  # such groups that are read together while the disk is fast
_AHEAD = 64  # such groups of a folder that are read ahead of the walk
_SAMPLES = 4  # timings of which the fastest counts, since the others may include time off the processor


Entry = tuple[str, str, os.stat_result | None, str | None]
"""An entry of a folder: name, place, status (files only), and the reason if it is neither a file nor a folder.

It is a plain tuple, since there may be millions.
"""


@dataclass(frozen=True)
class Files:
    """Consecutive entries of a folder that are all files, as columns: their names, places and statuses."""

    names: list[str]
    places: list[str]
    statuses: list[os.stat_result]

    def __len__(self) -> int:
        return len(self.names)

    def entries(self) -> list[Entry]:
        """The files one by one."""
        return [(*file, None) for file in zip(self.names, self.places, self.statuses, strict=True)]


Entries = Files | list[Entry]
_Listing = tuple[list["os.DirEntry[str]"], Iterator[Entries]]  # what a folder holds, and the same with statuses


class Folders:
    """Lists folders below `top` in the order of names; use as a context manager.

    Symbolic links are followed only to files inside `top`. On a fast disk one thread does all calls; on a slow one,
    calls for the next files and folders, and for those inside them, run ahead, many at a time.
    """

    def __init__(self, top: Path) -> None:
        self._top, self._resolved = f"{top}/", top.resolve()
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="listing")
        self._ahead = Ahead(self._pool, self._listing)
        self._current: dict[str, Entries] = {}  # where the walk is, in each folder that was read without threads
        self._calls, self._seconds = 0, 0.0
        sleep(1e-6)  # from now on the count of this thread's waits is above 0 if the system counts them
        self._samples: deque[float] = deque(maxlen=_SAMPLES)
        self.slow, self._counts_waits = False, True

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
            self._ahead.add(_folders(self._current.popitem()[1]))
        return self._parts(below, depth, self._timed(below)) if listing is None else listing[1]

    def _parts(self, below: str, depth: int, listed: list["os.DirEntry[str]"]) -> Iterator[Entries]:
        at = 0
        while at < len(listed) and not self.slow:
            count = _GROUP * _QUICK if len(self._samples) == _SAMPLES else _GROUP
            self._current[below] = self._measured(below, depth, listed[at : at + count])
            yield self._current[below]
            at += count
        self._current.pop(below, None)
        yield from self._by_threads(below, depth, listed, at)

    def _listing(self, below: str) -> _Listing:
        listed, depth = scan(self._top + below), below.count("/") + 1
        rest = self._by_threads(below, depth, listed, _GROUP)
        return listed, chain([self._read_ahead(below, depth, listed[:_GROUP])], rest)

    def _by_threads(self, below: str, depth: int, listed: list["os.DirEntry[str]"], at: int) -> Iterator[Entries]:
        """The entries from `at` on; threads begin now to read their statuses, some groups ahead of who takes them."""
        groups = (listed[start : start + _GROUP] for start in range(at, len(listed), _GROUP))
        begun = (self._pool.submit(self._read_ahead, below, depth, group) for group in groups)
        return _results(deque(islice(begun, _AHEAD)), begun)

    def _read_ahead(self, below: str, depth: int, part: Sequence["os.DirEntry[str]"]) -> Entries:
        entries = self._read(below, depth, part)
        self._ahead.add(_folders(entries))
        return entries

    def _timed(self, below: str) -> list["os.DirEntry[str]"]:
        began = self._now()
        listed = scan(self._top + below)
        self._measure(1, began)
        return listed

    def _measured(self, below: str, depth: int, part: Sequence["os.DirEntry[str]"]) -> Entries:
        began = self._now()
        entries = self._read(below, depth, part)
        self._measure(len(part), began)
        return entries

    def _now(self) -> tuple[float, int]:
        return perf_counter(), thread_waits() if self._counts_waits else 0

    def _measure(self, calls: int, began: tuple[float, int]) -> None:
        """Add the time since `began`, unless this thread was only interrupted for other programs.

        Waits are counted only while the disk may be slow, since counting them for each folder takes time too.
        """
        seconds, waits = began
        self._calls += calls
        if not waits or thread_waits() > waits:
            self._seconds += perf_counter() - seconds
        if self._calls >= _GROUP:
            self._samples.append(self._seconds / self._calls)
            self._calls, self._seconds = 0, 0.0
            if len(self._samples) == _SAMPLES and not self.slow:
                self._judge(min(self._samples) > SLOW)

    def _judge(self, slow: bool) -> None:
        """Take the disk for slow if samples with counted waits were slow.

        If samples without counted waits were slow, new ones are taken that count them.
        """
        self.slow = slow and self._counts_waits
        if slow and not self._counts_waits:
            self._samples.clear()
        self._counts_waits = slow

    def _read(self, below: str, depth: int, part: Sequence["os.DirEntry[str]"]) -> Entries:
        prefix = f"{below}/" if below else ""
        return _files(prefix, part) or self._entries(prefix, depth, part)

    def _entries(self, prefix: str, depth: int, part: Sequence["os.DirEntry[str]"]) -> list[Entry]:
        entries: list[Entry] = []
        for entry in part:
            name = entry.name
            try:
                if name.isascii() and name[0] != "." and entry.is_file(follow_symlinks=False):
                    entries.append((name, prefix + name, status_of(entry), None))
                else:
                    entries.append(self._other(entry, name, prefix + name, depth))
            except (OSError, RuntimeError):
                entries.append((name, prefix + name, None, "a broken symbolic link or unreadable file"))
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
        if not target.is_relative_to(self._resolved):
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


def _results(waiting: deque[Future[Entries]], more: Iterator[Future[Entries]]) -> Iterator[Entries]:
    """The results of `waiting` in turn, for each of which one of `more` is begun."""
    while waiting:
        yield waiting.popleft().result()
        waiting.extend(islice(more, 1))


def _folders(entries: Entries) -> Iterator[str]:
    """The places of the folders that a walk goes into."""
    if not isinstance(entries, Files):
        for _, place, status, problem in entries:
            if status is None and problem is None:
                yield place


def _files(prefix: str, part: Sequence["os.DirEntry[str]"]) -> Files | None:
    """The entries as columns if they are all files with plain names, as nearly all are; it takes half the time."""
    names = [entry.name for entry in part]
    joined = "/" + "/".join(names)
    try:
        if joined.isascii() and "/." not in joined and all([entry.is_file(follow_symlinks=False) for entry in part]):
            return Files(names, [prefix + name for name in names], [status_of(entry) for entry in part])
    except OSError:  # an entry is gone; os remembers its answers on the others
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
