"""Writes the final dataset from the candidates: shards without dropped rows, sample and summary; removes damage."""

import json
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from biovfm_hf.cards.provenance import PROVENANCE
from biovfm_hf.threads import in_order
from biovfm_hf.writing.files import atomic_path, linked, write_text

from ..plan.plan import WORK, Plan, Unit, load_plan
from ..plan.privacy import privacy_of
from ..plan.state import read_state
from ..plan.statistics import THREADS, Statistics
from ..schema import CANDIDATES, KEPT, ROW_GROUP, GroupWriter, row_writer
from ..screening.candidates import groups
from ..screening.duplicates import load_drops, load_sample, remove_decisions
from ..screening.hashing import sha256_of_file

SAMPLE = "sample"  # folder of config 0.2m
SAMPLE_ROWS = 20_000  # rows in one of its files
_PLACES = pa.schema(
    [CANDIDATES.field(name) for name in ("source", "path", "place", "view", "index", "outcome", "remark")]
)


def finish_shard(out: str, raw: str, unit: Unit) -> dict[str, Any]:
    """Write one file of the dataset from the shard's candidates and the decisions on them; `raw` is not used.

    A shard without kept rows leaves no file. Returns {"shard", "kept"}.
    """
    plan, number = load_plan(Path(out)), unit.shard
    target = plan.out / plan.shards[number].name
    stays = np.isin(_lines_with_rows(plan, number), load_drops(plan, number)["line"].to_numpy(), invert=True)
    if not stays.any():
        target.unlink(missing_ok=True)
    elif not _has_rows(target, int(stays.sum())):
        with atomic_path(target) as path:
            if stays.all():
                linked(plan.rows_path(number), path)
            else:
                with GroupWriter(row_writer(path), ROW_GROUP) as writer:
                    for table in _chosen(plan.rows_path(number), stays):
                        writer.add(table)
    return {"shard": number, "kept": int(stays.sum())}


def _has_rows(target: Path, count: int) -> bool:
    """Whether a file of the dataset is there with as many rows; a damaged one has none."""
    try:
        return bool(pq.read_metadata(target).num_rows == count)
    except (OSError, pa.ArrowException):
        return False


def _lines_with_rows(plan: Plan, number: int) -> np.ndarray:
    """The numbers of a shard's candidate lines that have rows: pictures that passed the rules for single pictures."""
    outcomes = pq.read_table(plan.candidates_path(number), columns=["outcome"])["outcome"]
    return np.flatnonzero(pc.equal(outcomes, KEPT).to_numpy(zero_copy_only=False))


def write_sample(plan: Plan, threads: int = 1) -> int:
    """Write the files of config 0.2m, copies of the chosen rows in plan order; returns their number."""
    folder = plan.out / SAMPLE
    chosen = load_sample(plan)
    if len(chosen) and not folder.is_dir():
        with atomic_path(folder) as path:
            path.mkdir()
            starts = range(0, len(chosen), SAMPLE_ROWS)
            parts = [
                (path / f"{n:05d}.parquet", chosen[start : start + SAMPLE_ROWS]) for n, start in enumerate(starts)
            ]
            for _ in in_order(partial(_write_sample_file, plan), parts, threads):
                pass
    return len(chosen)


def _write_sample_file(plan: Plan, part: tuple[Path, np.ndarray]) -> None:
    """Write the rows that an int32 array (n, 2) names by shard and line."""
    target, chosen = part
    with GroupWriter(row_writer(target), ROW_GROUP) as writer:
        for shard, start, stop in groups(chosen[:, 0]):
            rows = np.isin(_lines_with_rows(plan, shard), chosen[start:stop, 1])
            for table in _chosen(plan.rows_path(shard), rows):
                writer.add(table)


def places_path(plan: Plan) -> Path:
    """The table of `write_places`."""
    return plan.work / "places.parquet"


def write_places(plan: Plan) -> None:
    """Write which file of a private source each withheld path stands for, and the details, for the owner only."""
    target = places_path(plan)
    private = [n for n, shard in enumerate(plan.shards) if privacy_of(shard.source, plan.sources[shard.source], "")]
    if not private:
        target.unlink(missing_ok=True)
        return
    with atomic_path(target) as path:
        path.touch(mode=0o600)
        with pq.ParquetWriter(path, _PLACES, compression="zstd") as writer:
            for number in private:
                writer.write_table(pq.read_table(plan.candidates_path(number), columns=_PLACES.names))


