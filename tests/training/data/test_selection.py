"""`data.selection`: pretraining takes the images that `biovfm curate` chose, and no others."""

from dataclasses import replace

import datasets
import numpy as np
import pytest
from PIL import Image

from biovfm_hf.errors import UserError
from training.data.images import open_images
from training.settings.config import DataConfig

NAMES = ["a/0.png", "a/1.png", "b/0.png", "b/1.png", "b/2.png"]


@pytest.fixture
def picture():
    return Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8))


@pytest.fixture
def selection(tmp_path):
    path = tmp_path / "selection.txt"
    path.write_text("a/1.png\nb/2.png\n")
    return str(path)


@pytest.fixture
def dataset(tmp_path, picture):
    kinds = datasets.Features({"image": datasets.Image(), "path": datasets.Value("string")})
    rows = {"image": [picture] * 5, "path": NAMES}
    datasets.Dataset.from_dict(rows, features=kinds).to_parquet(tmp_path / "data" / "train.parquet")
    return DataConfig(path=str(tmp_path / "data"))


def test_of_a_dataset_only_the_selected_rows_are_taken(dataset, selection):
    images = open_images(replace(dataset, selection=selection))
    assert len(images) == 2
    assert images.rows.tolist() == [1, 4]


def test_of_a_folder_only_the_selected_files_are_taken(tmp_path, picture, selection):
    for name in NAMES:
        (tmp_path / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
        picture.save(tmp_path / "folder" / name)
    images = open_images(DataConfig(path=str(tmp_path / "folder"), selection=selection))
    assert [path[-7:] for path in images.paths] == ["a/1.png", "b/2.png"]


def test_a_selection_of_other_data_is_refused(dataset, selection, tmp_path):
    (tmp_path / "other.txt").write_text("a/1.png\nelsewhere.png\n")
    with pytest.raises(UserError, match=r"1 of 2 images are not in the data, the first is elsewhere\.png"):
        open_images(replace(dataset, selection=str(tmp_path / "other.txt")))
    with pytest.raises(UserError, match="cannot be read"):
        open_images(replace(dataset, selection=str(tmp_path / "none.txt")))
    with pytest.raises(UserError, match="without streaming"):
        open_images(replace(dataset, selection=selection, streaming=True))
