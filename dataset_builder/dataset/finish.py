"""From candidates to the dataset: shards without what was dropped, and the manifest of everything considered."""

import json
import shutil
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from biovfm_hf.writing.files import atomic_path, linked, write_text

from ..plan.plan import Plan, Unit, load_plan
from ..plan.privacy import privacy_of
from ..schema import CANDIDATES, KEPT, MANIFEST, ROW_GROUP, GroupWriter, row_writer
from ..screening.duplicates import BENCHMARK, load_drops, sample_path
from ..screening.hashing import sha256_of_file

NOT_TOLD = "not told"  # the anatomy, where a source does not tell it
SAMPLE = "sample"  # folder of config 0.2m
SAMPLE_ROWS = 20_000  # rows in one of its files
_PLACES = pa.schema(
    [CANDIDATES.field(name) for name in ("source", "path", "place", "view", "index", "outcome", "remark")]
)


def finish_shard(out: str, raw: str, unit: Unit) -> dict[str, Any]:
    """Write one file of the dataset from the shard's candidates and the decisions on them; `raw` is not used.

    A shard of which nothing is kept leaves no file. Returns {"shard", "kept"}.
    """
    plan, number = load_plan(Path(out)), unit.shard
    target = plan.out / plan.shards[number].name
    lines = pq.read_table(plan.candidates_path(number), columns=["outcome"])["outcome"].to_pylist()
    drops = load_drops(plan, number)
    rows = [line for line, outcome in enumerate(lines) if outcome == KEPT]
    stays = np.array([line not in drops for line in rows], dtype=bool)
    if not stays.any():
        target.unlink(missing_ok=True)
    elif not target.is_file():
        with atomic_path(target) as path:
            if stays.all():
                linked(plan.rows_path(number), path)
            else:
                _write(_chosen(plan.rows_path(number), stays), path)
    return {"shard": number, "kept": int(stays.sum())}


