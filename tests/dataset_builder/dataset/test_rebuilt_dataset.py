"""A rebuilt dataset must load with its new rows, although `datasets` caches folders by name and card."""

from pathlib import Path

import numpy as np
import yaml
from datasets import load_dataset
from PIL import Image

from dataset_builder.build import main as build


def raw_source(folder: Path, images: int) -> Path:
    generator = np.random.default_rng(images)
    (folder / "raw" / "mine").mkdir(parents=True)
    for index in range(images):
        pixels = generator.integers(0, 255, (40, 40), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "raw" / "mine" / f"{index}.png")
    record = {"id": "mine", "name": "mine", "modality": "CT", "anatomies": ["chest"], "in_paper": False}
    record |= {"items": [{"pattern": "*.png"}], "train": "all"}
    (folder / "mine.yaml").write_text(yaml.safe_dump(record))
    return folder / "mine.yaml"


def test_two_folders_of_one_name_do_not_share_a_cache(tmp_path: Path) -> None:
    for images in (3, 5):
        folder = tmp_path / str(images)
        record = raw_source(folder, images)
        words = ["--raw", str(folder / "raw"), "--out", str(folder / "dataset"), "--sources", str(record)]
        assert build([*words, "--size", "32", "--workers", "0"]) == 0
        rows = load_dataset(str(folder / "dataset"), "full", split="train", cache_dir=str(tmp_path / "cache"))
        assert len(rows) == images
        assert rows.features["image"].dtype == "PIL.Image.Image"
