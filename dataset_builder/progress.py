"""Progress of each shard, in a small file that any engine's workers write and the front end reads."""

import os
import struct
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

_NUMBERS = struct.Struct("<5q")


class Progress(NamedTuple):
    """State of one shard: the worker's process id, the current input, pictures made and kept, bytes read.

    `item` is the number of inputs when all are read and the files are being written.
    """

    pid: int
    item: int
    pictures: int
    kept: int
    bytes: int


class ProgressFile:
    """Writes the `Progress` of one shard in place; the file is removed when the shard is done."""

    def __init__(self, path: Path):
        self._path = path

    def __enter__(self) -> "ProgressFile":
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        return self

    def write(self, item: int, pictures: int, kept: int, size: int) -> None:
        """Note the input that begins now and the counts of those before it."""
        os.pwrite(self._file, _NUMBERS.pack(os.getpid(), item, pictures, kept, size), 0)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._file)
        self._path.unlink(missing_ok=True)


def read_progress(path: Path) -> Progress | None:
    """The state that a worker wrote last; None if there is none."""
    try:
        return Progress(*_NUMBERS.unpack(path.read_bytes()))
    except (OSError, struct.error):
        return None
