"""What is to be built: every input in order, cut into shards, saved once; every worker reads the same plan.

The plan and the shards' candidates live in `OUT/.build/`, which is private to the builder: it may name folders as
they are called on this disk and is not part of the dataset.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from biovfm_hf.errors import UserError
from biovfm_hf.writing.files import atomic_path, write_text

from ..catalog.overlaps import outside_benchmarks, overlap_rows
from ..catalog.source import Source
from ..item import Item, Part
from .listing import list_items
from .privacy import quiet_decoders, subject_words
from .stamps import stamp_of

WORK = ".build"
VERSION = 5
SHARD_BYTES = 100 * 2**20  # estimated bytes of rows in a shard
SHARD_ITEMS = 20_000
_ROW_BYTES = 60_000  # a 2D image seldom makes a larger row
_VIDEO_SHARE = 8  # bytes of video per byte of sampled frames, a guess that only balances shards

_ITEMS = pa.schema(
    {
        "shard": pa.int32(),
        "path": pa.string(),
        "member": pa.string(),
        "kind": pa.string(),
        "subject": pa.string(),
        "anatomy": pa.string(),
        "excluded": pa.string(),
        "intensity": pa.string(),
        "view": pa.string(),
        "options": pa.string(),
        "modality": pa.string(),
        "stamp": pa.string(),
    }
)


@dataclass(frozen=True)
class Options:
    """What shapes the dataset's bytes; a build in progress can only be continued with the same.

    Attributes:
        size: side of the rows' images in pixels.
        fit: `longest` (that side becomes `size`, centred padding makes a square) or `shortest` (no padding).
        views: along which volumes are sliced.
        image_format: png (level 1, lossless) or jpeg.
        quality: of JPEG.
        subset: full, us, 0.2m or 2.45m.
        leakage: strict or paper.
        near_duplicates: whether near duplicates are dropped, and what equals an earlier picture of its own input; what
            equals a picture of another input always is.
        seed: of the random subset and, without a salt, of the subjects' hashes.
        salt: SHA-256 of the private salt file's content, so that the plan does not tell it; empty without one.
    """

    size: int = 224
    fit: str = "longest"
    views: tuple[str, ...] = ("axial", "sagittal", "coronal")
    image_format: str = "png"
    quality: int = 95
    subset: str = "full"
    leakage: str = "strict"
    near_duplicates: bool = True
    seed: int = 0
    salt: str = ""

    @property
    def key(self) -> str:
        """Of the hashes that stand for withheld paths."""
        return self.salt or f"biovfm {self.seed}"


@dataclass(frozen=True)
class Shard:
    """One unit of work: a run of inputs of one source and modality; `name` is the file of the dataset."""

    source: str
    modality: str | None
    name: str
    items: int


@dataclass(frozen=True)
class Plan:
    """A saved plan.

    `sources` holds what the card needs of each record, `skipped` why others were left out, `records` a digest of each,
    `raw` is the raw folder's path with links resolved.
    """

    out: Path
    options: Options
    shards: tuple[Shard, ...]
    sources: dict[str, dict[str, Any]]
    skipped: dict[str, str]
    records: dict[str, str]
    raw: str

    @property
    def work(self) -> Path:
        """The builder's private folder."""
        return self.out / WORK

    def rows_path(self, number: int) -> Path:
        """Candidate rows of a shard."""
        return self.work / "shards" / f"{number:06d}.parquet"

    def candidates_path(self, number: int) -> Path:
        """Everything that a shard considered."""
        return self.work / "shards" / f"{number:06d}.candidates.parquet"

    def stats_path(self, number: int) -> Path:
        """Statistics of a shard: its presence marks the shard done."""
        return self.work / "shards" / f"{number:06d}.json"

    def progress_path(self, number: int) -> Path:
        """How far the worker on this shard is."""
        return self.work / "progress" / f"{number:06d}"

    def marks_path(self, number: int) -> Path:
        """Inputs of a shard that crashed or stalled a worker."""
        return self.work / "marks" / f"{number:06d}.json"

    def marks(self, number: int) -> dict[int, str]:
        """Input number in the shard -> why it must not be opened again."""
        try:
            return {int(k): v for k, v in json.loads(self.marks_path(number).read_text(encoding="utf-8")).items()}
        except FileNotFoundError:
            return {}

    def mark(self, number: int, item: int, reason: str) -> None:
        """Note that an input must not be opened again."""
        write_text(self.marks_path(number), json.dumps({**self.marks(number), item: reason}))

    def items(self, number: int) -> list[Item]:
        """The inputs of a shard, in order; their subjects are hashed already."""
        table = pq.ParquetFile(self.work / "items.parquet").read_row_group(number).drop(["shard", "stamp"])
        return [_item(row) for row in table.to_pylist()]

    def stamps(self, number: int) -> list[str]:
        """For each input of a shard, size and time of change of its files when they were listed."""
        file = pq.ParquetFile(self.work / "items.parquet")
        return file.read_row_group(number, columns=["stamp"])["stamp"].to_pylist()

    def outcomes(self) -> dict[str, int]:
        """Count of each outcome in the shards that are done."""
        counts: Counter[str] = Counter()
        for number in range(len(self.shards)):
            if self.stats_path(number).is_file():
                counts.update(json.loads(self.stats_path(number).read_text(encoding="utf-8"))["outcomes"])
        return dict(counts)

    def unfinished(self) -> list[int]:
        """Shards that are not done yet."""
        return [number for number in range(len(self.shards)) if not self.stats_path(number).is_file()]


