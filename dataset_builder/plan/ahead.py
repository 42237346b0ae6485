"""Lists the folders that a walk of a slow disk comes to next, many at a time."""

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from heapq import heappop, heappush
from os import DirEntry
from threading import RLock
from typing import Generic, TypeVar

THREADS = 32
_MOST_AHEAD = 4096  # folders and entries that are listed before the walk comes to them; more would fill the memory

Facts = TypeVar("Facts")


class Ahead(Generic[Facts]):
    """Folders that are listed before a walk takes them, those that it takes soonest first.

    A walk takes folders in the order of their names, each before the folders inside it; places that are split at "/"
    have this order.

    Args:
        pool: threads, at most `THREADS` of which list folders at a time.
        listing: lists a folder; it returns the entries, and their facts or what is waited for to get them.
    """

    def __init__(
        self, pool: ThreadPoolExecutor, listing: Callable[[str], tuple[list["DirEntry[str]"], Facts]]
    ) -> None:
        self._pool, self._list = pool, listing
        self._lock = RLock()
        self._waiting: list[list[str]] = []  # a heap of places to list
        self._listings: dict[str, Future[tuple[list[DirEntry[str]], Facts]]] = {}
        self._position = [""]  # the folder taken last
        self._busy = self._entries = 0
        self._ended = False

    def take(self, place: str) -> tuple[list["DirEntry[str]"], Facts] | None:
        """A folder's entries and their facts, None if it is not among the listed ones.

        The walk is past all folders before it.

        Raises:
            OSError: it cannot be listed.
        """
        with self._lock:
            self._position = place.split("/")
            future = self._listings.pop(place, None)
        if future is None:
            return None
        listing = future.result()
        with self._lock:
            self._entries -= len(listing[0])
            self._start()
        return listing

    def add(self, places: Iterable[str]) -> None:
        """Have folders listed before the walk comes to them; those that it is past are left out."""
        with self._lock:
            for place in places:
                heappush(self._waiting, place.split("/"))
            self._start()

    def end(self) -> None:
        """List no more."""
        with self._lock:
            self._ended = True

    def _start(self) -> None:
        while self._waiting and self._may_start():
            parts = heappop(self._waiting)
            if parts > self._position:
                place = "/".join(parts)
                self._busy += 1
                self._listings[place] = self._pool.submit(self._list_folder, place)

    def _may_start(self) -> bool:
        return not self._ended and self._busy < THREADS and self._entries + len(self._listings) < _MOST_AHEAD

    def _list_folder(self, place: str) -> tuple[list["DirEntry[str]"], Facts]:
        try:
            listing = self._list(place)
            with self._lock:
                self._entries += len(listing[0])
            return listing
        finally:
            with self._lock:
                self._busy -= 1
                self._start()
