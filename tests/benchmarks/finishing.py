"""Time and memory to finish a large build, on simulated shards: screening, manifest, card, and --check.

    python tests/benchmarks/finishing.py --pictures 5000000 --threads 2

Every shard holds lines, hashes and thumbnails as a build leaves them; a share of the pictures is an exact or a near
copy of an earlier one. Rows are stand-ins of a few bytes: to copy the images themselves is the disk's affair. Prints
the CPU seconds of each step and the peak of memory, and both for 21.5 million pictures, in proportion. Pages of mapped
thumbnails are not counted: the kernel takes them back when memory is short.
"""

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the rooms, which no installation puts there

from dataset_builder.dataset import check
from dataset_builder.dataset.finish import finish_shard, write_summary
from dataset_builder.dataset.manifest import Counts, write_manifest
from dataset_builder.options import BuildOptions
from dataset_builder.plan.plan import VERSION, Plan, Shard, load_plan
from dataset_builder.schema import CANDIDATES, KEPT, row_writer
from dataset_builder.screening.candidates import load_candidates
from dataset_builder.screening.duplicates import decide, save_decisions
from dataset_builder.screening.hashing import THUMBNAIL, sha256_of_file
from dataset_builder.screening.leakage import read_benchmarks
from dataset_builder.shards.executors import ENGINES, Resources

SHAPING = BuildOptions(Path("out"), Path("raw"), size=32).shaping

PER_SHARD = 5_000
ALL = 21_472_715  # images of the 61 sources
_EXACT, _NEAR = 0.02, 0.02  # shares of pictures that are copies


