"""Builds one unit of a saved plan, from raw files to candidate rows; a pure function of plan and files.

A unit that is a whole shard leaves `NUMBER.parquet` (rows of the pictures that passed the rules for single pictures),
`NUMBER.candidates.parquet` (a line for everything considered), `NUMBER.thumbnails`, and last `NUMBER.json`, whose
presence marks the shard done. A smaller unit leaves `NUMBER.START-STOP.arrow` (lines, thumbnails and images);
`join_shard` turns these into the output of a single pass, byte for byte. Each file is written under a temporary name
and moved into place, so any engine may run a unit again at any time.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from biovfm_hf.errors import UserError
from biovfm_hf.reading.image_files import is_plain
from biovfm_hf.reading.limited import Stopped
from biovfm_hf.writing.files import atomic_path, write_text

from ..item import Item
from ..limits import CHANGED, CRASHED, MAX_MEMBER_BYTES, STALLED, TOO_LARGE, UNREADABLE, UNSAFE, Refused, refusal
from ..plan.costs import streamed
from ..plan.plan import Plan, Unit, load_plan
from ..plan.privacy import locator, privacy_of, stored_path
from ..plan.stamps import stamp_of
from ..plan.state import is_arrow_file
from ..progress import ProgressFile
from ..readers import members
from ..schema import CANDIDATES, KEPT, LINE_GROUP, PARTS, ROW_GROUP, GroupWriter, line_writer, row_writer, rows_of
from ..screening.hashing import sha256_of_file
from ..screening.rules import RULES, Rule
from .reading import Content, Outcome, Reading, Unreadable, limited_workers, line_of, read_batches, read_outcomes

_PLAIN_SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif")
_STOPPED = {"crashed": CRASHED, "time": STALLED, "memory": TOO_LARGE, "size": TOO_LARGE}
_BATCH = 100  # most lines kept as Python objects
Feed = Iterator[tuple[Item, Any]]  # bytes of a member, or why it cannot be read; a list of them for a series


def build_unit(
    out: str, raw: str, unit: Unit, seconds: float = 300.0, rules: Sequence[Rule] = tuple(RULES)
) -> dict[str, Any]:
    """Build a unit of the plan in folder `out` from the raw folder; finished work is left alone.

    Args:
        out: the dataset folder.
        raw: the raw folder.
        unit: a shard or a part of it.
        seconds: CPU time that one input may take at most.
        rules: that a picture must pass.

    Returns:
        Statistics: shard, items, outcomes (count of each), pictures, kept, bytes read.
    """
    plan = load_plan(Path(out))
    if (statistics := plan.statistics(unit.shard)) is not None:
        return {**statistics, "shard": unit.shard}
    tally = Tally()
    with ProgressFile(plan.progress_path(unit)) as progress:
        batches = _batches(Reader(plan, Path(raw), unit, seconds, rules), tally, progress)
        if plan.is_whole(unit):
            _write_shard(plan, unit.shard, batches, tally)
        elif not is_arrow_file(plan.part_path(unit)):
            _write_part(plan.part_path(unit), batches)
    return {"shard": unit.shard, "items": unit.stop - unit.start, **vars(tally)}


def join_shard(out: str, raw: str, unit: Unit) -> dict[str, Any]:
    """Join the parts of the shard `unit` and remove them; `raw` is not used. Returns its statistics."""
    plan = load_plan(Path(out))
    parts = plan.parts(unit.shard)[unit.shard]
    statistics = plan.statistics(unit.shard)
    if statistics is None:
        tally = Tally()
        statistics = _write_shard(plan, unit.shard, _joined(plan, parts, tally), tally)
    for part in parts:
        plan.part_path(part).unlink(missing_ok=True)
    return {**statistics, "shard": unit.shard}


def _write_part(target: Path, batches: Iterable[pa.RecordBatch]) -> None:
    with atomic_path(target) as path, pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, PARTS) as writer:
        for batch in batches:
            writer.write_batch(batch)


def _write_shard(plan: Plan, number: int, batches: Iterable[pa.RecordBatch], tally: "Tally") -> dict[str, Any]:
    """Write rows, lines and statistics of a shard, and return these; the bytes do not depend on the batches of lines.

    Damaged earlier ones are replaced: their statistics go first, so that they never stand for other files.
    """
    plan.stats_path(number).unlink(missing_ok=True)
    with (
        atomic_path(plan.candidates_path(number)) as lines_path,
        atomic_path(plan.thumbnails_path(number)) as thumbnails_path,
        atomic_path(plan.rows_path(number)) as rows_path,
        thumbnails_path.open("wb") as thumbnails,
        GroupWriter(line_writer(lines_path), LINE_GROUP) as lines,
        GroupWriter(row_writer(rows_path), ROW_GROUP) as rows,
    ):
        for batch in batches:
            table = pa.Table.from_batches([batch])
            lines.add(table.select(CANDIDATES.names))
            rows.add(rows_of(table))
            thumbnails.writelines(filter(None, batch["thumbnails"].to_pylist()))
    statistics = {
        "items": plan.shards[number].items,
        **vars(tally),
        "rows_sha256": sha256_of_file(plan.rows_path(number)),
        # compared with nothing: what is decided on names the candidates by it, in the digest of all statistics
        "candidates_sha256": sha256_of_file(plan.candidates_path(number)),
        "sizes": {name: path.stat().st_size for name, path in plan.files(number).items()},
    }
    write_text(plan.stats_path(number), json.dumps(statistics, sort_keys=True))
    return statistics


def _joined(plan: Plan, parts: Sequence[Unit], tally: "Tally") -> Iterator[pa.RecordBatch]:
    """The lines of a shard from its parts; inputs in two parts count once."""
    reached = 0
    for part in parts:
        with pa.memory_map(str(plan.part_path(part))) as file:
            reader = pa.ipc.open_file(file)
            for number in range(reader.num_record_batches):
                batch = reader.get_batch(number)
                if part.start < reached:
                    batch = batch.filter(pc.greater_equal(batch["item"], reached))
                tally.add(batch)
                yield batch
        reached = max(reached, part.stop)
    tally.bytes = sum(0 if item.excluded else item.size or 0 for item in plan.items(plan.whole(parts[0].shard)))


@dataclass
class Tally:
    """Counts over the inputs of a unit so far."""

    outcomes: dict[str, int] = field(default_factory=dict)
    pictures: int = 0
    kept: int = 0
    bytes: int = 0

    def add(self, lines: pa.RecordBatch) -> None:
        """Count lines."""
        for pair in pc.value_counts(lines["outcome"]).to_pylist():
            self.outcomes[pair["values"]] = self.outcomes.get(pair["values"], 0) + pair["counts"]
        self.pictures += len(lines)
        self.kept = self.outcomes.get(KEPT, 0)


def _batches(reader: "Reader", tally: Tally, progress: ProgressFile) -> Iterator[pa.RecordBatch]:
    """The lines of a unit with their images, in order, at least one for each input; they are counted on the way."""
    lines: list[dict[str, Any]] = []
    pictures = kept = 0
    for index, (item, outcomes) in enumerate(reader.inputs(), reader.unit.start):
        progress.write(index, pictures, kept, tally.bytes)
        for outcome in outcomes:
            image = None if outcome.row is None else outcome.row["image"]["bytes"]
            lines.append({**outcome.line, "item": index, "place": reader.place(item), "image": image})
            pictures, kept = pictures + 1, kept + (image is not None)
            progress.write(index, pictures, kept, tally.bytes)
            if len(lines) == _BATCH:
                yield _counted(lines, tally)
                lines = []
        tally.bytes += 0 if item.excluded else item.size or 0
    if lines:
        yield _counted(lines, tally)
    progress.write(reader.unit.stop, tally.pictures, tally.kept, tally.bytes)


def _counted(lines: list[dict[str, Any]], tally: Tally) -> pa.RecordBatch:
    batch = pa.RecordBatch.from_pylist(lines, schema=PARTS)
    tally.add(batch)
    return batch


class Reader:
    """Reads and screens the inputs of one unit of a plan.

    Args:
        plan: the plan.
        raw: the raw folder.
        unit: a shard or a part of it.
        seconds: CPU time that one input may take at most.
        rules: that a picture must pass.
    """

    def __init__(
        self, plan: Plan, raw: Path, unit: Unit, seconds: float = 300.0, rules: Sequence[Rule] = tuple(RULES)
    ):
        self._plan, self._raw, self.unit = plan, raw, unit
        self._source = plan.shards[unit.shard].source
        self._folder = plan.sources[self._source]["folder"]
        self._privacy = privacy_of(self._source, plan.sources[self._source], plan.secret)
        self._rules = tuple(rules)
        self._workers = limited_workers(seconds)

    def inputs(self) -> Iterator[tuple[Item, Iterator[Outcome]]]:
        """Yield each input in order with its outcomes, which are read lazily and must all be consumed in order."""
        items, stamps = self._plan.items(self.unit), self._plan.stamps(self.unit)
        marked = self._plan.marks(self.unit.shard)
        reasons = [item.excluded or marked.get(number) for number, item in enumerate(items, self.unit.start)]
        feeds = _feeds(self._raw, items, reasons)
        for item, feed, stamp, reason in zip(items, feeds, stamps, reasons, strict=True):
            if reason:
                path = self._path(item, None if self._privacy is None else self._own_file(item))
                yield item, iter([self._without_picture(item, path, reason)])
            else:
                yield item, self._outcomes(item, feed, stamp)

    def _outcomes(self, item: Item, feed: Feed | None, stamp: str) -> Iterator[Outcome]:
        """The outcomes of one input. Outcomes before a failure stay; the failure has a line of its own."""
        count, path = 0, self._path(item, None)
        try:
            if stamp_of(item, self._raw) != stamp:
                raise Refused(CHANGED, "since it was listed; add --retry-failed to list it again")
            source = _regular_file(self._raw, self._folder, item.path) if feed is None else _next(feed)
            path = self._path(item, None if isinstance(source, list) else source)
            reading = Reading(self._source, path, item, self._plan.options, self._rules, self.unit.threads)
            for outcome in self._read(source, reading):
                count += 1
                yield self._unread(item, outcome) if isinstance(outcome, Unreadable) else outcome
        except Exception as error:  # decoders raise nearly everything on damaged files; each costs one line
            refused = _refusal(error)
            yield self._without_picture(item, path, refused.outcome, refused.detail)
            return
        if not count:
            yield self._without_picture(item, path, UNREADABLE, "holds no picture")

    def _read(self, source: Content, reading: Reading) -> Iterator[Outcome | Unreadable]:
        """The outcomes of an input: a plain PNG or JPEG is safe to read here, others are read by a limited process."""
        plain = _plain(source, reading.item)
        if plain is not None:
            yield from read_outcomes(plain, replace(reading, threads=1), self._raw)
            return
        for batch in self._workers.each("the file", read_batches, source, reading, self._raw):
            yield from batch

    def _without_picture(self, item: Item, path: str, outcome: str, detail: str | None = None) -> Outcome:
        """The line of an input without a picture. For a private one, the detail may repeat its content."""
        if self._privacy is None:
            return Outcome(line_of(self._source, item, path, outcome, detail))
        return Outcome({**line_of(self._source, item, path, outcome), "remark": detail or None})

    def place(self, item: Item) -> str | None:
        """The path of an input of a private source, for the builder's own folder."""
        return None if self._privacy is None else locator(item)

    def _unread(self, item: Item, unread: Unreadable) -> Outcome:
        """The line of one unreadable file of a series; the others are read."""
        inside = bool(item.members)
        path = item.path if inside else unread.file
        alone = item._replace(kind="image", path=path, member=unread.file if inside else None)
        return self._without_picture(alone, self._path(alone, None), unread.outcome, unread.detail)

    def _own_file(self, item: Item) -> Path | None:
        """The file of an unread input; None if it is not a file of its own below its source's folder."""
        try:
            return None if _in_archive(item) else _regular_file(self._raw, self._folder, item.path)
        except (Refused, OSError):
            return None

    def _path(self, item: Item, source: Path | bytes | None) -> str:
        """The input's stored name; a limited process reads the header that it is compared with."""
        if self._privacy is None or not self._privacy.keep or source is None:
            return stored_path(item, source, self._privacy)
        try:
            return self._workers.call("the file", stored_path, item, source, self._privacy)
        except UserError:
            return stored_path(item, None, self._privacy)


