"""A features file of the small classes, and datasets as folders."""

import pytest

from evaluation.commands.embed import main

MADE_WITH = {"model": "m", "revision": "r", "features": "both"}


@pytest.fixture
def features(tmp_path, tiny_model, class_folder):
    out = tmp_path / "features.parquet"
    words = ["--model", str(tiny_model), "--images", str(class_folder), "--out", str(out), "--precision", "fp32"]
    assert main(words) == 0
    return out


def write_dataset(folder, files):
    """A dataset folder with the bytes of files as its images; None for an empty cell."""
    import datasets

    cells = [None if data is None else {"bytes": data, "path": None} for data in files]
    features = datasets.Features({"image": datasets.Image()})
    (folder / "data").mkdir(parents=True)
    made = datasets.Dataset.from_dict({"image": cells}, features=features)
    made.to_parquet(folder / "data" / "train-00000-of-00001.parquet")
    return str(folder)