def _chosen(source: Path, rows: np.ndarray) -> Iterator[pa.Table]:
    """The rows of a file for which `rows`, bool (n,), is true; only row groups with such rows are read."""
    file = pq.ParquetFile(source)
    done = 0
    for group in range(file.num_row_groups):
        count = file.metadata.row_group(group).num_rows
        own = rows[done : done + count]
        done += count
        if own.any():
            table = file.read_row_group(group, use_threads=False)
            yield table if own.all() else table.filter(pa.array(own))


def written_files(plan: Plan) -> dict[str, int | None]:
    """Name and size in bytes of each file of a finished build; None for the card's files, which may be edited."""
    out = plan.out
    rows = [path for folder in ("data", SAMPLE) for path in sorted((out / folder).rglob("*.parquet"))]
    files = [*rows, out / "manifest.parquet", out / "build.json", places_path(plan)]
    sizes: dict[Path, int | None] = {path: path.stat().st_size for path in files if path.is_file()}
    card = [out / "README.md", out / ".gitignore", out / PROVENANCE, *sorted((out / "figures").glob("*"))]
    sizes |= {path: None for path in card if path.is_file()}
    return {path.relative_to(out).as_posix(): size for path, size in sizes.items()}


def undecide(plan: Plan) -> None:
    """Remove the decisions on the pictures, then the files of rows that were made by them.

    In this order a kill leaves no file that other decisions, or those made next, could take for their own.
    """
    remove_decisions(plan)
    for path in (plan.out / "data").rglob("*.parquet"):
        path.unlink()
    shutil.rmtree(plan.out / SAMPLE, ignore_errors=True)


def remove_damaged(plan: Plan, written: dict[str, int | None]) -> list[str]:
    """Remove damaged files, so that a build writes them again; returns their names, and those of missing files.

    If a shard's rows in the work folder are missing or damaged too (they may be the same file under a second name),
    the shard is read from the raw folder again.
    """
    sizes = {name: _size(plan.out / name) for name in written}
    damaged = [name for name, size in sizes.items() if size is None or written[name] not in (size, None)]
    numbers = {shard.name: number for number, shard in enumerate(plan.shards)}
    for name in damaged:
        target = plan.out / name
        number = numbers.get(name)
        if name.startswith(f"{SAMPLE}/"):
            shutil.rmtree(target.parent, ignore_errors=True)
        elif number is not None and not _as_written(plan, number):
            plan.stats_path(number).unlink(missing_ok=True)
        target.unlink(missing_ok=True)
    return damaged


def redo_without_thumbnails(plan: Plan, done: Statistics) -> int:
    """Mark shards without thumbnails to be read again, and count them; only a new screening needs thumbnails."""
    finished = [(number, one) for number, one in zip(done.numbers, done.statistics, strict=True) if one is not None]
    whole = in_order(lambda shard: plan.has_thumbnails(*shard), finished, THREADS)
    without = [number for (number, _), has in zip(finished, whole, strict=True) if not has]
    for number in without:
        plan.stats_path(number).unlink(missing_ok=True)
    return len(without)


def _as_written(plan: Plan, number: int) -> bool:
    """Whether the rows of a shard are complete in the work folder, byte for byte."""
    statistics = plan.statistics(number)
    return statistics is not None and sha256_of_file(plan.rows_path(number)) == statistics["rows_sha256"]


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def finished_build(out: Path) -> dict[str, Any] | None:
    """What the dataset in `out` was made from, and its files; None if no build is finished there."""
    return read_state(out / WORK / "complete.json", {"inputs": dict, "files": dict})


def finished_summary(plan: Plan) -> dict[str, Any] | None:
    """The content of `build.json`; None if it is missing or damaged."""
    fields = {"considered": int, "kept": int, "outcomes": dict, "skipped": dict, "sources": dict}
    return read_state(plan.out / "build.json", fields)


def write_summary(plan: Plan, counts: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
    """Write `build.json`: options, counts and the leakage guard's input; the same bytes for the same build."""
    options = {k: v for k, v in vars(plan.options).items() if k != "salt"}
    licences = {source: facts["licence"] for source, facts in plan.sources.items()}
    options["views"] = list(plan.options.views)
    summary = {"options": options, **counts, "licences": licences, "skipped": plan.skipped, **extra}
    write_text(plan.out / "build.json", json.dumps(summary, indent=1, sort_keys=True))
    return summary
