"""Files that one rule takes alike, as columns: a plan of millions has no object for each.

What is planned comes as `Run`s and, where more is to be said of an input than of a file, as lists of items.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

from ..item import Item


class Run(NamedTuple):
    """Files in their order that differ in path, size, time and subject alone.

    Attributes:
        like: what they share; without path, size and subject.
        paths: as `Item.path`.
        sizes: in bytes.
        changes: times of change in nanoseconds.
        subjects: as `Item.subject`.
    """

    like: Item
    paths: list[str]
    sizes: list[int]
    changes: list[int]
    subjects: list[str | None]

    def extend(self, other: "Run") -> None:
        """Take the files of a run with the same `like` behind one's own."""
        self.paths.extend(other.paths)
        self.sizes.extend(other.sizes)
        self.changes.extend(other.changes)
        self.subjects.extend(other.subjects)

    def part(self, start: int, stop: int) -> "Run":
        """Some of the files."""
        rows = slice(start, stop)
        return Run(self.like, self.paths[rows], self.sizes[rows], self.changes[rows], self.subjects[rows])

    def items(self) -> Iterator[Item]:
        """The files one by one."""
        for path, size, subject in zip(self.paths, self.sizes, self.subjects, strict=True):
            yield self.like._replace(path=path, size=size, subject=subject)


def items_of_runs(listed: Iterable[Run | Item]) -> Iterator[Item]:
    """Every input by itself."""
    for one in listed:
        if isinstance(one, Run):
            yield from one.items()
        else:
            yield one


Block = Run | list[Item]


class Blocks:
    """Inputs of one shard as they come: a run is put behind the last where it is alike, an item to the items."""

    def __init__(self) -> None:
        self.blocks: list[Block] = []
        self.count = 0
        self.bytes = 0

    def room(self, sizes: Sequence[int], most_bytes: int, most: int) -> int:
        """How many inputs of `sizes` bytes of rows can be taken until either bound is reached; at least one."""
        left = most_bytes - self.bytes
        for number, reached in enumerate(accumulate(sizes[: most - self.count]), 1):
            if reached >= left:
                return number
        return min(len(sizes), most - self.count)

    def add(self, one: Run | Item, sizes: Sequence[int]) -> None:
        """Take inputs that will make rows of `sizes` bytes."""
        last = self.blocks[-1] if self.blocks else None
        if isinstance(one, Run):
            if isinstance(last, Run) and last.like == one.like:
                last.extend(one)
            else:
                self.blocks.append(one)
        elif isinstance(last, list):
            last.append(one)
        else:
            self.blocks.append([one])
        self.count += len(sizes)
        self.bytes += sum(sizes)
