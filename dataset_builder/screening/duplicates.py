"""Screening across shards: exact and near duplicates, benchmark images, and the seeded random subset.

It is one pass on one machine over a few numbers per picture; the thumbnails stay on disk, and only those of suspects
are read. The build's engine spreads the search for near hashes. Of several equals the first in plan order is kept;
`look_alikes` has the rule for near duplicates.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from biovfm_hf.threads import in_order
from biovfm_hf.writing.files import atomic_path

from ..plan.plan import Plan
from ..schema import KEPT
from .candidates import Candidates, groups
from .hashing import sha256_of_file
from .leakage import Benchmarks, matches
from .look_alikes import look_alikes
from .near_hashes import Spread, one_by_one

SUBSET_SIZE = 200_000  # pictures of the subset 0.2m: a config of a full dataset, or a dataset of its own
BENCHMARK = "benchmark image"
REASONS = (KEPT, BENCHMARK, "duplicate", "near duplicate", "not sampled")
_BENCHMARK, _DUPLICATE, _NEAR, _NOT_SAMPLED = range(1, len(REASONS))
# Lines that are dropped, and, as kept, those in the sample of config 0.2m.
DECISIONS = pa.schema({"line": pa.int32(), "reason": pa.string(), "detail": pa.string()})
_INPUTS = b"inputs"  # key in the schema's metadata
_DIGEST = hashlib.sha256().digest_size  # bytes of a digest of all before it, at the end of the file
_EARLIER = ("decided.json", "drops.arrow", "sample.npy")  # in which an earlier version kept its decisions


class Decisions:
    """The decisions on n pictures.

    Attributes:
        reason: int8 (n,), place in REASONS.
        like: int64 (n,), for a dropped picture the number of the picture, or benchmark image, that it equals.
    """

    def __init__(self, count: int) -> None:
        self.reason = np.zeros(count, np.int8)
        self.like = np.full(count, -1, np.int64)

    @property
    def kept(self) -> np.ndarray:
        """Numbers of the pictures that are not dropped."""
        return np.flatnonzero(self.reason == 0)

    def drop(self, reason: int, numbers: np.ndarray, like: np.ndarray | int = -1) -> None:
        """Drop pictures; `like` holds the number of each one's equal."""
        self.reason[numbers] = reason
        self.like[numbers] = like


def decide(
    plan: Plan,
    candidates: Candidates,
    benchmarks: Benchmarks,
    note: Callable[[str], None],
    spread: Spread = one_by_one,
) -> Decisions:
    """Decide on every picture; `note` is called with the name of each step, `spread` searches for near hashes."""
    decisions = Decisions(len(candidates.shard))
    if len(benchmarks.hashes):
        note("matching benchmark images")
        decisions.drop(_BENCHMARK, *benchmark_matches(candidates, benchmarks))
    note("matching exact duplicates")
    within = plan.options.near_duplicates
    decisions.drop(_DUPLICATE, *exact_duplicates(candidates, decisions.kept, within))
    if plan.options.near_duplicates:
        note("matching near duplicates")
        decisions.drop(_NEAR, *near_duplicates(candidates, decisions.kept, plan.work, spread))
    if plan.options.subset == "0.2m":
        kept = decisions.kept
        chosen = random_subset(candidates, kept, plan.options.seed, SUBSET_SIZE)
        decisions.drop(_NOT_SAMPLED, np.setdiff1d(kept, chosen, assume_unique=True))
    return decisions


def benchmark_matches(candidates: Candidates, benchmarks: Benchmarks) -> tuple[np.ndarray, np.ndarray]:
    """Pictures that match a benchmark image in one of their framings, and the number of the first match."""
    framings, images, _ = matches(candidates.hashes, candidates.thumbnails, benchmarks)
    pictures, first = np.unique(candidates.owner(framings), return_index=True)
    return pictures, images[first]


