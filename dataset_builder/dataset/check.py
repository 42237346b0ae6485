"""Checks that a dataset is complete: manifest, files and plan agree, and stored pixels match their hashes."""

import json
from collections import Counter
from collections.abc import Iterator
from functools import partial
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image
from tqdm import tqdm

from biovfm_hf.errors import UserError, one_line
from biovfm_hf.progress import progress_bar
from biovfm_hf.threads import in_order

from ..plan.plan import Plan, load_plan
from ..schema import COLUMNS, KEPT
from ..screening.hashing import sha256_of_pixels
from ..shards.local import POLL_SECONDS
from ..shards.workers import Lost, Workers
from ..shards.workers import workers as processes
from .finish import SAMPLE

Task = tuple[str, str, pa.Table, dict[str, Any]]  # folder, file in it, the manifest's lines of its rows, options


def faults(out: Path, workers: int = 0) -> tuple[dict[str, int], list[str]]:
    """Counts of the manifest's outcomes, and all inconsistencies, one line each.

    Every row is decoded and compared with its line of the manifest, in `workers` processes (0: in this one).

    Raises:
        UserError: the folder holds no finished build.
    """
    if missing := [name for name in ("build.json", "manifest.parquet") if not (out / name).is_file()]:
        raise UserError(f"{out}: holds no finished dataset ({missing[0]} is missing); run the build again")
    try:
        summary = json.loads((out / "build.json").read_text(encoding="utf-8"))
        manifest = pq.ParquetFile(out / "manifest.parquet")
    except (ValueError, pa.ArrowException) as error:
        raise UserError(f"{out}: build.json or manifest.parquet is damaged; run the build again") from error
    # first, since a plan of another version cannot be checked
    plan_faults = _faults_of_plan(out, max(1, workers))
    outcomes: Counter[str] = Counter()
    names: set[str] = set()
    problems: list[str] = []
    tasks = _tasks(out, manifest, summary, outcomes, names, problems)
    for of_file in _faults_of_files(tasks, summary["kept"], workers):
        problems += of_file
    files = {path.relative_to(out).as_posix() for path in (out / "data").rglob("*.parquet")}
    problems += [f"{name}: not in the manifest" for name in sorted(files - names)]
    return dict(outcomes), _faults_of_summary(summary, outcomes) + sorted(problems) + plan_faults


def _tasks(
    out: Path, manifest: pq.ParquetFile, summary: dict[str, Any],
    outcomes: Counter[str], names: set[str], problems: list[str],
) -> Iterator[Task]:  # fmt: skip
    """The files to check, with their lines; fills `outcomes`, `names` and `problems` on the way.

    Only one file's lines are in memory at a time, and those of the sample of config 0.2m.
    """
    shared = [name for name in COLUMNS if name in manifest.schema_arrow.names]
    sample = {path.name: _hashes(path) for path in sorted((out / SAMPLE).glob("*.parquet"))}
    hashes = pa.concat_arrays([*sample.values(), pa.array([], pa.string())])
    if len(hashes) != summary["sampled"] or len(hashes.unique()) != len(hashes):
        problems.append(f"{SAMPLE}: holds {len(hashes.unique())} rows of {summary['sampled']}")
    drawn = []
    for name, lines in _kept_by_file(manifest, [*shared, "outcome", "shard", "row"], outcomes):
        if name in names or not np.array_equal(lines["row"].to_numpy(), np.arange(len(lines))):
            problems.append(f"manifest: rows of {name} are not counted from 0 without gaps")
        names.add(name)
        yield str(out), name, lines.select(shared), summary["options"]
        drawn.append(lines.select(shared).filter(pc.is_in(lines["sha256"], hashes)))
    for name, own in sample.items():
        known = pa.concat_tables(drawn).combine_chunks() if drawn else manifest.schema_arrow.empty_table()
        places = pc.index_in(own, known["sha256"].combine_chunks())
        if places.null_count:
            problems.append(f"{SAMPLE}/{name}: {places.null_count} of its rows are not in the dataset")
        else:
            yield str(out), f"{SAMPLE}/{name}", known.take(places).select(shared), summary["options"]


def _kept_by_file(
    manifest: pq.ParquetFile, columns: list[str], outcomes: Counter[str]
) -> Iterator[tuple[str, pa.Table]]:
    """Each file of the dataset with its kept lines of the manifest, which are consecutive."""
    waiting: list[pa.Table] = []
    for batch in manifest.iter_batches(columns=columns):
        table = pa.Table.from_batches([batch])
        outcomes.update({pair["values"]: pair["counts"] for pair in pc.value_counts(table["outcome"]).to_pylist()})
        table = table.filter(pc.equal(table["outcome"], KEPT))
        shards = table["shard"].combine_chunks().dictionary_encode().indices.to_numpy(zero_copy_only=False)
        edges = [0, *(np.flatnonzero(shards[1:] != shards[:-1]) + 1).tolist(), len(shards)]
        for start, stop in pairwise(edges):
            if start == stop:
                continue
            if waiting and waiting[0]["shard"][0] != table["shard"][start]:
                yield waiting[0]["shard"][0].as_py(), pa.concat_tables(waiting)
                waiting = []
            waiting.append(table.slice(start, stop - start))
    if waiting:
        yield waiting[0]["shard"][0].as_py(), pa.concat_tables(waiting)


