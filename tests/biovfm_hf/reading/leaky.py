"""Functions that leak memory and report a lack of it as decoders do, or that receive a signal."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from biovfm_hf.errors import UserError
from dataset_builder.limits import UNREADABLE, Refused

LEFT_BEHIND: list[np.ndarray] = []


def leave(size: int) -> None:
    """Keep `size` bytes."""
    LEFT_BEHIND.append(np.ones(size, np.uint8))


def take(size: int, how: str) -> int:
    """Allocate `size` bytes; on failure report it as `how`: a codec's error, a build's outcome, or an abort."""
    try:
        return np.ones(size, np.uint8).size
    except MemoryError:
        if how == "abort":
            os.abort()
        if how == "outcome":
            raise Refused(UNREADABLE, "insufficient memory") from None
        raise UserError("a.dcm: a codec failed") from None


def takes(sizes: list[int], how: str) -> Iterator[int]:
    """`take` of each size, all of them kept."""
    kept = []
    for size in sizes:
        take(size, how)
        kept.append(np.ones(size, np.uint8))
        yield len(kept)


def signalled_once(number: int, flag: Path) -> int:
    """Receive a signal, as if from somebody else, unless `flag` shows that it was sent before."""
    if not flag.exists():
        flag.touch()
        os.kill(os.getpid(), number)
    return 7


def numbers_signalled_once(number: int, flag: Path) -> Iterator[int]:
    """1, then 7 behind a signal."""
    yield 1
    yield signalled_once(number, flag)