def _feeds(raw: Path, items: list[Item], reasons: list[str | None]) -> list[Feed | None]:
    """For each input the iterator that its bytes come from, shared by consecutive members of one archive.

    Excluded inputs are skipped.
    """
    feeds: list[Feed | None] = []
    pairs = zip(items, reasons, strict=True)
    for (path, feeder), group in groupby(pairs, key=lambda pair: (pair[0].path, _feeder(pair[0]))):
        entries = list(group)
        opened = [item for item, reason in entries if not reason]
        feeds += [feeder(raw / path, opened) if feeder else None] * len(entries)
    return feeds


def _feeder(item: Item) -> Callable[[Path, Sequence[Item]], Feed] | None:
    """The iterator over an archive that gives an input's bytes, None for an input that is opened by itself."""
    if item.kind == "dicom_series":
        return members.series if streamed(item) else None
    return members.members if _in_archive(item) else None


def _in_archive(item: Item) -> bool:
    return item.member is not None and item.kind not in ("hdf5", "dicom_series")


def _next(feed: Feed) -> Any:
    _, data = next(feed, (None, Refused(UNREADABLE, "no longer in the archive")))
    if isinstance(data, Refused):
        raise data
    return data


def _regular_file(raw: Path, folder: str, path: str) -> Path:
    """The input's path, if it is a regular file (or a series' folder) below its source's `folder`, links resolved.

    The source's own folder may be a link, as is common for large disks. `folder` and `path` are below `raw`.
    """
    raw = raw.absolute()  # what is resolved is remembered, and the process may change its folder
    top = _resolved(raw / folder)
    place = raw / path
    target = Path(_resolved(place.parent)) / place.name
    if target.is_symlink():
        target = Path(os.path.realpath(target))  # `resolve` raises RuntimeError for a link to itself
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
