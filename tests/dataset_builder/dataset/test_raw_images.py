"""The builder class for `datasets`: the rows of `biovfm build`, prepared or streamed straight from raw folders."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from biovfm_hf.errors import UserError
from dataset_builder.build import build
from dataset_builder.dataset.raw_images import RawImages
from dataset_builder.schema import COLUMNS


@pytest.fixture
def make_builder(small_raw, tmp_path):
    raw, sources = small_raw
    return lambda **options: RawImages(raw, sources.split(","), cache_dir=str(tmp_path / "cache"), size=32, **options)


def key(row: dict) -> tuple:
    return row["path"], row["view"], row["index"] if row["index"] is not None else -1


def test_streaming_gives_the_rows_of_a_build(make_builder, small_raw, tmp_path):
    raw, sources = small_raw
    build(raw, tmp_path / "out", [sources], workers=0, size=32)
    stored = [row for path in (tmp_path / "out/data").rglob("*.parquet") for row in pq.read_table(path).to_pylist()]
    stream = make_builder().as_streaming_dataset(split="train")
    assert stream.num_shards == 3
    rows = sorted(stream, key=key)
    assert [{**row, "image": None} for row in rows] == [{**row, "image": None} for row in sorted(stored, key=key)]
    assert rows[0]["image"].size == (32, 32)
    assert tuple(rows[0]) == COLUMNS


def test_prepared_with_processes_and_again_when_files_change(make_builder, small_raw, make):
    builder = make_builder()
    builder.download_and_prepare(num_proc=2)
    dataset = builder.as_dataset(split="train")
    assert len(dataset) == len(list(make_builder().as_streaming_dataset(split="train")))
    assert np.asarray(dataset[0]["image"]).shape == (32, 32)
    make.png(small_raw[0] / "scans" / "p900" / "new.png", make.picture(77, 60, 80))
    changed = make_builder()
    changed.download_and_prepare()
    assert len(changed.as_dataset(split="train")) == len(dataset) + 1


def test_an_absent_folder_is_named(tmp_path, make):
    with pytest.raises(UserError, match="holds none of the sources"):
        RawImages(tmp_path, [str(make.record(tmp_path, "scans"))], cache_dir=str(tmp_path / "cache"))


def test_options_are_checked_and_those_of_a_build_alone_refused(tmp_path, make):
    sources, cache = [str(make.record(tmp_path, "scans"))], str(tmp_path / "cache")
    with pytest.raises(UserError, match="size: 8 must be 16 or more"):
        RawImages(tmp_path, sources, cache, size=8)
    with pytest.raises(UserError, match="benchmarks is no option of RawImages"):
        RawImages(tmp_path, sources, cache, benchmarks=["medmnist"])
