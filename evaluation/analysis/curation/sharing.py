"""Work that processes on one machine share through arrays in files of a folder, and that continues after a kill."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from biovfm_hf.errors import UserError
from biovfm_hf.writing.files import write_text

from ...encoders.processes import ProcessGroup, process_group

FOLDER = ".curate"


@dataclass(frozen=True)
class Sharing:
    """The processes and the folder of their arrays; without a folder one process works in memory."""

    group: ProcessGroup
    folder: Path | None

    def array(self, name: str, shape: tuple[int, ...], kind: DTypeLike) -> np.ndarray:
        """The array with this name, initially zeros; every process may write to it."""
        if self.folder is None:
            return np.zeros(shape, kind)
        path = self.folder / f"{name}.npy"
        if self.group.takes(0) and not path.is_file():
            np.lib.format.open_memmap(path.with_suffix(".new"), "w+", np.dtype(kind), shape)
            path.with_suffix(".new").replace(path)
        self.group.wait()
        return np.lib.format.open_memmap(path, "r+")

    def pieces(self, name: str, count: int) -> Iterator[int]:
        """Yield this process's unfinished pieces of the work `name` by index, then wait for the other processes."""
        done = self.array(f"{name}-done", (count,), np.uint8)
        for piece in range(count):
            if self.group.takes(piece) and not done[piece]:
                yield piece
                done[piece] = 1
        self.group.wait()


ALONE = Sharing(ProcessGroup(), None)


@contextmanager
def share(out: Path, settings: dict[str, Any]) -> Iterator[Sharing]:
    """The processes and their arrays in OUT/.curate. After a kill, a run with the same settings continues them."""
    group, folder = process_group(), out / FOLDER
    stamp = folder / "asked.json"
    if group.takes(0) and not (stamp.is_file() and json.loads(stamp.read_text(encoding="utf-8")) == settings):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_text(stamp, json.dumps(settings))
    group.wait()
    try:
        yield Sharing(group, folder)
        group.wait()
    except UserError:
        _remove(group, folder)
        raise
    _remove(group, folder)


def _remove(group: ProcessGroup, folder: Path) -> None:
    if group.takes(0):
        shutil.rmtree(folder)
