"""The images of a folder as rows of a dataset."""

from pathlib import Path

import datasets
import pytest


def rows(folder: Path, column: str = "image") -> datasets.Dataset:
    paths = sorted(folder.glob("*.png"))
    modality = ["CT" if number % 4 else "US" for number in range(len(paths))]
    source = ["a" if number < 12 else "b" for number in range(len(paths))]
    images = [{"bytes": path.read_bytes(), "path": path.name} for path in paths]
    columns = {column: images, "modality": modality, "source": source, "index": list(range(len(paths)))}
    table = datasets.Dataset.from_dict(columns)
    return table.cast_column(column, datasets.Image())


@pytest.fixture(scope="session")
def streamed_folder(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("streamed")
    table = rows(image_folder)
    for number in range(3):
        table.select(range(number * 8, number * 8 + 8)).to_parquet(folder / f"train-{number}.parquet", batch_size=3)
    return folder