def simulate(out: Path, pictures: int, seed: int = 0) -> Plan:
    """A plan of finished shards with `pictures` images in total."""
    rng = np.random.default_rng(seed)
    shards = -(-pictures // PER_SHARD)
    names = [f"data/ct/s-{number:05d}.parquet" for number in range(shards)]
    plan = Plan(
        out,
        SHAPING,
        tuple(Shard("s", "CT", name, PER_SHARD, 1.0, number) for number, name in enumerate(names)),
        {},
        {},
        {},
        "raw",
        "secret",
    )
    (plan.work / "shards").mkdir(parents=True)
    shape = vars(plan.options) | {"views": list(plan.options.views)}
    content = {"options": shape, "shards": [vars(shard) for shard in plan.shards], "version": VERSION}
    content |= {"sources": {}, "skipped": {}, "records": {}, "raw": "raw", "secret": "secret"}
    (plan.work / "plan.json").write_text(json.dumps(content))
    before: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
    for number in range(shards):
        before = _shard(plan, number, rng, before)
    return load_plan(out)


def _shard(plan: Plan, number: int, rng: np.random.Generator, before: Any) -> Any:
    """Write one shard; some of its pictures are copies of those of the shard before."""
    hashes = rng.integers(0, 2**63, PER_SHARD, dtype=np.uint64)
    digests = rng.integers(0, 2**63, (PER_SHARD, 4), dtype=np.uint64)
    thumbnails = rng.integers(0, 256, (PER_SHARD, THUMBNAIL**2), dtype=np.uint8)
    if before is not None:
        copies = rng.permutation(PER_SHARD)[: round((_EXACT + _NEAR) * PER_SHARD)]
        exact = copies[: round(_EXACT * PER_SHARD)]
        hashes[copies], thumbnails[copies] = before[0][copies], before[2][copies]
        hashes[copies[len(exact) :]] ^= np.uint64(5)
        digests[exact] = before[1][exact]
    text = digests.astype(">u8").tobytes().hex()
    columns: dict[str, Any] = dict.fromkeys(CANDIDATES.names, pa.nulls(PER_SHARD))
    columns |= {
        "source": ["s"] * PER_SHARD,
        "modality": ["CT"] * PER_SHARD,
        "anatomy": ["chest"] * PER_SHARD,
        "path": [f"s/case{number:05d}/image_{n:05d}.png" for n in range(PER_SHARD)],
        "view": ["2d"] * PER_SHARD,
        "width": [512] * PER_SHARD,
        "height": [512] * PER_SHARD,
        "outcome": [KEPT] * PER_SHARD,
        "sha256": [text[64 * n : 64 * n + 64] for n in range(PER_SHARD)],
        "phash": [f"{code:016x}" for code in hashes.tolist()],
        "item": np.arange(PER_SHARD, dtype=np.int32),
        "hashes": pa.ListArray.from_arrays(np.arange(PER_SHARD + 1, dtype=np.int32), hashes),
    }
    arrays = {field.name: pa.array(columns[field.name], field.type) for field in CANDIDATES if field.name != "hashes"}
    table = pa.table({**arrays, "hashes": columns["hashes"]}).select(CANDIDATES.names).cast(CANDIDATES)
    pq.write_table(table, plan.candidates_path(number), compression="zstd")
    plan.thumbnails_path(number).write_bytes(thumbnails.tobytes())
    _rows(plan, number, table)
    statistics = {"items": PER_SHARD, "outcomes": {KEPT: PER_SHARD}, "pictures": PER_SHARD, "kept": PER_SHARD}
    statistics |= {"bytes": PER_SHARD, "rows_sha256": sha256_of_file(plan.rows_path(number))}
    plan.stats_path(number).write_text(json.dumps(statistics))
    return hashes, digests, thumbnails


def _rows(plan: Plan, number: int, table: pa.Table) -> None:
    with row_writer(plan.rows_path(number)) as writer:
        image = pa.StructArray.from_arrays(
            [pa.array([b"x"] * PER_SHARD, pa.binary()), pa.nulls(PER_SHARD, pa.string())],
            fields=list(writer.schema.field("image").type),
        )
        columns = [image if name == "image" else table[name] for name in writer.schema.names]
        writer.write_table(pa.Table.from_arrays(columns, schema=writer.schema), row_group_size=100)


def finish(plan: Plan, threads: int) -> dict[str, float]:
    """CPU seconds of each step; shards are written by as many processes, as in a build."""
    seconds: dict[str, float] = {}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        began = sum(os.times()[:4])  # with ended processes
        answer = work()
        seconds[name] = sum(os.times()[:4]) - began
        return answer

    _screen(plan, threads, timed)
    timed("write shards", lambda: _write_shards(plan, threads))
    counts: Counts = timed("write manifest", lambda: write_manifest(plan, threads))
    write_summary(plan, counts.summary(), {"sampled": 0})
    return seconds


def _screen(plan: Plan, threads: int, timed: Callable[[str, Callable[[], Any]], Any]) -> None:
    """Decide and save; the memory for it is freed afterwards."""
    nothing = read_benchmarks([])
    candidates = timed("read hashes", lambda: load_candidates(plan, threads))
    spread = partial(ENGINES["local"].spread, Resources(threads))
    decisions = timed("find duplicates", lambda: decide(plan, candidates, nothing, lambda _: None, spread))
    timed("write decisions", lambda: save_decisions(plan, candidates, decisions, nothing, {}, threads))


def _write_shards(plan: Plan, processes: int) -> None:
    with ProcessPoolExecutor(processes) as pool:
        units = map(plan.whole, range(len(plan.shards)))
        for _ in pool.map(partial(finish_shard, str(plan.out), "raw"), units, chunksize=16):
            pass


def accounting(plan: Plan) -> float:
    """CPU seconds of --check without decoding images, which these rows lack."""
    check._faults_of_pixels = lambda *_: []  # type: ignore[assignment]
    began = time.process_time()
    problems = check.faults(plan.out, 0)[1]
    assert not problems, problems[:3]
    return time.process_time() - began


def own_gib() -> float:
    """The memory that this process holds now, without pages of mapped files."""
    text = Path("/proc/self/status").read_text()
    return int(text.partition("RssAnon:")[2].split()[0]) / 2**20


@contextmanager
def peak_watched() -> Iterator[list[float]]:
    """Yield a list whose only entry is the peak of `own_gib` so far, looked at fifty times a second."""
    peak, ended = [own_gib()], threading.Event()

    def watch() -> None:
        while not ended.wait(0.02):
            peak[0] = max(peak[0], own_gib())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        ended.set()
        thread.join()


def main() -> None:
    """Simulate, finish, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=200_000)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        plan = simulate(Path(folder) / "out", options.pictures)
        start, began = own_gib(), time.time()
        with peak_watched() as peak:
            seconds = finish(plan, options.threads)
            seconds["check the accounting"] = accounting(plan)
        took = time.time() - began
        scale = ALL / options.pictures
        for name, value in seconds.items():
            print(f"{name:<22} {value:8.1f} s   {value * scale:8.1f} s for all")
        total = sum(seconds.values())
        print(f"{'all':<22} {total:8.1f} s   {total * scale:8.1f} s for all")
        print(f"{'all, by the clock':<22} {took:8.1f} s")
        print(f"{'memory':<22} {peak[0]:8.2f} GiB {start + (peak[0] - start) * scale:8.1f} GiB for all")


if __name__ == "__main__":
    main()