def write_sample(plan: Plan) -> int:
    """Write the files of config 0.2m, a copy of the rows that were chosen, in plan order; returns how many."""
    folder = plan.out / SAMPLE
    if not sample_path(plan).is_file():
        shutil.rmtree(folder, ignore_errors=True)
        return 0
    chosen = np.load(sample_path(plan))
    if not folder.is_dir():
        with atomic_path(folder) as path:
            path.mkdir()
            rows = _sampled(plan, chosen)
            for number in range(-(-len(chosen) // SAMPLE_ROWS)):
                _write(islice(rows, SAMPLE_ROWS), path / f"{number:05d}.parquet")
    return len(chosen)


def _sampled(plan: Plan, chosen: np.ndarray) -> Iterator[pa.RecordBatch]:
    """Row by row, what `chosen`, int32 (n, 2) of shard and line, names."""
    for shard in np.unique(chosen[:, 0]).tolist():
        outcomes = pq.read_table(plan.candidates_path(shard), columns=["outcome"])["outcome"].to_pylist()
        lines = np.flatnonzero([outcome == KEPT for outcome in outcomes])
        for batch in _chosen(plan.rows_path(shard), np.isin(lines, chosen[chosen[:, 0] == shard, 1])):
            yield from (batch.slice(row, 1) for row in range(len(batch)))


def write_manifest(plan: Plan) -> dict[str, Any]:
    """Write `manifest.parquet` in plan order.

    Returns:
        Counts: considered, kept, outcomes {reason: n}, sources {id: {outcome: n}}, `benchmark_matches`
        {source in benchmark: n}, and `modality_anatomy` {modality: {anatomy: n}} of what is kept.
    """
    counts: dict[str, Any] = {"considered": 0, "kept": 0}
    counts |= {"outcomes": {}, "sources": {}, "modality_anatomy": {}, "benchmark_matches": {}}
    with atomic_path(plan.out / "manifest.parquet") as path, _manifest_writer(path) as writer:
        for number in range(len(plan.shards)):
            lines = list(_lines(plan, number))
            for line in lines:
                _count(counts, line)
            writer.write_table(pa.Table.from_pylist(lines, schema=MANIFEST), row_group_size=20_000)
    counts["outcomes"] = dict(sorted(counts["outcomes"].items()))
    return counts


def _lines(plan: Plan, number: int) -> Iterator[dict[str, Any]]:
    drops = load_drops(plan, number)
    names = [field.name for field in MANIFEST if field.name not in ("shard", "row")]
    row = 0
    for index, line in enumerate(pq.read_table(plan.candidates_path(number), columns=names).to_pylist()):
        if index in drops:
            line["outcome"], line["detail"] = drops[index]
        elif line["outcome"] == KEPT:
            line["shard"], line["row"] = plan.shards[number].name, row
            row += 1
        yield line


def _count(counts: dict[str, Any], line: dict[str, Any]) -> None:
    outcome = line["outcome"]
    counts["considered"] += 1
    counts["outcomes"][outcome] = counts["outcomes"].get(outcome, 0) + 1
    of_source = counts["sources"].setdefault(line["source"], {})
    of_source[outcome] = of_source.get(outcome, 0) + 1
    if outcome == BENCHMARK:
        matched = f"{line['source']} in {line['detail'].split('/')[0]}"
        counts["benchmark_matches"][matched] = counts["benchmark_matches"].get(matched, 0) + 1
    if outcome == KEPT:
        counts["kept"] += 1
        cells = counts["modality_anatomy"].setdefault(line["modality"] or "mixed", {})
        anatomy = line["anatomy"] or NOT_TOLD
        cells[anatomy] = cells.get(anatomy, 0) + 1


def write_places(plan: Plan) -> None:
    """Write `places.parquet` into the work folder: which file of a private source each withheld path stands for."""
    target = plan.work / "places.parquet"
    private = [n for n, shard in enumerate(plan.shards) if privacy_of(shard.source, plan.sources[shard.source], "")]
    if not private:
        target.unlink(missing_ok=True)
        return
    with atomic_path(target) as path, pq.ParquetWriter(path, _PLACES, compression="zstd") as writer:
        for number in private:
            writer.write_table(pq.read_table(plan.candidates_path(number), columns=_PLACES.names))


def _manifest_writer(path: Path) -> pq.ParquetWriter:
    return pq.ParquetWriter(path, MANIFEST, compression="zstd", write_page_index=True)


def _chosen(source: Path, rows: np.ndarray) -> Iterator[pa.RecordBatch]:
    """The rows of a file for which `rows`, bool (n,), is true."""
    done = 0
    for batch in pq.ParquetFile(source).iter_batches(batch_size=ROW_GROUP):
        yield batch.filter(pa.array(rows[done : done + len(batch)]))
        done += len(batch)


def _write(batches: Iterable[pa.RecordBatch], target: Path) -> None:
    """Write rows in full row groups."""
    with GroupWriter(row_writer(target), ROW_GROUP) as writer:
        for batch in batches:
            writer.add(pa.Table.from_batches([batch]))


def written_files(out: Path) -> dict[str, int]:
    """Name and size in bytes of every file of rows, the manifest and the summary: what a finished build must have.

    The card is not among them: it may be edited.
    """
    folders = [path for folder in ("data", SAMPLE) for path in sorted((out / folder).rglob("*.parquet"))]
    files = [*folders, out / "manifest.parquet", out / "build.json"]
    return {path.relative_to(out).as_posix(): path.stat().st_size for path in files}


def remove_damaged(plan: Plan, written: dict[str, int]) -> list[str]:
    """Remove what is not as it was written, so that a build writes it again; returns the names, also of what is gone.

    A shard is read from the raw folder again where its rows in the work folder are gone or damaged too: they may be
    the same file under a second name.
    """
    damaged = [name for name, size in written.items() if _size(plan.out / name) != size]
    numbers = {shard.name: number for number, shard in enumerate(plan.shards)}
    for name in damaged:
        target = plan.out / name
        number = numbers.get(name)
        if name.startswith(f"{SAMPLE}/"):
            shutil.rmtree(target.parent, ignore_errors=True)
        elif number is not None and not _as_written(plan, number):
            plan.stats_path(number).unlink(missing_ok=True)
            (plan.work / "decided.json").unlink(missing_ok=True)
        target.unlink(missing_ok=True)
    return damaged


def _as_written(plan: Plan, number: int) -> bool:
    """Whether the rows of a shard are in the work folder, byte for byte."""
    rows, stats = plan.rows_path(number), plan.stats_path(number)
    if not rows.is_file() or not stats.is_file():
        return False
    return sha256_of_file(rows) == json.loads(stats.read_text(encoding="utf-8"))["rows_sha256"]


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def write_summary(plan: Plan, counts: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
    """Write `build.json`: options, counts and what the leakage guard was given; the same bytes for the same build."""
    options = {k: v for k, v in vars(plan.options).items() if k != "salt"}
    licences = {source: facts["licence"] for source, facts in plan.sources.items()}
    options["views"] = list(plan.options.views)
    summary = {"options": options, **counts, "licences": licences, "skipped": plan.skipped, **extra}
    write_text(plan.out / "build.json", json.dumps(summary, indent=1, sort_keys=True))
    return summary
