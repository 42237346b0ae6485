"""The build plan: every input in order, cut into shards and saved once (`making`); every worker reads the same plan.

The plan and the shards' candidates are in `OUT/.build/`, which is private to the builder: it may contain names of this
disk's folders and is not part of the dataset.
"""

import json
import re
from dataclasses import asdict, dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from biovfm_hf.errors import UserError, one_line
from biovfm_hf.writing.files import write_text

from ..item import Item
from .items import items_of
from .state import is_arrow_file, read_state, row_groups

WORK = ".build"
VERSION = 8
_STATISTICS = {"items": int, "outcomes": dict, "pictures": int, "kept": int, "bytes": int, "rows_sha256": str}


@dataclass(frozen=True)
class Options:
    """Options that determine the dataset's bytes; a build in progress can only continue with the same ones.

    `options.BuildOptions` states their meanings and defaults. Two are kept in another form here:

    Attributes:
        near_duplicates: whether near duplicates, and copies of earlier pictures of the same input, are dropped; copies
            of another input's pictures always are.
        salt: SHA-256 of the salt file's content; empty without one.
    """

    size: int
    fit: str
    views: tuple[str, ...]
    image_format: str
    quality: int
    subset: str
    leakage: str
    near_duplicates: bool
    seed: int
    salt: str

    @property
    def key(self) -> str:
        """The key of the hashes of published sources' subjects, which are pseudonyms already."""
        return self.salt or f"biovfm {self.seed}"


@dataclass(frozen=True)
class Shard:
    """A run of inputs of one source and modality, which makes one file of the dataset.

    Attributes:
        source: id of the source.
        modality: of its inputs; None if the source does not state it.
        name: of the file, below the dataset folder.
        items: how many inputs it has.
        seconds: estimated time of one core for them.
        file: number of its files in the work folder, which it keeps when another listing moves it.
    """

    source: str
    modality: str | None
    name: str
    items: int
    seconds: float
    file: int


class Unit(NamedTuple):
    """A worker's unit of work: the inputs of a shard from `start` to `stop`.

    `threads` is the number of threads for one input's pictures, if there are more cores than units.
    """

    shard: int
    start: int
    stop: int
    threads: int = 1


@dataclass(frozen=True)
class Plan:
    """A saved plan.

    `sources` holds the facts of each record that the card needs, `skipped` why other sources were left out, `records`
    a digest of each record, `raw` the raw folder's path with links resolved, `secret` the key of the hashes of private
    sources, `software` the version that began the build, `listing` how often the raw folder was listed again.
    """

    out: Path
    options: Options
    shards: tuple[Shard, ...]
    sources: dict[str, dict[str, Any]]
    skipped: dict[str, str]
    records: dict[str, str]
    raw: str
    secret: str = field(repr=False)
    software: str = ""
    listing: int = 0

    @property
    def work(self) -> Path:
        """The builder's private folder."""
        return self.out / WORK

    @property
    def items_path(self) -> Path:
        """The table of all inputs; each listing has its own. Without it the sources are listed again."""
        return self.work / (f"items-{self.listing}.parquet" if self.listing else "items.parquet")

    def has_items(self) -> bool:
        """Whether the table of all inputs is there and holds every shard."""
        return row_groups(self.items_path) == len(self.shards)

    def _file(self, number: int) -> str:
        return f"{self.shards[number].file:06d}"

    def rows_path(self, number: int) -> Path:
        """Candidate rows of a shard."""
        return self.work / "shards" / f"{self._file(number)}.parquet"

    def candidates_path(self, number: int) -> Path:
        """Everything that a shard considered."""
        return self.work / "shards" / f"{self._file(number)}.candidates.parquet"

    def thumbnails_path(self, number: int) -> Path:
        """Concatenated thumbnails, one for each hash in a shard's candidates."""
        return self.work / "shards" / f"{self._file(number)}.thumbnails"

    def stats_path(self, number: int) -> Path:
        """Statistics of a shard, which mark it done and name its files by their sizes and content."""
        return self.work / "shards" / f"{self._file(number)}.json"

    def files(self, number: int) -> dict[str, Path]:
        """The files of a shard that its statistics stand for."""
        return {
            "rows": self.rows_path(number),
            "candidates": self.candidates_path(number),
            "thumbnails": self.thumbnails_path(number),
        }

    def statistics(self, number: int) -> dict[str, Any] | None:
        """The statistics of a shard, None if it is not done: they, its rows or its candidates are missing or damaged.

        Thumbnails may be missing: only a new screening needs them (`has_thumbnails`).
        """
        content = read_state(self.stats_path(number), _STATISTICS)
        if content is None or not isinstance(content.get("sizes", {}), dict):  # earlier versions noted no sizes
            return None
        whole = all(self._is_whole_file(content, number, name) for name in ("rows", "candidates"))
        return content if whole else None

    def has_thumbnails(self, number: int, statistics: dict[str, Any]) -> bool:
        """Whether the thumbnails of a shard with these statistics are complete."""
        return self._is_whole_file(statistics, number, "thumbnails")

    def _is_whole_file(self, statistics: dict[str, Any], number: int, name: str) -> bool:
        path = self.files(number)[name]
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            return False
        return bool(statistics.get("sizes", {}).get(name, size) == size)

    def part_path(self, unit: Unit) -> Path:
        """Output of a unit that is part of a shard, until the shard is joined."""
        return self.work / "shards" / f"{self._file(unit.shard)}.{unit.start:06d}-{unit.stop:06d}.arrow"

    def parts(self, number: int | None = None) -> dict[int, list[Unit]]:
        """Number of each shard (or only this one) with finished parts -> those parts, in the order of their inputs.

        Damaged parts are left out, so that their inputs are read again.
        """
        parts: dict[int, list[Unit]] = {}
        own = "[0-9]*" if number is None else self._file(number)
        shards = {shard.file: shard_number for shard_number, shard in enumerate(self.shards)}
        for path in sorted((self.work / "shards").glob(f"{own}.*-*.arrow")):
            file, start, stop = map(int, re.split("[.-]", path.stem))
            if file in shards and is_arrow_file(path):
                parts.setdefault(shards[file], []).append(Unit(shards[file], start, stop))
        return parts

    def whole(self, number: int) -> Unit:
        """All of a shard."""
        return Unit(number, 0, self.shards[number].items)

    def is_whole(self, unit: Unit) -> bool:
        """Whether a unit is all of its shard."""
        return unit.start == 0 and unit.stop == self.shards[unit.shard].items

    def progress_path(self, unit: Unit) -> Path:
        """Progress of the worker on this unit."""
        return self.work / "progress" / f"{self._file(unit.shard)}.{unit.start:06d}"

    def marks_path(self, number: int) -> Path:
        """Inputs of a shard that crashed or stalled a worker."""
        return self.work / "marks" / f"{self._file(number)}.json"

    def marks(self, number: int) -> dict[int, str]:
        """Input number in the shard -> why it must not be opened again."""
        marks = read_state(self.marks_path(number), {}) or {}
        return {int(item): reason for item, reason in marks.items() if item.isdecimal() and isinstance(reason, str)}

    def mark(self, number: int, item: int, reason: str) -> None:
        """Note that an input must not be opened again."""
        write_text(self.marks_path(number), json.dumps({**self.marks(number), item: reason}))

    def items(self, unit: Unit) -> list[Item]:
        """The inputs of a unit, in order; their subjects are hashed already."""
        return items_of(self._inputs(unit))

    def stamps(self, unit: Unit) -> list[str]:
        """For each input of a unit, size and time of change of its files when they were listed."""
        return self._inputs(unit)["stamp"].to_pylist()

    def costs(self, unit: Unit) -> tuple[np.ndarray, np.ndarray]:
        """For each input of a unit the seconds that it will take, and whether it follows the one before."""
        table = self._inputs(unit)
        return table["seconds"].to_numpy(), table["follows"].to_numpy()

    def _inputs(self, unit: Unit) -> pa.Table:
        path = self.items_path
        try:
            table = _row_group(path, path.stat().st_mtime_ns, unit.shard)
        except (OSError, pa.ArrowException) as error:
            raise UserError(
                f"{path}: cannot be read ({one_line(error)}); remove it, and the same command lists the sources again"
            ) from error
        return table.slice(unit.start, unit.stop - unit.start)


