"""Data by which the pictures of all shards are compared: a few numbers each in memory, the thumbnails on disk."""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from biovfm_hf.threads import in_order

from ..plan.plan import Plan
from ..schema import KEPT
from .hashing import THUMBNAIL, Rows

_SIDE = THUMBNAIL**2


class Thumbnails:
    """The thumbnails of all shards, uint8 (n, 784), read from the shards' files when rows are asked for.

    Args:
        plan: the plan.
        counts: how many each shard has.
    """

    def __init__(self, plan: Plan, counts: Sequence[int]) -> None:
        self._plan = plan
        self._starts = np.cumsum([0, *counts])
        self._maps: dict[int, np.ndarray] = {}
        self.shape = (int(self._starts[-1]), _SIDE)

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        thumbnails = np.empty((len(rows), _SIDE), np.uint8)
        order = np.argsort(rows, kind="stable")
        shards = np.searchsorted(self._starts, rows[order], "right") - 1
        for shard, start, stop in groups(shards):
            own = order[start:stop]
            thumbnails[own] = self._of(shard)[rows[own] - self._starts[shard]]
        return thumbnails

    def _of(self, shard: int) -> np.ndarray:
        if shard not in self._maps:
            self._maps[shard] = np.memmap(self._plan.thumbnails_path(shard), np.uint8, "r").reshape(-1, _SIDE)
        return self._maps[shard]


def groups(values: np.ndarray) -> Iterator[tuple[int, int, int]]:
    """Value, start and end of each run of equals in ascending integers."""
    edges = [0, *(np.flatnonzero(values[1:] != values[:-1]) + 1).tolist(), len(values)]
    yield from ((int(values[start]), start, stop) for start, stop in pairwise(edges) if start < stop)


class Candidates(NamedTuple):
    """Data for comparing the pictures of all shards that passed the rules for single pictures, in plan order.

    42 bytes per picture and 8 for each of its framings.

    Attributes:
        shard: int32 (n,), number of the shard.
        line: int32 (n,), line in the shard's candidates.
        file: int64 (n,), equal for the pictures of one input.
        exact: uint64 (n, 2), half of the SHA-256 of the pixels.
        modality: int16 (n,), equal for equal modalities.
        first: int64 (n,), position in `hashes` of each picture's first framing.
        hashes: uint64 (m,), perceptual hashes of all framings of all pictures.
        thumbnails: uint8 (m, 784), one for each hash.
    """

    shard: np.ndarray
    line: np.ndarray
    file: np.ndarray
    exact: np.ndarray
    modality: np.ndarray
    first: np.ndarray
    hashes: np.ndarray
    thumbnails: Rows

    def owner(self, framings: np.ndarray) -> np.ndarray:
        """The picture to which each of these positions in `hashes` belongs."""
        return np.searchsorted(self.first, framings, "right") - 1


def load_candidates(plan: Plan, threads: int = 1) -> Candidates:
    """Read the candidates of all shards, in threads."""
    modalities = sorted({shard.modality or "" for shard in plan.shards})
    codes = [modalities.index(shard.modality or "") for shard in plan.shards]
    parts = list(in_order(partial(_of_shard, plan), range(len(plan.shards)), threads))
    thumbnails = Thumbnails(plan, [len(part["hashes"]) for part in parts])
    counts = [len(part["line"]) for part in parts]
    joined = {name: np.concatenate([part.pop(name) for part in parts]) for name in list(parts[0])}
    framings = joined.pop("framings").astype(np.int64)
    return Candidates(
        shard=np.repeat(np.arange(len(counts), dtype=np.int32), counts),
        modality=np.repeat(np.array(codes, np.int16), counts),
        first=np.cumsum(framings) - framings,
        thumbnails=thumbnails,
        **joined,
    )


def _of_shard(plan: Plan, number: int) -> dict[str, np.ndarray]:
    table = pq.read_table(plan.candidates_path(number), columns=["outcome", "item", "sha256", "hashes"])
    lines = np.flatnonzero(pc.equal(table["outcome"], KEPT).to_numpy(zero_copy_only=False))
    table = table.take(lines).combine_chunks()
    return {
        "line": lines.astype(np.int32),
        "file": (np.int64(number) << 32) | table["item"].to_numpy().astype(np.int64),
        "exact": _half(table["sha256"]),
        "framings": pc.list_value_length(table["hashes"]).to_numpy(zero_copy_only=False).astype(np.int8),
        "hashes": pc.list_flatten(table["hashes"]).to_numpy(zero_copy_only=False).astype(np.uint64),
    }


def _half(digests: pa.ChunkedArray) -> np.ndarray:
    """The first half of each SHA-256 in hex: uint64 (n, 2)."""
    digits = pc.utf8_slice_codeunits(digests, 0, 32).cast(pa.binary()).cast(pa.binary(32))
    joined = b"".join(
        chunk.buffers()[1].to_pybytes()[32 * chunk.offset :][: 32 * len(chunk)] for chunk in digits.chunks
    )
    return np.frombuffer(bytes.fromhex(joined.decode("ascii")), ">u8").reshape(-1, 2).astype(np.uint64)
