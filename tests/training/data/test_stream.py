"""Weighted streams: the requested shares, a local order, and the same images after any interruption."""

import hashlib
import shutil
from collections import Counter
from itertools import pairwise
from pathlib import Path

import datasets
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biovfm_hf.errors import UserError
from training.command import pretrain
from training.data.batches import sample_order
from training.data.images import open_images
from training.data.stream import StreamedImages, WeightedStreamOrder, split_files
from training.settings.config import DataConfig

from ..conftest import SMALL_MAE
from .test_batches import small_config


def order(
    sizes: list[int], weights: list[float], seed: int = 0, images: int = 10
) -> tuple[WeightedStreamOrder, list[np.ndarray]]:
    """Strata of these `sizes` in row groups, each row group of so many `images`."""
    total = images * sum(sizes)
    starts = np.arange(0, total + 1, images)
    bounds = np.cumsum([0, *sizes]) * images
    members = [np.arange(low, high) for low, high in pairwise(bounds)]
    return WeightedStreamOrder(members, weights, starts, seed, batch=16, lanes=8), members


@given(st.lists(st.floats(0.01, 9), min_size=2, max_size=5), st.integers(0, 99))
@settings(max_examples=6, deadline=None)
def test_groups_have_their_shares_and_every_image_its_turn(weights: list[float], seed: int) -> None:
    drawn_from, members = order([3, 5, 2, 4, 6][: len(weights)], weights, seed, images=60)  # few epochs are quick
    cycle = 1024 * 64
    drawn = drawn_from.indices(np.arange(cycle))
    shares = np.array(weights) / sum(weights)
    for rows, share in zip(members, shares, strict=True):
        counts = np.bincount(drawn, minlength=members[-1][-1] + 1)[rows]
        assert abs(counts.sum() - share * cycle) <= 1
        assert counts.max() - counts.min() <= 1 + counts.mean() * 0.1


def test_positions_are_independent_of_how_they_are_asked_for() -> None:
    drawn_from, _ = order([4, 9, 1], [1.0, 2.0, 0.5])
    whole = drawn_from.indices(np.arange(3000))
    parts = [drawn_from.indices(np.arange(first, first + 50)) for first in range(0, 3000, 50)]
    assert np.array_equal(whole, np.concatenate(parts))
    again, _ = order([4, 9, 1], [1.0, 2.0, 0.5])
    assert again.indices(np.array([2047, 5])).tolist() == [whole[2047], whole[5]]
    other, _ = order([4, 9, 1], [1.0, 2.0, 0.5], seed=1)
    assert (other.indices(np.arange(3000)) != whole).mean() > 0.9


def test_a_group_of_weight_zero_is_never_drawn() -> None:
    drawn_from, members = order([4, 9], [0.0, 1.0])
    assert not np.isin(drawn_from.indices(np.arange(5000)), members[0]).any()


def test_a_batch_of_a_weighted_stream_is_local() -> None:
    """A worker meets few row groups, so it keeps few."""
    drawn_from, _ = order([400, 400], [1.0, 1.0])
    batch = drawn_from.indices(np.arange(4096, 4096 + 256))
    assert len(np.unique(batch // 10)) < 128, "drawn at random it would be about 220"


def test_weights_of_a_stream_are_those_of_a_table(streamed_folder: Path) -> None:
    config = small_config(streamed_folder, streaming=True, weight_by="modality", weights={"US": 3.0})
    images = open_images(config.data)
    assert isinstance(images, StreamedImages)
    table = open_images(small_config(streamed_folder).data)
    for column in ("modality", "source"):
        one, two = images.group_by(column), table.group_by(column)
        assert one.keys() == two.keys() and all(np.array_equal(one[name], two[name]) for name in one)
    drawn = sample_order(images, config).indices(np.arange(1024))
    assert Counter(images.fetch(index)[2] for index in drawn.tolist()) == {"US": 768, "CT": 256}
    few = small_config(streamed_folder, streaming=True, weight_by="modality", source=["b"])
    kept = open_images(few.data)
    assert {kept.fetch(int(index))[2] for index in sample_order(kept, few).indices(np.arange(64))} == {"US", "CT"}
    with pytest.raises(UserError, match="the data has no column 'sauce'; did you mean source"):
        images.group_by("sauce")


def test_a_column_of_one_value_is_read_from_the_footer(streamed_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow.parquet

    images = open_images(DataConfig(path=str(streamed_folder), streaming=True))
    read: list[int] = []
    original = pyarrow.parquet.ParquetFile.read_row_group
    monkeypatch.setattr(
        pyarrow.parquet.ParquetFile,
        "read_row_group",
        lambda self, number, **more: read.append(number) or original(self, number, **more),
    )
    assert {name: len(rows) for name, rows in images.group_by("source").items()} == {"a": 12, "b": 12}
    assert len(read) == 1, "only the row group with both"


def test_a_weighted_stream_continues_exactly(streamed_folder: Path, tmp_path: Path) -> None:
    words = ["steps=6", "run.checkpoint_every=3", "data.streaming=true", "data.weight_by=modality", *SMALL_MAE]
    for name in ("whole", "resumed"):
        pretrain("mae_smoke", data=streamed_folder, out=tmp_path / name, overrides=words)
    shutil.rmtree(tmp_path / "resumed" / "checkpoints" / "step_00000006")
    shutil.rmtree(tmp_path / "resumed" / "model")
    pretrain("mae_smoke", data=streamed_folder, out=tmp_path / "resumed", overrides=[*words, "data.workers=1"])
    weights = [(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("whole", "resumed")]
    assert hashlib.sha256(weights[0]).digest() == hashlib.sha256(weights[1]).digest()


def test_splits_are_told_by_the_names_of_files() -> None:
    files = ["a/train-0.parquet", "a/test-0.parquet", "a/manifest.parquet", "b/train/1.parquet"]
    assert split_files(files, "train") == ["a/train-0.parquet", "b/train/1.parquet"]
    assert split_files(["x/0.parquet"], "train") == ["x/0.parquet"]
    with pytest.raises(UserError, match="no files of the split 'validation'; there are: test, train"):
        split_files(files, "validation")


def test_a_column_of_bytes_is_offered_and_trains(image_folder: Path, tmp_path: Path) -> None:
    paths = sorted(image_folder.glob("*.png"))
    rows = {"bytes": [path.read_bytes() for path in paths], "label": list(range(len(paths)))}
    datasets.Dataset.from_dict(rows).to_parquet(tmp_path / "train.parquet")
    with pytest.raises(UserError, match=r"set data\.column to one of its image columns: bytes"):
        open_images(DataConfig(path=str(tmp_path)))
    for streaming in (False, True):
        images = open_images(DataConfig(path=str(tmp_path), column="bytes", streaming=streaming))
        assert images.fetch(5)[0] == paths[5].read_bytes()