def make_plan(sources: Iterable[Source], raw: Path, out: Path, options: Options, salt: str) -> Plan:
    """List the inputs of `sources` below `raw`, cut them into shards, and save the plan in `out`.

    Raises:
        UserError: nothing of these sources is in the raw folder.
    """
    described: dict[str, dict[str, Any]] = {}
    skipped: dict[str, str] = {}
    records: dict[str, str] = {}
    shards: list[Shard] = []
    work = out / WORK
    with (
        quiet_decoders(),
        atomic_path(work / "items.parquet") as path,
        pq.ParquetWriter(path, _ITEMS, compression="zstd") as writer,
    ):
        for source in sources:
            records[source.id] = digest(source)
            before = len(shards)
            stamps: dict[str, str] = {}
            for modality, items in _cut(_considered(source, raw, options, stamps)):
                number = sum(s.source == source.id and s.modality == modality for s in shards[before:])
                rows = [
                    {**_row(item, source, salt), "shard": len(shards), "stamp": stamp_of(item, raw, stamps)}
                    for item in items
                ]
                writer.write_table(pa.Table.from_pylist(rows, schema=_ITEMS), row_group_size=len(rows))
                name = f"data/{slug(modality)}/{source.id}-{number:05d}.parquet"
                shards.append(Shard(source.id, modality, name, len(items)))
            if len(shards) == before:
                skipped[source.id] = _absence(source, raw)
            else:
                described[source.id] = _described(source)
        if not shards:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in list(skipped.items())[:3])
            raise UserError(f"{raw}: holds none of the sources ({reasons}); see: biovfm sources status --raw {raw}")
    plan = Plan(out, options, tuple(shards), described, skipped, records, str(raw.resolve()))
    content = {**asdict(plan), "version": VERSION}
    del content["out"]
    write_text(work / "plan.json", json.dumps(content, indent=1))
    return plan


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
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version = content["version"]
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path} is damaged, so that build cannot go on; choose another --out") from error
    if version != VERSION:
        raise UserError(
            f"{out}: was planned by another version of biovfm; go on with that version, or choose another --out"
        )
    options = {**content["options"], "views": tuple(content["options"]["views"])}
    return Plan(
        out=out,
        options=Options(**options),
        shards=tuple(Shard(**shard) for shard in content["shards"]),
        sources=content["sources"],
        skipped=content["skipped"],
        records=content["records"],
        raw=content["raw"],
    )


def differing(planned: Options, now: Options) -> list[str]:
    """The options in which two builds differ, as words for a message."""
    return [
        f"{field.name} {getattr(planned, field.name)} (now {getattr(now, field.name)})"
        for field in fields(Options)
        if getattr(planned, field.name) != getattr(now, field.name)
    ]


def changed_sources(plan: Plan, sources: Iterable[Source]) -> list[str]:
    """Ids of the sources that are new, gone, or whose record says something else than when the plan was made."""
    records = {source.id: digest(source) for source in sources}
    return sorted(id for id in records.keys() | plan.records.keys() if records.get(id) != plan.records.get(id))


def digest(source: Source) -> str:
    """A short hash of what a record says, wherever its file lies."""
    record = json.dumps({**asdict(source), "record": ""}, sort_keys=True)
    return hashlib.sha256(record.encode()).hexdigest()[:16]


