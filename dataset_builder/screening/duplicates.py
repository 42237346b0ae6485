"""Screening across shards: exact and near duplicates, benchmark images, and the seeded random subset.

One pass on one machine over a few numbers per picture; the thumbnails stay on disk, and only those of suspects are
read. The first of several equals in plan order is kept; `look_alikes` has the rule for near duplicates.
"""

import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from biovfm_hf.writing.files import atomic_path, write_text

from ..plan.plan import Plan
from ..schema import KEPT
from .hashing import THUMBNAIL
from .leakage import Benchmarks, matches
from .look_alikes import look_alikes

SUBSET_SIZE = 200_000  # pictures of the subset 0.2m: a config of a full dataset, or a dataset of its own
BENCHMARK = "benchmark image"
_SIDE = THUMBNAIL**2


class Candidates(NamedTuple):
    """What the pictures of all shards that passed the rules for single pictures are compared by, in plan order.

    Attributes:
        shard: int32 (n,), number of the shard.
        line: int32 (n,), line in the shard's candidates.
        file: int64 (n,), equal for the pictures of one input.
        exact: uint64 (n, 2), half of the SHA-256 of the pixels.
        modality: str (n,), "" where the source does not tell.
        hashes: uint64 (m,), perceptual hashes of all framings of all pictures.
        owner: int64 (m,), number of the picture that each hash is of.
        thumbnails: uint8 (m, 784), one for each hash.
        first: int64 (n,), position in `hashes` of each picture's first framing.
    """

    shard: np.ndarray
    line: np.ndarray
    file: np.ndarray
    exact: np.ndarray
    modality: np.ndarray
    hashes: np.ndarray
    owner: np.ndarray
    thumbnails: np.ndarray
    first: np.ndarray


class Drop(NamedTuple):
    """Why a picture is dropped, and what it equals: the number of a picture or the name of a benchmark image."""

    reason: str
    like: int | str


def load_candidates(plan: Plan) -> Candidates:
    """Read what is compared of all shards; the thumbnails go to a file in the work folder and are mapped from it."""
    parts: dict[str, list[np.ndarray]] = defaultdict(list)
    count = 0
    thumbnails = plan.work / "thumbnails.u8"
    names = ["outcome", "item", "sha256", "modality", "hashes", "thumbnails"]
    with thumbnails.open("wb") as file:
        for number in range(len(plan.shards)):
            table = pq.read_table(plan.candidates_path(number), columns=names)
            lines = np.flatnonzero(pc.equal(table["outcome"], KEPT).to_numpy(zero_copy_only=False))
            table = table.take(lines)
            lengths = pc.list_value_length(table["hashes"]).to_numpy(zero_copy_only=False).astype(np.int64)
            parts["shard"].append(np.full(len(lines), number, np.int32))
            parts["line"].append(lines.astype(np.int32))
            items = table["item"].to_numpy().astype(np.int64)
            parts["file"].append((np.int64(number) << 32) | items)
            parts["exact"].append(_half(table["sha256"].to_pylist()))
            parts["modality"].append(np.array(table["modality"].fill_null("").to_pylist(), dtype="U20"))
            parts["hashes"].append(pc.list_flatten(table["hashes"]).to_numpy().astype(np.uint64))
            parts["owner"].append(np.repeat(np.arange(count, count + len(lines)), lengths))
            parts["first"].append(np.cumsum(lengths) - lengths + sum(len(h) for h in parts["hashes"][:-1]))
            file.write(b"".join(table["thumbnails"].to_pylist()))
            count += len(lines)
    joined = {name: np.concatenate(arrays) for name, arrays in parts.items()}
    total = len(joined["hashes"])
    mapped = np.memmap(thumbnails, np.uint8, "r", shape=(total, _SIDE)) if total else np.empty((0, _SIDE), np.uint8)
    return Candidates(thumbnails=mapped, **joined)


def decide(plan: Plan, candidates: Candidates, benchmarks: Benchmarks, note: Callable[[str], None]) -> dict[int, Drop]:
    """Number of a picture -> why it is dropped; `note` is told what is being looked for."""
    drops: dict[int, Drop] = {}
    if len(benchmarks.hashes):
        note("matching benchmark images")
        drops.update(benchmark_matches(candidates, benchmarks))
    note("matching exact duplicates")
    drops.update(exact_duplicates(candidates, drops, within=plan.options.near_duplicates))
    if plan.options.near_duplicates:
        note("matching near duplicates")
        drops.update(near_duplicates(candidates, drops, plan.work))
    if plan.options.subset == "0.2m":
        chosen = set(random_subset(candidates, drops, plan.options.seed, SUBSET_SIZE).tolist())
        left_out = [n for n in _kept(candidates, drops).tolist() if n not in chosen]
        drops.update({n: Drop("not sampled", "") for n in left_out})
    return drops


def benchmark_matches(candidates: Candidates, benchmarks: Benchmarks) -> dict[int, Drop]:
    """Pictures that show an image of the benchmarks in one of their framings."""
    i, j, _ = matches(candidates.hashes, candidates.thumbnails, benchmarks)
    owners = candidates.owner[i]
    return {int(n): Drop(BENCHMARK, str(benchmarks.names[k])) for n, k in zip(owners[::-1], j[::-1], strict=True)}


