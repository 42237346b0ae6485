"""Streamed images: weights as those of a table, splits, and the same images after any interruption."""

import hashlib
import shutil
from collections import Counter
from pathlib import Path

import datasets
import numpy as np
import pytest

from biovfm_hf.errors import UserError
from training.command import pretrain
from training.data.batches import sample_order
from training.data.images import open_images
from training.data.stream import StreamedImages, split_files
from training.settings.config import DataConfig

from ..conftest import SMALL_MAE
from .test_batches import small_config


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
