"""Makes the build plan: lists every input of the sources in order, and cuts them into shards."""

import hashlib
import json
import os
import secrets
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from biovfm_hf.errors import UserError
from biovfm_hf.pictures import quiet_decoders
from biovfm_hf.writing.files import atomic_path

from ..catalog.overlaps import outside_benchmarks, overlap_rows
from ..catalog.source import Source
from ..item import Item
from .costs import file_bytes, row_bytes
from .items import ITEMS, REPEATED, block_table
from .listing import list_inputs
from .plan import WORK, Options, Plan, Shard, save_plan, slug
from .privacy import privacy_of
from .runs import Block, Blocks, Run
from .stamps import stamp_of

SHARD_BYTES = 100 * 2**20  # estimated bytes of rows in a shard
SHARD_ITEMS = 20_000


def make_plan(
    sources: Iterable[Source], raw: Path, out: Path, options: Options, secret: str, software: str = ""
) -> Plan:
    """List the inputs of `sources` below `raw`, cut them into shards, and save the plan in `out`.

    `secret` is the key of the hashes of private sources, `software` the version that begins the build.

    Raises:
        UserError: none of these sources is in the raw folder.
    """
    plan = listed_plan(sources, raw, Plan(out, options, (), {}, {}, {}, str(raw.resolve()), secret, software))
    save_plan(plan)
    return plan


def listed_plan(sources: Iterable[Source], raw: Path, empty: Plan) -> Plan:
    """List the inputs of `sources` below `raw` for a plan that is `empty`; its table is written, the plan not saved.

    Raises:
        UserError: none of these sources is in the raw folder.
    """
    described: dict[str, dict[str, Any]] = {}
    skipped: dict[str, str] = {}
    records: dict[str, str] = {}
    shards: list[Shard] = []
    sources, options = list(sources), empty.options
    empty.work.mkdir(parents=True, exist_ok=True)
    if any(map(_is_withheld, sources)):
        empty.work.chmod(0o700)  # its files have the paths and the secret
    quiet_decoders()
    with (
        atomic_path(empty.items_path) as path,
        pq.ParquetWriter(path, ITEMS, compression="zstd", use_dictionary=REPEATED, write_statistics=False) as writer,
    ):
        for source in sources:
            records[source.id] = digest(source)
            before = len(shards)
            key = empty.secret if _is_withheld(source) else options.key
            stamps: dict[str, str] = {}
            of_item = partial(stamp_of, raw=raw, listed=stamps)
            for modality, blocks in _cut(_considered(source, raw, options, stamps)):
                table = pa.concat_tables([block_table(block, source, key, of_item) for block in blocks])
                table = table.append_column(
                    ITEMS.field("shard"), pa.repeat(pa.scalar(len(shards), pa.int32()), len(table))
                )
                writer.write_table(table.select(ITEMS.names).combine_chunks(), row_group_size=len(table))
                number = sum(s.source == source.id and s.modality == modality for s in shards[before:])
                name = f"data/{slug(modality)}/{source.id}-{number:05d}.parquet"
                duration = round(pc.sum(table["seconds"]).as_py(), 3)
                shards.append(Shard(source.id, modality, name, len(table), duration, len(shards)))
            if len(shards) == before:
                skipped[source.id] = _absence(source, raw)
            else:
                described[source.id] = _described(source)
        if not shards:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in list(skipped.items())[:3])
            raise UserError(f"{raw}: holds none of the sources ({reasons}); see: biovfm sources status --raw {raw}")
    return replace(empty, shards=tuple(shards), sources=described, skipped=skipped, records=records)


def secret_of(out: Path) -> str:
    """The random key that the builder keeps in its own folder; jobs that plan at the same time get the same one."""
    path = out / WORK / "secret"
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent)  # only its owner can read it
    own = Path(name)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(secrets.token_hex(32))
    try:
        path.hardlink_to(own)
    except FileExistsError:  # another job was first
        pass
    except OSError:  # the file system has no hard links
        own.replace(path)
    own.unlink(missing_ok=True)
    return path.read_text(encoding="ascii")


def changed_sources(plan: Plan, sources: Iterable[Source]) -> list[str]:
    """Ids of sources that are new, gone, or whose record has changed since the plan was made."""
    records = {source.id: digest(source) for source in sources}
    return sorted(id for id in records.keys() | plan.records.keys() if records.get(id) != plan.records.get(id))


def digest(source: Source) -> str:
    """A short hash of a record's content, independent of its path."""
    record = json.dumps({**asdict(source), "record": ""}, sort_keys=True)
    return hashlib.sha256(record.encode()).hexdigest()[:16]


def _considered(source: Source, raw: Path, options: Options, stamps: dict[str, str]) -> Iterator[Run | Item]:
    """All inputs of a source, with the exclusions of the leakage guard and of the subset added to the record's own."""
    leaks = outside_benchmarks(source, options.leakage)
    by_path = any(overlap.part for overlap in source.overlaps)  # then files of a run may differ

    def guarded(item: Item, path: str) -> Item:
        reason = item.excluded or leaks(path)
        if reason is None and options.subset == "us" and item.modality != "Ultrasound":
            reason = "not in the subset us"
        return item if reason == item.excluded else item._replace(excluded=reason)

    for one in list_inputs(source, raw, stamps):
        if isinstance(one, Run) and not by_path:
            yield one._replace(template=guarded(one.template, ""))
        elif isinstance(one, Run):
            for number, item in enumerate(one.items()):
                yield one.part(number, number + 1)._replace(template=guarded(one.template, item.path))
        else:
            yield guarded(one, f"{one.path}!{one.member}" if one.member else one.path)


def _cut(inputs: Iterator[Run | Item]) -> Iterator[tuple[str | None, list[Block]]]:
    """Runs of one modality, up to the size of a shard. Excluded inputs stay with the run before them."""
    groups: dict[str | None, Blocks] = {}
    last: str | None = None
    for one in inputs:
        template = one.template if isinstance(one, Run) else one
        last = template.modality if template.excluded is None or not groups else last
        sizes = file_bytes(template, one.sizes) if isinstance(one, Run) else [row_bytes(one)]
        while sizes:
            group = groups.setdefault(last, Blocks())
            room = group.room(sizes, SHARD_BYTES, SHARD_ITEMS)
            group.add(one.part(0, room) if isinstance(one, Run) and room < len(sizes) else one, sizes[:room])
            if group.bytes >= SHARD_BYTES or group.count >= SHARD_ITEMS:
                yield last, groups.pop(last).blocks
            one, sizes = one.part(room, len(sizes)) if isinstance(one, Run) else one, sizes[room:]
    for modality, group in groups.items():
        yield modality, group.blocks


def _described(source: Source) -> dict[str, Any]:
    names = ("published", "paths", "folder", "name", "modalities", "anatomies", "in_paper", "images_in_paper",
             "homepage", "access", "licence", "terms", "citation")  # fmt: skip
    described = {name: getattr(source, name) for name in names}
    return {**described, "overlaps": overlap_rows(source)}


def _is_withheld(source: Source) -> bool:
    return privacy_of(source.id, _described(source), "") is not None


def _absence(source: Source, raw: Path) -> str:
    folder = source.folder or source.id
    if not (raw / folder).is_dir():
        return f"not in the raw folder (looked for {folder}/)"
    return f"{folder}/ holds no image"
