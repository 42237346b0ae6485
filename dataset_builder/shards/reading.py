"""The work of a limited process: read one input, screen its pictures and make rows of them."""

import os
import signal
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from biovfm_hf.fitting import centred, scaled_shape
from biovfm_hf.memory import keep_memory_of_pictures, keep_one_arena
from biovfm_hf.pictures import quiet_decoders
from biovfm_hf.reading.limited import Limited, Limits
from biovfm_hf.threads import in_order

from .. import readers
from ..item import Item
from ..limits import Refused, refusal
from ..plan.plan import Options
from ..readers.picture import Picture, Unread
from ..readers.resizing import resize
from ..schema import COLUMNS, KEPT
from ..screening.hashing import fingerprint, reduced, sha256_of_pixels
from ..screening.leakage import framings
from ..screening.rules import Rule, judged

_PNG = [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE,
        cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_AVG]  # fmt: skip
SECONDS, SECONDS_PER_MIB = 10.0, 2.0  # CPU time of an input: a base, and more for each MiB
_PATIENCE = 120.0
_STACK = 1 << 20  # bytes of a thread's stack
_OUTPUT = 4 << 30  # bytes of rows of one input
_BATCH = 8  # pictures
_RESULTS = 200_000 // _BATCH  # batches of one input


Content = Path | bytes | list[bytes | Refused]
"""A file, the bytes of an archive's member, or those of the members of a series."""


class Outcome(NamedTuple):
    """One line of the candidates and, if the picture passed, its row of the dataset."""

    line: dict[str, Any]
    row: dict[str, Any] | None = None


class Unreadable(NamedTuple):
    """One file of a series that could not be read: its name, and why."""

    file: str
    outcome: str
    detail: str


@dataclass(frozen=True)
class Reading:
    """What the reading of an input needs besides its bytes: facts, options, rules for its pictures, and threads."""

    source: str
    path: str
    item: Item
    options: Options
    rules: tuple[Rule, ...]
    threads: int = 1


def patience(seconds: float) -> float:
    """Seconds by the clock without a picture after which an input with `seconds` of CPU time is given up."""
    return max(_PATIENCE, seconds)


@cache
def limited_workers(seconds: float) -> Limited:
    """The processes that read inputs, with at most `seconds` of CPU time for each."""
    limits = Limits(seconds=seconds, patience=patience(seconds), output=_OUTPUT, results=_RESULTS)
    return Limited(limits, preload=(__name__,))


def fork_limited_workers(seconds: float) -> None:
    """Fork the parent of `limited_workers` from this process, which has just begun and has imported the decoders."""
    limited_workers(seconds).fork_here()


def read_batches(source: Content, reading: Reading, raw: Path) -> Iterator[list[Outcome | Unreadable]]:
    """The outcomes of `read_outcomes` in batches: a message between processes costs as much as a small slice."""
    batch: list[Outcome | Unreadable] = []
    try:
        for outcome in read_outcomes(source, reading, raw):
            batch.append(outcome)
            if len(batch) == _BATCH:
                yield batch
                batch = []
    except Refused:
        if batch:
            yield batch
        raise
    if batch:
        yield batch


def read_outcomes(source: Content, reading: Reading, raw: Path) -> Iterator[Outcome | Unreadable]:
    """The outcome of each picture of an input, as its reader yields them.

    Raises:
        Refused: it cannot be read, or not to its end.
    """
    _prepare()
    item, options = reading.item, reading.options
    _limit_time(len(source) if isinstance(source, bytes) else item.size or 0, item)
    try:
        if reading.threads > 1:
            _bound_threads()
        pictures = readers.read(source, item, raw, options.views, options.size)
        yield from in_order(partial(_outcome, reading=reading, raw=raw), pictures, reading.threads)
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:  # decoders raise nearly everything on damage; a Rust panic is no Exception
        place = raw / item.path
        named = item.member is not None and item.kind not in ("hdf5", "dicom_series")  # that of a series is a number
        places = (os.path.realpath(place), str(place), item.member or "" if named else "", item.path)
        raise refusal(error, *places) from None


def _outcome(picture: Picture | Unread, reading: Reading, raw: Path) -> Outcome | Unreadable:
    return _unreadable(picture, raw) if isinstance(picture, Unread) else screened(picture, reading)


