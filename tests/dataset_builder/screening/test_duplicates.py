"""Which equal images are dropped: between files always, within one file unless its repeats are requested."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from dataset_builder.build import build
from dataset_builder.screening.candidates import Candidates
from dataset_builder.screening.duplicates import exact_duplicates


def candidates(files, contents):
    """Pictures of so many files, equal where their contents are."""
    count = len(files)
    exact = np.stack([np.zeros(count, np.uint64), np.array(contents, np.uint64)], axis=1)
    other = dict.fromkeys(("shard", "line", "modality", "hashes", "thumbnails", "first"), np.zeros(count))
    return Candidates(**{**other, "file": np.array(files), "exact": exact, "shard": np.zeros(count, np.int32)})


@pytest.mark.parametrize(
    ("within", "dropped", "expected"),
    [
        (True, [], {1: 0, 3: 0, 4: 0, 6: 5}),
        (False, [], {3: 0, 4: 0}),
        (False, [0, 1], {}),  # what is dropped already is nobody's original
        (True, [0, 1], {4: 3, 6: 5}),
    ],
)
def test_what_equals_an_earlier_picture(within, dropped, expected):
    pictures = candidates(files=[1, 1, 1, 2, 2, 3, 3], contents=[7, 7, 8, 7, 7, 9, 9])
    kept = np.setdiff1d(np.arange(7), dropped)
    numbers, like = exact_duplicates(pictures, kept, within=within)
    assert dict(zip(numbers.tolist(), like.tolist(), strict=True)) == expected
    assert not len(exact_duplicates(candidates([], []), np.arange(0), within=within)[0])


@pytest.mark.parametrize(("keep", "kept"), [(False, [1, 1, 0]), (True, [3, 2, 0])])
def test_a_probe_at_rest(tmp_path, make, keep, kept):
    """Frames that repeat: once by default, all with --keep-near-duplicates; in a second file never."""
    resting = make.picture(1)
    for name, frames in (("a.npy", [resting] * 3), ("b.npy", [make.picture(2)] * 2), ("c.npy", [resting] * 2)):
        (tmp_path / "raw" / "own").mkdir(parents=True, exist_ok=True)
        np.save(tmp_path / "raw" / "own" / name, np.stack(frames)[..., None])
    record = make.record(tmp_path, "own", items=["*.npy"])
    build(tmp_path / "raw", tmp_path / "out", [record], workers=0, size=32, keep_near_duplicates=keep)
    lines = pq.read_table(tmp_path / "out" / "manifest.parquet").to_pylist()
    outcomes = [(line["path"][-5], line["outcome"]) for line in lines]
    assert [outcomes.count((name, "kept")) for name in "abc"] == kept
