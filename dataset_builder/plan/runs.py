"""Runs of similar files as columns, since a plan of millions cannot have an object for each.

A plan consists of `Run`s and, for inputs that need more fields than a plain file, lists of items.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

from ..item import Item


class Run(NamedTuple):
    """Consecutive files that differ only in path, size, time and subject.

    Attributes:
        template: an item with the fields that they share; without path, size and subject.
        paths: as `Item.path`.
        sizes: in bytes.
        changes: times of change in nanoseconds.
        subjects: as `Item.subject`.
    """

    template: Item
    paths: list[str]
    sizes: list[int]
    changes: list[int]
    subjects: list[str | None]

    def extend(self, other: "Run") -> None:
        """Append the files of a run with the same template."""
        self.paths.extend(other.paths)
        self.sizes.extend(other.sizes)
        self.changes.extend(other.changes)
        self.subjects.extend(other.subjects)

    def part(self, start: int, stop: int) -> "Run":
        """Some of the files."""
        rows = slice(start, stop)
        return Run(self.template, self.paths[rows], self.sizes[rows], self.changes[rows], self.subjects[rows])

    def items(self) -> Iterator[Item]:
        """The files one by one."""
        for path, size, subject in zip(self.paths, self.sizes, self.subjects, strict=True):
            yield self.template._replace(path=path, size=size, subject=subject)


def items_of_runs(listed: Iterable[Run | Item]) -> Iterator[Item]:
    """Every input by itself."""
    for one in listed:
        if isinstance(one, Run):
            yield from one.items()
        else:
            yield one


Block = Run | list[Item]


class Blocks:
    """Inputs of one shard in order: a run extends the last one if alike, an item joins the items."""

    def __init__(self) -> None:
        self.blocks: list[Block] = []
        self.count = 0
        self.bytes = 0

    def room(self, sizes: Sequence[int], most_bytes: int, most: int) -> int:
        """How many inputs with `sizes` bytes of rows fit within both bounds; at least one."""
        left = most_bytes - self.bytes
        sizes = sizes[: most - self.count]
        if sum(sizes) < left:
            return len(sizes)
        return next(number for number, reached in enumerate(accumulate(sizes), 1) if reached >= left)

    def add(self, one: Run | Item, sizes: Sequence[int]) -> None:
        """Add inputs that will make rows of `sizes` bytes."""
        last = self.blocks[-1] if self.blocks else None
        if isinstance(one, Run):
            if isinstance(last, Run) and last.template == one.template:
                last.extend(one)
            else:
                self.blocks.append(one)
        elif isinstance(last, list):
            last.append(one)
        else:
            self.blocks.append([one])
        self.count += len(sizes)
        self.bytes += sum(sizes)