def _unreadable(unread: Unread, raw: Path) -> Unreadable:
    place = raw / unread.file
    refused = refusal(unread.error, str(place), unread.file, place.name)
    return Unreadable(unread.file, refused.outcome, refused.detail)


@cache
def _prepare() -> None:
    """One thread for each process; and no warnings of decoders, which may repeat what stands in a patient's file.

    Plain PNG and JPEG are read by the build's own workers, which would have pages zeroed anew for each of them: a
    fifth of the time of 1024 x 1024 PNG.
    """
    keep_memory_of_pictures()
    cv2.setNumThreads(1)
    warnings.simplefilter("ignore")  # of numpy too
    quiet_decoders()


@cache
def _bound_threads() -> None:
    """Give threads small stacks, since address space is limited here."""
    keep_one_arena()
    threading.stack_size(_STACK)


def _limit_time(size: int, item: Item) -> None:
    """Lower the process's time limit to what an input of `size` bytes may need; a table is read row by row."""
    if hasattr(signal, "setitimer"):
        left, _ = signal.getitimer(signal.ITIMER_PROF)
        files = len(item.files or item.members)
        own = SECONDS * max(1, files / 10) + SECONDS_PER_MIB * size / 2**20
        if left:
            signal.setitimer(signal.ITIMER_PROF, min(left, own))


def screened(picture: Picture, reading: Reading) -> Outcome:
    """The line of a picture and, if it passes the rules, its row."""
    place = {"view": picture.view, "index": picture.index, "width": picture.width, "height": picture.height}
    reason = judged(picture, reading.rules)
    if reason is not None:
        return Outcome({**line_of(reading.source, reading.item, reading.path, reason), **place})
    content, image = fitted(picture, reading.options)
    fingerprints = [fingerprint(framing) for framing in framings(reduced(content))]
    hashes = [code for code, _ in fingerprints]
    line = {
        **line_of(reading.source, reading.item, reading.path, KEPT),
        **place,
        "sha256": sha256_of_pixels(image),
        "phash": f"{hashes[0]:016x}",
        "hashes": hashes,
        "thumbnails": b"".join(thumbnail.tobytes() for _, thumbnail in fingerprints),
    }
    row = {name: line[name] for name in COLUMNS if name != "image"}
    return Outcome(line, {**row, "image": {"bytes": encoded(image, reading.options), "path": None}})


def line_of(source: str, item: Item, path: str, outcome: str, detail: str | None = None) -> dict[str, Any]:
    """An input's line of the candidates before its pictures are known."""
    return {
        "source": source,
        "modality": item.modality,
        "anatomy": item.anatomy,
        "path": path,
        "view": None,
        "index": None,
        "outcome": outcome,
        "detail": detail or None,
        "subject": item.subject,
    }


def fitted(picture: Picture, options: Options) -> tuple[np.ndarray, np.ndarray]:
    """The picture with square pixels at its final size, without padding and as the row's image (padded).

    Colour whose three channels are equal becomes grey: uint8 (h, w) or (h, w, 3).
    """
    rows, columns = picture.pixels.shape[:2]
    size = scaled_shape(rows * picture.spacing[0], columns * picture.spacing[1], options.size, options.fit)
    content = resize(picture.pixels, *size)
    if content.ndim == 3 and (content[..., :1] == content[..., 1:]).all():
        content = np.ascontiguousarray(content[..., 0])
    return content, centred(content, (options.size, options.size)) if options.fit == "longest" else content


def encoded(image: np.ndarray, options: Options) -> bytes:
    """Encode uint8 (H, W) or (H, W, 3) as PNG level 1 or as JPEG without chroma subsampling.

    A single PNG filter (average) and run lengths, instead of a choice of filters for each line and a search for
    repeats, take 0.4 of the time and make files 4 to 16 % smaller on CT, MR, X-ray, fundus and ultrasound.
    """
    if image.ndim == 3:
        image = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    if options.image_format == "jpeg":
        sampling = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
        _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, options.quality, *sampling])
    else:
        _, data = cv2.imencode(".png", image, _PNG)
    return data.tobytes()
