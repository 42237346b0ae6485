"""Damaged files of every format, read as by the builder, `embed` and the demo, and the outcome for each."""

import contextlib
import random
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from biovfm_hf.errors import UserError
from biovfm_hf.pixels import decode
from biovfm_hf.reading.image_files import decode_uint8, is_plain
from biovfm_hf.reading.limited import Limited, Limits, Stopped
from dataset_builder import readers
from dataset_builder.item import Item
from dataset_builder.limits import Refused
from tests.fuzz.seeds import seeds

LIMITS = Limits()  # those of the commands: 10 s of CPU time, 1200 MiB
VIEWS = ("axial", "sagittal", "coronal")
_VOLUMES, _VIDEOS = (".nii", ".gz", ".nrrd", ".mha", ".mgz"), (".mp4", ".avi", ".mkv", ".mpg")


@dataclass
class Report:
    """What came of the files.

    `outcomes` counts (format, outcome), `stopped` names those that ended their process, and `plain_stopped` those that
    would have ended a command, which decodes them in its own.
    """

    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    stopped: list[str] = field(default_factory=list)
    plain_stopped: list[str] = field(default_factory=list)
    peak: int = 0
    seconds: float = 0.0

    @property
    def files(self) -> int:
        """How many files were read."""
        return sum(self.outcomes.values())

    def __str__(self) -> str:
        formats = sorted({name for name, _ in self.outcomes})
        columns = sorted({outcome for _, outcome in self.outcomes})
        lines = ["format".ljust(18) + "".join(column.rjust(12) for column in columns)]
        for name in formats:
            lines.append(name.ljust(18) + "".join(str(self.outcomes[name, column]).rjust(12) for column in columns))
        totals = [str(sum(self.outcomes[name, column] for name in formats)).rjust(12) for column in columns]
        lines.append("all".ljust(18) + "".join(totals))
        lines.append(
            f"{self.files} files of {len(formats)} formats in {self.seconds:.0f} s; "
            f"a process took {self.peak / 2**20:.0f} MiB at most"
        )
        return "\n".join([*lines, *self.stopped])


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Cut off, bits flipped, bytes overwritten (most often in the header), numbers made huge, a piece repeated."""
    changed = bytearray(data)
    way = rng.randrange(9)
    if way == 0:
        return data[: rng.randrange(len(data))]
    if way in (1, 2):
        for _ in range(rng.choice((1, 3, 30))):
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    elif way in (3, 4):
        for _ in range(rng.choice((1, 4, 16))):
            changed[rng.randrange(min(400, len(changed)))] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))
    elif way in (5, 6):
        at = rng.randrange(min(600, len(changed)))
        size = rng.choice((2, 4, 8))
        changed[at : at + size] = rng.choice((b"\xff" * size, b"\x7f" + b"\xff" * (size - 1), b"\0" * size))
    elif way == 7:
        start = rng.randrange(len(changed))
        changed[start:start] = changed[: rng.randrange(1, 2000)]
    else:
        return rng.randbytes(rng.randrange(2000))
    return bytes(changed)


def files(folder: Path, seed: int, start: int = 0) -> Iterator[tuple[str, bytes]]:
    """(name, content) without end; file number N depends on `seed` and N alone. The first of each format are good."""
    good = seeds(folder)
    names = sorted(good)
    number = start
    while True:
        name = names[number % len(names)]
        data = good[name] if number < len(names) else damaged(good[name], random.Random(f"{seed} {number}"))
        yield f"{number:06d}.{name}", data
        number += 1


def read_all(path: Path) -> int:
    """How many pictures builder and processor read of a file."""
    suffix = path.suffix
    kind = "volume" if suffix in _VOLUMES else "video" if suffix in _VIDEOS else "hdf5" if suffix == ".h5" else "image"
    item = Item(path.name, "x" if kind == "hdf5" else None, kind)
    with contextlib.suppress(UserError):
        decode(path)
    try:
        return sum(1 for _ in readers.read(path, item, path.parent, VIEWS, 64))
    except (Refused, UserError, MemoryError):
        raise
    except Exception as error:  # as the builder takes them: one line
        raise UserError(f"{path.name}: {type(error).__name__}") from None


def run(
    folder: Path, seconds: float, seed: int = 0, jobs: int = 2, start: int = 0, most: int = 10**9, least: int = 0
) -> Report:
    """Read damaged files for `seconds`, `least` to `most` of them; those that end their process stay in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    limited = Limited(LIMITS, preload=("tests.fuzz.run",))
    report, begun = Report(), time.monotonic()

    def one(file: tuple[str, bytes]) -> None:
        name, data = file
        path = folder / name
        path.write_bytes(data)
        outcome, keep = _outcome(limited, path)
        report.outcomes[name.partition(".")[2], outcome] += 1
        if keep:
            report.stopped.append(keep)
        else:
            path.unlink()
        if is_plain(data):
            try:
                limited.call(name, decode_uint8, data, name)
            except Stopped as stopped:
                report.plain_stopped.append(str(stopped))
            except UserError:
                pass

    good = folder / "good"
    good.mkdir(exist_ok=True)
    source = files(good, seed, start)
    with ThreadPoolExecutor(jobs) as pool:
        while report.files < most and (time.monotonic() - begun < seconds or report.files < least):
            list(pool.map(one, [next(source) for _ in range(min(64, most - report.files))]))
    limited.close()
    report.peak, report.seconds = limited.peak, time.monotonic() - begun
    return report


def _outcome(limited: Limited, path: Path) -> tuple[str, str | None]:
    try:
        return ("read" if limited.call(path.name, read_all, path) else "nothing"), None
    except Stopped as stopped:
        return stopped.reason, str(stopped)
    except (UserError, Refused) as refused:
        panic = "PanicException" in str(refused)
        return ("panic" if panic else "refused"), None