def _faults_of_files(tasks: Iterator[Task], total: int, workers: int) -> Iterator[list[str]]:
    """The faults of each file, with a progress bar over rows; each worker has at most one file in memory."""
    with progress_bar(total=total, unit="rows", desc="checking") as bar:
        if workers == 0:
            for task in tasks:
                yield _faults_of_file(task)
                bar.update(len(task[2]))
            return
        rows: dict[int, int] = {}
        with processes(workers) as crew:
            for number, task in enumerate(tasks):
                while not crew.free():
                    yield from _results(crew, rows, bar)
                rows[number] = len(task[2])
                crew.begin(number, _faults_of_file, task)
            while rows:
                yield from _results(crew, rows, bar)


def _results(crew: Workers[int], rows: dict[int, int], bar: "tqdm[Any]") -> Iterator[list[str]]:
    for number, faults_of_file in crew.results(POLL_SECONDS):
        if isinstance(faults_of_file, Lost):
            raise UserError("a worker died while checking, perhaps for lack of memory; try --workers 1")
        yield faults_of_file
        bar.update(rows.pop(number))


def _faults_of_summary(summary: dict[str, Any], outcomes: Counter[str]) -> list[str]:
    problems = []
    if summary["considered"] != outcomes.total():
        problems.append(f"build.json: {summary['considered']} considered, the manifest has {outcomes.total()}")
    if summary["outcomes"] != dict(outcomes):
        problems.append("build.json: its counts by outcome are not the manifest's")
    if summary["kept"] + sum(n for reason, n in outcomes.items() if reason != KEPT) != outcomes.total():
        problems.append("build.json: considered is not kept plus dropped")
    return problems


def _faults_of_file(task: Task) -> list[str]:
    """Faults of one file of rows: a line for each column that differs, and for pixels."""
    out, name, lines, options = task
    if not (Path(out) / name).is_file():
        return [f"{name}: in the manifest, not on disk; run the build again to write it"]
    try:
        file = pq.ParquetFile(Path(out) / name)
        if tuple(file.schema_arrow.names) != COLUMNS:
            return [f"{name}: its columns are {', '.join(file.schema_arrow.names)}"]
        if file.metadata.num_rows != len(lines):
            return [f"{name}: its {file.metadata.num_rows} rows are not the manifest's {len(lines)}"]
        problems = _faults_of_lines(file.read(columns=lines.column_names), name, lines)
        return problems + _faults_of_pixels(file, name, options)
    except (OSError, ValueError, pa.ArrowException) as error:
        return [f"{name}: cannot be read ({one_line(error)})"]


def _faults_of_lines(stored: pa.Table, name: str, lines: pa.Table) -> list[str]:
    problems = []
    for column in lines.column_names:
        if stored[column].equals(lines[column]):
            continue
        pairs = zip(stored[column].to_pylist(), lines[column].to_pylist(), strict=True)
        wrong = [(row, here, there) for row, (here, there) in enumerate(pairs) if here != there]
        if wrong:
            row, here, there = wrong[0]
            problems.append(
                f"{name}: {column} of {len(wrong)} rows is not the manifest's, first row {row}: {here}, not {there}"
            )
    return problems


def _faults_of_pixels(file: pq.ParquetFile, name: str, options: dict[str, Any]) -> list[str]:
    """Decode every row: a PNG must have the pixels of `sha256`, a JPEG (hashed before encoding) the right size."""
    lossless = options["image_format"] == "png"
    undecodable, wrong, row = [], [], 0
    for group in range(file.num_row_groups):
        for stored in file.read_row_group(group, columns=["image", "sha256"]).to_pylist():
            try:
                pixels = np.asarray(Image.open(BytesIO(stored["image"]["bytes"])))
            except Exception:  # decoders raise nearly everything on damaged bytes
                undecodable.append(row)
            else:
                size = min(pixels.shape[:2])
                if not (sha256_of_pixels(pixels) == stored["sha256"] if lossless else size == options["size"]):
                    wrong.append(row)
            row += 1
    problems = [f"{name}: {len(undecodable)} images do not decode, first row {undecodable[0]}"] if undecodable else []
    if wrong:
        what = "the pixels are not those of sha256" if lossless else f"the size is not {options['size']}"
        problems.append(f"{name}: {what} in {len(wrong)} rows, first row {wrong[0]}")
    return problems


def _hashes(path: Path) -> pa.Array:
    """The column sha256 of a file, empty if it cannot be read: the count of rows then shows it."""
    try:
        return pq.read_table(path, columns=["sha256"])["sha256"].combine_chunks()
    except (OSError, ValueError, pa.ArrowException):
        return pa.array([], pa.string())


def _faults_of_plan(out: Path, threads: int) -> list[str]:
    """Every input of the plan must have at least one line; not checked if the work folder was removed."""
    try:
        plan = load_plan(out)
    except FileNotFoundError:
        return []
    faults_of_shards = in_order(partial(_fault_of_shard, plan), range(len(plan.shards)), threads)
    return [fault for fault in faults_of_shards if fault]


def _fault_of_shard(plan: Plan, number: int) -> str | None:
    shard, path = plan.shards[number], plan.candidates_path(number)
    if plan.statistics(number) is None:
        return f"plan: the work on shard {number} ({shard.name}) is missing or damaged; run the build again"
    try:
        count = pc.count_distinct(pq.read_table(path, columns=["item"])["item"]).as_py()
    except (OSError, pa.ArrowException) as error:
        return f"plan: {path} cannot be read ({one_line(error)}); remove it and run the build again"
    if count != shard.items:
        return f"plan: shard {number} has {shard.items} inputs, the manifest lists {count}"
    return None