def slug(modality: str | None) -> str:
    """The name of a modality's config and folder: lower case, with hyphens; `mixed` where the source does not tell."""
    return (modality or "mixed").lower().replace(" ", "-")


def _considered(source: Source, raw: Path, options: Options, stamps: dict[str, str]) -> Iterator[Item]:
    """All inputs of a source, with the exclusions of the leakage guard and of the subset added to the record's own."""
    leaks = outside_benchmarks(source, options.leakage)
    for item in list_items(source, raw, stamps):
        reason = item.excluded
        if reason is None:
            reason = leaks(f"{item.path}!{item.member}" if item.member else item.path)
        if reason is None and options.subset == "us" and item.modality != "Ultrasound":
            reason = "not in the subset us"
        yield item if reason == item.excluded else replace(item, excluded=reason)


def _cut(items: Iterator[Item]) -> Iterator[tuple[str | None, list[Item]]]:
    """Runs of one modality up to the size of a shard. Excluded inputs stay with whatever was taken last."""
    groups: dict[str | None, list[Item]] = {}
    sizes: dict[str | None, int] = {}
    last: str | None = None
    for item in items:
        last = item.modality if item.excluded is None or not groups else last
        group = groups.setdefault(last, [])
        group.append(item)
        sizes[last] = sizes.get(last, 0) + _estimate(item)
        if sizes[last] >= SHARD_BYTES or len(group) >= SHARD_ITEMS:
            yield last, groups.pop(last)
            sizes[last] = 0
    yield from groups.items()


# fields of an item that few have: one column of the plan, as JSON
_DETAILS = ("size", "offset", "outer", "fps", "row", "files", "members", "private", "unnamed")


def _estimate(item: Item) -> int:
    """Bytes of rows that an input will make, roughly; it only balances shards."""
    if item.excluded:
        return 0
    size = item.size or 0
    if item.kind == "image" or item.row is not None:
        return min(size, _ROW_BYTES) if size else _ROW_BYTES // 2
    if item.kind == "video":
        return size // _VIDEO_SHARE
    if item.kind == "dicom_series":
        return 300_000 * len(item.files or item.members)
    return size if item.path.endswith(".gz") else size // 2


def _row(item: Item, source: Source, salt: str) -> dict[str, Any]:
    if not source.published and item.subject is not None:
        item = replace(item, private=tuple(subject_words(item.subject)))
    details = {name: value for name in _DETAILS if not _is_empty(value := getattr(item, name))}
    return {
        **{name: value for name, value in vars(item).items() if name not in _DETAILS},
        "subject": hashed_subject(item.subject, source.id, salt),
        "intensity": None if item.intensity is None else json.dumps(item.intensity),
        "options": json.dumps(details, default=_stated) if details else None,
    }


def hashed_subject(subject: str | None, source: str, salt: str) -> str | None:
    """16 hex digits that stand for a subject; without the salt nobody can test a name against them."""
    if subject is None:
        return None
    return hashlib.blake2b(f"{source}/{subject}".encode(), key=salt.encode()[:64], digest_size=8).hexdigest()


def _item(row: dict[str, Any]) -> Item:
    details = json.loads(row.pop("options") or "{}")
    if "outer" in details:
        details["outer"] = _part(details["outer"])
    for name in ("files", "members", "private"):
        values = details.get(name, ())
        details[name] = tuple(map(_part, values)) if name == "members" else tuple(values)
    intensity = None if row["intensity"] is None else json.loads(row["intensity"])
    return Item(**{**row, "intensity": intensity}, **details)


def _is_empty(value: Any) -> bool:
    return value is None or value is False or value == ()


def _stated(part: Part) -> dict[str, Any]:
    return {name: value for name, value in vars(part).items() if value is not None}


def _part(fields: dict[str, Any]) -> Part:
    outer = fields.get("outer")
    return Part(**{**fields, "outer": None if outer is None else _part(outer)})


def _described(source: Source) -> dict[str, Any]:
    names = ("published", "paths", "folder", "name", "modalities", "anatomies", "in_paper", "images_in_paper",
             "homepage", "access", "licence", "terms", "citation")  # fmt: skip
    described = {name: getattr(source, name) for name in names}
    return {**described, "overlaps": overlap_rows(source)}


def _absence(source: Source, raw: Path) -> str:
    folder = source.folder or source.id
    if not (raw / folder).is_dir():
        return f"not in the raw folder (looked for {folder}/)"
    return f"{folder}/ holds no image"
