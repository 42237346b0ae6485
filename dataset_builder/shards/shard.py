"""The unit of work: one shard of a saved plan, from raw files to candidate rows; a pure function of plan and files.

`build_shard` writes `NUMBER.parquet` (rows of the pictures that passed the rules for single pictures),
`NUMBER.candidates.parquet` (a line for everything considered) and last `NUMBER.json`, whose presence marks the shard
done. Each is written under a temporary name and moved into place, so any engine may run a shard again at any time.
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from time import perf_counter
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from biovfm_hf.errors import UserError
from biovfm_hf.reading.image_files import is_plain
from biovfm_hf.reading.limited import Stopped
from biovfm_hf.writing.files import atomic_path, write_text

from ..item import Item
from ..limits import CHANGED, CRASHED, MAX_MEMBER_BYTES, STALLED, TOO_LARGE, UNREADABLE, UNSAFE, Refused, refusal
from ..plan.plan import Plan, load_plan
from ..plan.privacy import locator, privacy_of, stored_path
from ..plan.stamps import stamp_of
from ..progress import ProgressFile
from ..readers import archive
from ..schema import CANDIDATES, ROW_GROUP, row_writer
from ..screening.hashing import sha256_of_file
from ..screening.rules import RULES, Rule
from .reading import About, Content, Outcome, Unreadable, limited_workers, line_of, read_batches, read_outcomes

_PLAIN_SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif")
_STOPPED = {"crashed": CRASHED, "time": STALLED, "memory": TOO_LARGE, "size": TOO_LARGE}
Feed = Iterator[tuple[Item, Any]]  # bytes of a member, or why it cannot be read; a list of them for a series


def build_shard(
    out: str, raw: str, number: int, seconds: float = 300.0, rules: Sequence[Rule] = tuple(RULES)
) -> dict[str, Any]:
    """Build shard `number` of the plan in folder `out` from the raw folder; what is done already is left alone.

    Args:
        out: the dataset folder.
        raw: the raw folder.
        number: of the shard.
        seconds: CPU time that one input may take at most.
        rules: that a picture must pass.

    Returns:
        The shard's statistics: number, outcomes (count of each), pictures, kept, bytes read, seconds.
    """
    plan = load_plan(Path(out))
    done = plan.stats_path(number)
    if done.is_file():
        return json.loads(done.read_text(encoding="utf-8"))
    started = perf_counter()
    with (
        atomic_path(plan.rows_path(number)) as rows_path,
        row_writer(rows_path) as writer,
        ProgressFile(plan.progress_path(number)) as progress,
    ):
        shard = _Shard(Reader(plan, Path(raw), number, seconds, rules), writer, progress)
        shard.run()
    with atomic_path(plan.candidates_path(number)) as path:
        pq.write_table(pa.Table.from_pylist(shard.lines, schema=CANDIDATES), path, compression="zstd")
    rows = sha256_of_file(plan.rows_path(number))
    stats = {**shard.statistics(), "rows_sha256": rows, "seconds": round(perf_counter() - started, 3)}
    write_text(done, json.dumps(stats))
    return stats


class _Shard:
    """The running state of one shard: lines so far, rows not yet written, and counts."""

    def __init__(self, reader: "Reader", writer: pq.ParquetWriter, progress: ProgressFile):
        self._reader, self._writer, self._progress = reader, writer, progress
        self._pending: list[dict[str, Any]] = []
        self._kept = self._bytes = 0
        self.lines: list[dict[str, Any]] = []

    def run(self) -> None:
        """Go through the inputs in order; each leaves at least one line."""
        index = -1
        for index, (item, outcomes) in enumerate(self._reader.inputs()):
            self._note(index)
            for outcome in outcomes:
                self._add(index, item, outcome)
                self._note(index)
            self._bytes += 0 if item.excluded else item.size or 0
        self._note(index + 1)
        self._flush()

    def statistics(self) -> dict[str, Any]:
        """What the shard's JSON file says."""
        outcomes: dict[str, int] = {}
        for line in self.lines:
            outcomes[line["outcome"]] = outcomes.get(line["outcome"], 0) + 1
        counts = {"pictures": len(self.lines), "kept": self._kept, "bytes": self._bytes}
        return {"shard": self._reader.number, "outcomes": dict(sorted(outcomes.items())), **counts}

    def _note(self, index: int) -> None:
        self._progress.write(index, len(self.lines), self._kept, self._bytes)

    def _add(self, index: int, item: Item, outcome: Outcome) -> None:
        self.lines.append({**outcome.line, "item": index, "place": self._reader.place(item)})
        if outcome.row is not None:
            self._kept += 1
            self._pending.append(outcome.row)
            if len(self._pending) == ROW_GROUP:
                self._flush()

    def _flush(self) -> None:
        if self._pending:
            table = pa.Table.from_pylist(self._pending, schema=self._writer.schema)
            self._writer.write_table(table, row_group_size=ROW_GROUP)
            self._pending.clear()