def exact_duplicates(candidates: Candidates, dropped: dict[int, Drop], within: bool = True) -> dict[int, Drop]:
    """Pictures whose pixels equal those of an earlier one that is not dropped.

    `within`: whether the frames or slices of one input count too; else those that equal its first are kept.
    """
    kept = _kept(candidates, dropped)
    exact, files = candidates.exact[kept], candidates.file[kept]
    order = np.lexsort((np.arange(len(kept)), exact[:, 1], exact[:, 0]))
    first = np.append(True, (exact[order[1:]] != exact[order[:-1]]).any(axis=1))[: len(order)]
    start = np.maximum.accumulate(np.where(first, np.arange(len(order)), 0))
    repeats = ~first if within else ~first & (files[order] != files[order[start]])
    return {int(kept[order[n]]): Drop("duplicate", int(kept[order[start[n]]])) for n in np.flatnonzero(repeats)}


def near_duplicates(candidates: Candidates, dropped: dict[int, Drop], scratch: Path | None = None) -> dict[int, Drop]:
    """Pictures that look like an earlier one of another input that stands; the rule is that of `look_alikes`.

    Slices and frames of one input are never compared with each other. `scratch`: a folder for a temporary file.
    """
    kept = _kept(candidates, dropped)
    shown = candidates.first[kept]
    numbers, like = look_alikes(candidates.hashes[shown], candidates.file[kept], candidates.thumbnails, shown, scratch)
    pairs = zip(kept[numbers].tolist(), kept[like].tolist(), strict=True)
    return {n: Drop("near duplicate", m) for n, m in pairs}


def random_subset(candidates: Candidates, dropped: dict[int, Drop], seed: int, size: int) -> np.ndarray:
    """Numbers of `size` kept pictures, chosen by a hash of their pixels and the seed; every modality has a share.

    A modality gets its proportion of `size`, at least a thousandth of it as far as it has as many.
    """
    kept = _kept(candidates, dropped)
    if len(kept) <= size:
        return kept
    key = _mixed(candidates.exact[kept, 0] ^ _mixed(np.array([seed], np.uint64)))
    chosen = []
    for modality in np.unique(candidates.modality[kept]):
        members = np.flatnonzero(candidates.modality[kept] == modality)
        share = max(round(size * len(members) / len(kept)), min(len(members), size // 1000))
        chosen.append(members[np.argsort(key[members], kind="stable")[:share]])
    return np.sort(kept[np.concatenate(chosen)])


def save_drops(plan: Plan, candidates: Candidates, drops: dict[int, Drop]) -> None:
    """Write beside each shard which lines are dropped, why, and the place of what they equal."""
    originals: dict[int, set[int]] = defaultdict(set)
    for drop in drops.values():
        if isinstance(drop.like, int):
            originals[int(candidates.shard[drop.like])].add(drop.like)
    places = {
        n: place
        for shard, numbers in sorted(originals.items())
        for n, place in _places(plan, shard, numbers, candidates)
    }
    by_shard: dict[int, dict[int, list[str]]] = {number: {} for number in range(len(plan.shards))}
    for n, drop in sorted(drops.items()):
        detail = places[drop.like] if isinstance(drop.like, int) else drop.like
        by_shard[int(candidates.shard[n])][int(candidates.line[n])] = [drop.reason, detail]
    for number, lines in by_shard.items():
        write_text(drops_path(plan, number), json.dumps(lines))


def save_sample(plan: Plan, candidates: Candidates, drops: dict[int, Drop]) -> None:
    """Note shard and line of the pictures of config 0.2m; nothing where all that is kept is no more than that."""
    sample_path(plan).unlink(missing_ok=True)
    if plan.options.subset == "full" and len(candidates.shard) - len(drops) > SUBSET_SIZE:
        chosen = random_subset(candidates, drops, plan.options.seed, SUBSET_SIZE)
        with atomic_path(sample_path(plan)) as path, path.open("wb") as file:
            np.save(file, np.stack([candidates.shard[chosen], candidates.line[chosen]], axis=1))


def sample_path(plan: Plan) -> Path:
    """Where `save_sample` writes: int32 (n, 2)."""
    return plan.work / "sample.npy"


def drops_path(plan: Plan, number: int) -> Path:
    """Where `save_drops` writes the decisions on one shard."""
    return plan.work / "shards" / f"{number:06d}.drops.json"


def load_drops(plan: Plan, number: int) -> dict[int, tuple[str, str]]:
    """Line of a shard -> (reason, detail)."""
    content: dict[str, Any] = json.loads(drops_path(plan, number).read_text(encoding="utf-8"))
    return {int(line): (reason, detail) for line, (reason, detail) in content.items()}


def _places(plan: Plan, shard: int, numbers: set[int], candidates: Candidates) -> list[tuple[int, str]]:
    table = pq.read_table(plan.candidates_path(shard), columns=["path", "view", "index"])
    places = []
    for n in numbers:
        row = table.slice(int(candidates.line[n]), 1).to_pylist()[0]
        places.append((n, row["path"] if row["index"] is None else f"{row['path']} {row['view']} {row['index']}"))
    return places


def _kept(candidates: Candidates, dropped: dict[int, Drop]) -> np.ndarray:
    kept = np.ones(len(candidates.shard), dtype=bool)
    kept[list(dropped)] = False
    return np.flatnonzero(kept)


def _half(digests: list[str]) -> np.ndarray:
    data = bytes.fromhex("".join(digest[:32] for digest in digests))
    return np.frombuffer(data, ">u8").reshape(-1, 2).astype(np.uint64)


def _mixed(values: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele et al., 2014): equal seeds, equal order, on every machine."""
    with np.errstate(over="ignore"):
        values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
