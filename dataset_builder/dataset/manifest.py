"""The manifest, a line for every picture considered, with its outcome; and counts over its lines."""

from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from biovfm_hf.threads import in_order
from biovfm_hf.writing.files import atomic_path

from ..plan.plan import Plan
from ..schema import KEPT, MANIFEST
from ..screening.duplicates import BENCHMARK, load_drops

NOT_TOLD = "not told"  # the anatomy if a source does not state it
_COPIED = [field.name for field in MANIFEST if field.name not in ("shard", "row")]
_COUNTED = ("source", "modality", "anatomy", "outcome")


@dataclass
class Counts:
    """Counts over a manifest.

    Attributes:
        lines: by source, modality, anatomy and outcome.
        matches: benchmark images, by source and benchmark.
        files: rows of each file of the dataset.
    """

    lines: Counter[tuple[str | None, ...]] = field(default_factory=Counter)
    matches: Counter[str] = field(default_factory=Counter)
    files: dict[str, int] = field(default_factory=dict)

    def add(self, table: pa.Table) -> None:
        """Count the lines of one shard."""
        for group in table.group_by(list(_COUNTED)).aggregate([([], "count_all")]).to_pylist():
            self.lines[tuple(group[name] for name in _COUNTED)] += group["count_all"]
        for line in table.filter(pc.equal(table["outcome"], BENCHMARK)).select(["source", "detail"]).to_pylist():
            self.matches[f"{line['source']} in {line['detail'].split('/')[0]}"] += 1
        kept = table.filter(pc.is_valid(table["shard"]))
        if len(kept):
            self.files[kept["shard"][0].as_py()] = len(kept)

    def summary(self) -> dict[str, Any]:
        """Considered, kept, outcomes {reason: n}, sources {id: {outcome: n}}, `benchmark_matches`, `modality_anatomy`.

        The last is {modality: {anatomy: n}} of the kept pictures.
        """
        sources: dict[str, Counter[str]] = {}
        outcomes: Counter[str] = Counter()
        cells: dict[str, Counter[str]] = {}
        for (source, modality, anatomy, outcome), count in self.lines.items():
            outcomes[str(outcome)] += count
            sources.setdefault(str(source), Counter())[str(outcome)] += count
            if outcome == KEPT:
                cells.setdefault(modality or "mixed", Counter())[anatomy or NOT_TOLD] += count
        return {
            "considered": outcomes.total(),
            "kept": outcomes[KEPT],
            "outcomes": dict(sorted(outcomes.items())),
            "sources": {source: dict(counts) for source, counts in sources.items()},
            "modality_anatomy": {modality: dict(counts) for modality, counts in cells.items()},
            "benchmark_matches": dict(self.matches),
        }


def write_manifest(plan: Plan, threads: int = 1) -> Counts:
    """Write `manifest.parquet` in plan order, with the shards' lines made in threads; returns its counts."""
    counts = Counts()
    with (
        atomic_path(plan.out / "manifest.parquet") as path,
        pq.ParquetWriter(path, MANIFEST, compression="zstd", write_page_index=True) as writer,
    ):
        for table in in_order(partial(_lines, plan), range(len(plan.shards)), threads):
            counts.add(table)
            writer.write_table(table, row_group_size=20_000)
    return counts


def _lines(plan: Plan, number: int) -> pa.Table:
    """The lines of a shard: its candidates with the decisions on them and the places of kept rows."""
    table = pq.read_table(plan.candidates_path(number), columns=_COPIED).combine_chunks()
    drops = load_drops(plan, number)
    dropped = np.zeros(len(table), dtype=bool)
    dropped[drops["line"].to_numpy()] = True
    columns = {name: table[name].combine_chunks() for name in _COPIED}
    columns["outcome"] = pc.replace_with_mask(columns["outcome"], pa.array(dropped), drops["reason"])
    columns["detail"] = pc.replace_with_mask(columns["detail"], pa.array(dropped), drops["detail"])
    stays = pc.equal(columns["outcome"], KEPT)
    places = np.cumsum(stays.to_numpy(zero_copy_only=False)) - 1
    columns["shard"] = pc.if_else(stays, plan.shards[number].name, pa.scalar(None, pa.string()))
    columns["row"] = pc.if_else(stays, pa.array(places, pa.int32()), pa.scalar(None, pa.int32()))
    return pa.table([columns[name] for name in MANIFEST.names], schema=MANIFEST)