class Reader:
    """Reads and screens the inputs of one shard of a plan.

    Args:
        plan: the plan.
        raw: the raw folder.
        number: of the shard.
        seconds: CPU time that one input may take at most.
        rules: that a picture must pass.
    """

    def __init__(
        self, plan: Plan, raw: Path, number: int, seconds: float = 300.0, rules: Sequence[Rule] = tuple(RULES)
    ):
        self._plan, self._raw, self.number = plan, raw, number
        source = plan.shards[number].source
        self._privacy = privacy_of(source, plan.sources[source], plan.options.key)
        self._rules = tuple(rules)
        self._workers = limited_workers(seconds)

    def inputs(self) -> Iterator[tuple[Item, Iterator[Outcome]]]:
        """Yield each input in order with its outcomes, which are read as they are asked for: all of them, in order."""
        items, marks = self._plan.items(self.number), self._plan.marks(self.number)
        stamps = self._plan.stamps(self.number)
        feeds = _feeds(self._raw, items, marks)
        for index, (item, feed) in enumerate(zip(items, feeds, strict=True)):
            if reason := item.excluded or marks.get(index):
                path = self._path(item, None if self._privacy is None else self._there(item))
                yield item, iter([self._judged(item, path, reason)])
            else:
                yield item, self._outcomes(item, feed, stamps[index])

    def _outcomes(self, item: Item, feed: Feed | None, stamp: str) -> Iterator[Outcome]:
        """The outcomes of one input. What was yielded before a failure stays; the failure has a line of its own."""
        count, path = 0, self._path(item, None)
        try:
            if stamp_of(item, self._raw) != stamp:
                raise Refused(CHANGED, "since it was listed; add --retry-failed to list it anew")
            source = _checked(self._raw, item.path) if feed is None else _next(feed)
            path = self._path(item, None if isinstance(source, list) else source)
            about = About(self._plan.shards[self.number].source, path, item, self._plan.options, self._rules)
            for outcome in self._read(source, about):
                count += 1
                yield self._unread(item, outcome) if isinstance(outcome, Unreadable) else outcome
        except Exception as error:  # decoders raise nearly everything on damaged files; each costs one line
            refused = _refusal(error)
            yield self._judged(item, path, refused.outcome, refused.detail)
            return
        if not count:
            yield self._judged(item, path, UNREADABLE, "holds no picture")

    def _read(self, source: Content, about: About) -> Iterator[Outcome | Unreadable]:
        """What an input yields: a plain PNG or JPEG cannot run away and is read here, others by a limited process."""
        plain = _plain(source, about.item)
        if plain is not None:
            yield from read_outcomes(plain, about, self._raw)
            return
        for batch in self._workers.each("the file", read_batches, source, about, self._raw):
            yield from batch

    def _judged(self, item: Item, path: str, outcome: str, detail: str | None = None) -> Outcome:
        """The line of an input that yields no picture. What is said of a private one may repeat what it holds."""
        source = self._plan.shards[self.number].source
        if self._privacy is None:
            return Outcome(line_of(source, item, path, outcome, detail))
        return Outcome({**line_of(source, item, path, outcome), "remark": detail or None})

    def place(self, item: Item) -> str | None:
        """The path of an input of a private source, for the builder's own folder."""
        return None if self._privacy is None else locator(item)

    def _unread(self, item: Item, unread: Unreadable) -> Outcome:
        """The line of one file of a series, whose others are read."""
        inside = bool(item.members)
        path = item.path if inside else unread.file
        alone = replace(item, kind="image", path=path, member=unread.file if inside else None)
        return self._judged(alone, self._path(alone, None), unread.outcome, unread.detail)

    def _there(self, item: Item) -> Path | None:
        """The file of an input that is not read; None where it is not a file of its own below its source's folder."""
        try:
            return None if _in_archive(item) else _checked(self._raw, item.path)
        except (Refused, OSError):
            return None

    def _path(self, item: Item, source: Path | bytes | None) -> str:
        """How the input is named; a header that it is compared with is read by a limited process too."""
        if self._privacy is None or not self._privacy.keep or source is None:
            return stored_path(item, source, self._privacy)
        try:
            return self._workers.call("the file", stored_path, item, source, self._privacy)
        except UserError:
            return stored_path(item, None, self._privacy)