@lru_cache(maxsize=2)
def _row_group(path: Path, _changed: int, number: int) -> pa.Table:
    return pq.ParquetFile(path).read_row_group(number)


def save_plan(plan: Plan) -> None:
    """Write the plan to its folder."""
    content = {**asdict(plan), "version": VERSION}
    del content["out"]
    write_text(plan.work / "plan.json", json.dumps(content, indent=1))


def load_plan(out: Path) -> Plan:
    """The plan saved in `out`.

    Raises:
        FileNotFoundError: there is none.
        UserError: it was made by another version, or is damaged.
    """
    path = out / WORK / "plan.json"
    return _parsed(out, path.stat().st_mtime_ns)


@lru_cache(maxsize=2)
def _parsed(out: Path, _changed: int) -> Plan:
    path = out / WORK / "plan.json"
    content = read_state(path, {"version": int})
    if content is not None and content["version"] != VERSION:
        raise UserError(
            f"{out}: was planned by another version of biovfm; continue with that version, or choose another --out"
        )
    try:
        return _plan_of(out, content or {})
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path} is damaged, so the build cannot continue; choose another --out") from error


def _plan_of(out: Path, content: dict[str, Any]) -> Plan:
    options = {**content["options"], "views": tuple(content["options"]["views"])}
    return Plan(
        out=out,
        options=Options(**options),
        shards=tuple(Shard(**{"file": number, **shard}) for number, shard in enumerate(content["shards"])),
        sources=content["sources"],
        skipped=content["skipped"],
        records=content["records"],
        raw=content["raw"],
        secret=content["secret"],
        software=content.get("software", ""),
        listing=content.get("listing", 0),
    )


def remove_earlier(plan: Plan) -> None:
    """Remove from the work folder what only earlier listings of the raw folder need."""
    files = {shard.file for shard in plan.shards}
    for folder in ("shards", "progress", "marks"):
        for path in (plan.work / folder).glob("[0-9]*"):
            if int(re.split(r"\D", path.name)[0]) not in files:
                path.unlink()
    for path in plan.work.glob("items*.parquet"):
        if path != plan.items_path:
            path.unlink()


def remove_parts(plan: Plan) -> None:
    """Remove all parts of shards; once every shard is done, only damaged or late ones are left."""
    for path in (plan.work / "shards").glob("[0-9]*.arrow"):
        path.unlink()


def differing(planned: Options, now: Options) -> list[str]:
    """The options in which two builds differ, in words for a message."""
    return [
        "another salt file"  # whose digest is the key of the hashes
        if field.name == "salt"
        else f"{field.name} {getattr(planned, field.name)} (now {getattr(now, field.name)})"
        for field in fields(Options)
        if getattr(planned, field.name) != getattr(now, field.name)
    ]


def slug(modality: str | None) -> str:
    """The name of a modality's config and folder: lower case, with hyphens; `mixed` if the source states none."""
    return (modality or "mixed").lower().replace(" ", "-")