def exact_duplicates(candidates: Candidates, kept: np.ndarray, within: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Pictures among `kept` with the pixels of an earlier one among them, and the number of the first of these.

    `within`: whether repeats inside one input count too; otherwise they are kept with their first.
    """
    exact = candidates.exact[kept]
    order = np.lexsort((exact[:, 1], exact[:, 0]))  # stable, so that the earliest of equals comes first
    first = np.append(True, (exact[order[1:]] != exact[order[:-1]]).any(axis=1))[: len(order)]
    start = np.maximum.accumulate(np.where(first, np.arange(len(order)), 0))
    repeats = ~first
    if not within:
        files = candidates.file[kept]
        repeats &= files[order] != files[order[start]]
    return kept[order[repeats]], kept[order[start[repeats]]]


def near_duplicates(
    candidates: Candidates, kept: np.ndarray, scratch: Path | None = None, spread: Spread = one_by_one
) -> tuple[np.ndarray, np.ndarray]:
    """Pictures among `kept` that look like an earlier standing one of another input, and the number of that one.

    The rule is that of `look_alikes`. Slices and frames of one input are never compared with each other. `scratch`: a
    folder for a temporary file.
    """
    rows = candidates.first[kept]
    hashes, files = candidates.hashes[rows], candidates.file[kept]
    numbers, like = look_alikes(hashes, files, candidates.thumbnails, rows, scratch, spread)
    return kept[numbers], kept[like]


def random_subset(candidates: Candidates, kept: np.ndarray, seed: int, size: int) -> np.ndarray:
    """Numbers of `size` of the `kept` pictures, chosen by a hash of their pixels and the seed, some of every modality.

    A modality gets its proportion of `size`, but at least a thousandth of it if it has that many.
    """
    if len(kept) <= size:
        return kept
    key = _mixed(candidates.exact[kept, 0] ^ _mixed(np.array([seed], np.uint64)))
    chosen = []
    for modality in np.unique(candidates.modality[kept]):
        members = np.flatnonzero(candidates.modality[kept] == modality)
        share = max(round(size * len(members) / len(kept)), min(len(members), size // 1000))
        chosen.append(members[np.argsort(key[members], kind="stable")[:share]])
    return np.sort(kept[np.concatenate(chosen)])


def save_decisions(
    plan: Plan,
    candidates: Candidates,
    decisions: Decisions,
    benchmarks: Benchmarks,
    inputs: dict[str, Any],
    threads: int = 1,
) -> None:
    """Write what the shards' files are made from, as one file, which names by content the `inputs` of the decisions.

    It holds which lines of each shard are dropped, why, and the places of their equals; and the sample of config 0.2m.
    A digest of its content is its end, so that a damaged one is never followed.
    """
    numbers = np.union1d(np.flatnonzero(decisions.reason), _sample(plan, candidates, decisions))
    details = _details(plan, candidates, decisions, numbers, benchmarks, threads)
    reasons = pa.array(REASONS).take(pa.array(decisions.reason[numbers]))
    lines = pa.array(candidates.line[numbers])
    bounds = np.searchsorted(candidates.shard[numbers], np.arange(len(plan.shards) + 1)).tolist()
    schema = DECISIONS.with_metadata({_INPUTS: json.dumps(inputs)})
    table = pa.record_batch([lines, reasons, details], schema=schema)
    with atomic_path(_decisions_path(plan)) as path:
        with pa.ipc.new_file(path, schema) as file:
            for start, stop in pairwise(bounds):
                file.write_batch(table.slice(start, stop - start))
        digest = bytes.fromhex(sha256_of_file(path))
        with path.open("ab") as end:
            end.write(digest)


def _sample(plan: Plan, candidates: Candidates, decisions: Decisions) -> np.ndarray:
    """Numbers of the pictures of config 0.2m; none if the dataset has no more pictures than the sample."""
    kept = decisions.kept
    if plan.options.subset != "full" or len(kept) <= SUBSET_SIZE:
        return kept[:0]
    return random_subset(candidates, kept, plan.options.seed, SUBSET_SIZE)


def _details(
    plan: Plan,
    candidates: Candidates,
    decisions: Decisions,
    numbers: np.ndarray,
    benchmarks: Benchmarks,
    threads: int,
) -> pa.Array:
    """For each of these pictures the place of its equal, if it has one."""
    reason, like = decisions.reason[numbers], decisions.like[numbers]
    details = np.full(len(numbers), len(benchmarks.names))
    details[reason == _BENCHMARK] = like[reason == _BENCHMARK]
    of_picture = (reason == _DUPLICATE) | (reason == _NEAR)
    originals, place = np.unique(like[of_picture], return_inverse=True)
    details[of_picture] = len(benchmarks.names) + 1 + place
    names = pa.array([*benchmarks.names.tolist(), ""], pa.string())
    places = pa.concat_arrays([names, *_places(plan, candidates, originals, threads)])
    return places.take(pa.array(details))


def _places(plan: Plan, candidates: Candidates, numbers: np.ndarray, threads: int) -> Iterator[pa.Array]:
    """Places of pictures in ascending order, shard by shard: path, and view and index if they have them."""
    lines = candidates.line[numbers]
    shards = ((shard, lines[start:stop]) for shard, start, stop in groups(candidates.shard[numbers]))
    yield from in_order(partial(_places_in_shard, plan), shards, threads)


def _places_in_shard(plan: Plan, group: tuple[int, np.ndarray]) -> pa.Array:
    number, lines = group
    table = pq.read_table(plan.candidates_path(number), columns=["path", "view", "index"]).take(lines).combine_chunks()
    path, view, index = (table[name].combine_chunks() for name in ("path", "view", "index"))
    longer = pc.binary_join_element_wise(path, view, index.cast(pa.string()), " ")
    return pc.if_else(pc.is_null(index), path, longer)


def load_drops(plan: Plan, number: int) -> pa.RecordBatch:
    """The dropped lines of a shard: DECISIONS, in the order of the lines."""
    with _open_decisions(plan) as file:
        lines = file.get_batch(number)
    return lines.filter(pc.not_equal(lines["reason"], KEPT))


def load_sample(plan: Plan) -> np.ndarray:
    """Shard and line of the pictures of config 0.2m in plan order: int32 (n, 2), n = 0 without a sample."""
    with _open_decisions(plan) as file:
        batches = [file.get_batch(number) for number in range(file.num_record_batches)]
    lines = [batch["line"].filter(pc.equal(batch["reason"], KEPT)).to_numpy() for batch in batches]
    shards = np.repeat(np.arange(len(lines), dtype=np.int32), list(map(len, lines)))
    return np.stack([shards, np.concatenate(lines)], axis=1)


def decided_inputs(plan: Plan) -> dict[str, Any] | None:
    """The inputs of the saved decisions; None if there are none, or one byte of their file is not as written."""
    try:
        with pa.memory_map(str(_decisions_path(plan))) as file:
            content = file.read_buffer(max(0, file.size() - _DIGEST))
            if hashlib.sha256(content).digest() != file.read():
                return None
        with _open_decisions(plan) as decisions:
            inputs: dict[str, Any] = json.loads(decisions.schema.metadata[_INPUTS])
    except (OSError, pa.ArrowException):
        return None
    return inputs


def remove_decisions(plan: Plan) -> None:
    """Remove the decisions; files that were made by them must not count as finished from then on."""
    for path in (_decisions_path(plan), *(plan.work / name for name in _EARLIER)):
        path.unlink(missing_ok=True)


@contextmanager
def _open_decisions(plan: Plan) -> Iterator[pa.RecordBatchFileReader]:
    with pa.memory_map(str(_decisions_path(plan))) as file:
        yield pa.ipc.open_file(file.read_buffer(file.size() - _DIGEST))


def _decisions_path(plan: Plan) -> Path:
    return plan.work / "decisions.arrow"


def _mixed(values: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele et al., 2014): equal seeds, equal order, on every machine."""
    with np.errstate(over="ignore"):
        values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