def _feeds(raw: Path, items: list[Item], marks: dict[int, str]) -> list[Feed | None]:
    """For each input the iterator that its bytes come from, shared by consecutive members of one archive."""
    feeds: list[Feed | None] = []
    for (path, feeder), group in groupby(enumerate(items), key=lambda pair: (pair[1].path, _feeder(pair[1]))):
        entries = list(group)
        opened = [item for index, item in entries if not item.excluded and index not in marks]
        feed = feeder(raw / path, opened) if feeder else None
        feeds += [feed] * len(entries)
    return feeds


def _feeder(item: Item) -> Callable[[Path, Sequence[Item]], Feed] | None:
    """What passes through an archive to give an input's bytes, None for an input that is opened by itself."""
    if item.kind == "dicom_series":
        return archive.series if any(part.offset is None for part in item.members) else None
    return archive.members if _in_archive(item) else None


def _in_archive(item: Item) -> bool:
    return item.member is not None and item.kind not in ("hdf5", "dicom_series")


def _next(feed: Feed) -> Any:
    _, data = next(feed, (None, Refused(UNREADABLE, "no longer in the archive")))
    if isinstance(data, Refused):
        raise data
    return data


def _checked(raw: Path, path: str) -> Path:
    """The input's path, if it is a regular file (or a series' folder) below its source's folder, links resolved.

    The source's own folder may be a link: that is how large disks are attached.
    """
    top = _resolved(raw / path.split("/", 1)[0])
    place = raw / path
    target = Path(_resolved(place.parent)) / place.name
    if target.is_symlink():
        target = target.resolve()
    if os.path.commonpath([top, target]) != top:
        raise Refused(UNSAFE, "a symbolic link that leaves the source's folder")
    if not target.is_file() and not target.is_dir():
        raise Refused(UNREADABLE, "no longer there, or not a regular file")
    return target


@lru_cache(maxsize=4)
def _resolved(folder: Path) -> str:
    return os.path.realpath(folder)


def _plain(source: Content, item: Item) -> bytes | None:
    """The bytes of a file that is_plain, None for all others."""
    if item.kind != "image" or isinstance(source, list):
        return None
    if isinstance(source, Path):
        if not source.name.lower().endswith(_PLAIN_SUFFIXES) or source.stat().st_size > MAX_MEMBER_BYTES:
            return None
        source = source.read_bytes()
    return source if is_plain(source) else None


def _refusal(error: Exception) -> Refused:
    if isinstance(error, Stopped):
        return Refused(_STOPPED[error.reason])
    return refusal(error)
