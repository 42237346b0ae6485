"""The linear segmentation probe of the watch: folders that it reads, and what its number tells."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from biovfm_hf.errors import UserError
from training.command import pretrain
from training.config_file import load_config
from training.run.masks import CELLS, dense_dice, load_masks

from ..conftest import SMALL_DINO


def write_task(folder: Path, count: int, values: tuple[int, ...] = (0, 255)) -> Path:
    """Discs on noise and their masks, 40 x 48 pixels; a third class is a bar at the top."""
    generator = np.random.default_rng(0)
    rows, columns = np.mgrid[:40, :48]
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        top, left = generator.integers(12, 30), generator.integers(10, 38)
        disc = (rows - top) ** 2 + (columns - left) ** 2 < 64
        mask = np.where(disc, values[1], values[0])
        mask = np.where(rows < 6, values[-1], mask) if len(values) > 2 else mask
        image = np.clip(generator.normal(60, 5, (40, 48)) + 120 * disc + 60 * (rows < 6), 0, 255)
        Image.fromarray(image.astype(np.uint8)).save(folder / "images" / f"{number}.png")
        Image.fromarray(mask.astype(np.uint8)).save(folder / "masks" / f"{number}.png")
    return folder


def test_folders_with_and_without_splits(tmp_path: Path) -> None:
    masked = load_masks(write_task(tmp_path / "flat", 7), 32, 8, limit=100)
    assert masked.train[0].shape == (4, 3, 32, 32) and masked.test[1].shape == (3, 4 * CELLS, 4 * CELLS)
    assert masked.classes == 2 and masked.train[1].unique().tolist() == [0, 1]
    for part in ("train", "test"):
        write_task(tmp_path / "split" / part, 5, values=(0, 1, 2))
    masked = load_masks(tmp_path / "split", 32, 8, limit=3)
    assert masked.classes == 3 and len(masked.train[0]) == len(masked.test[0]) == 3


def test_folders_that_cannot_be_read_are_reported(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"watch\.masks .*nowhere: no such folder; check the path"):
        load_masks(tmp_path / "nowhere", 32, 8, 10)
    folder = write_task(tmp_path / "one", 3)
    (folder / "masks" / "1.png").unlink()
    with pytest.raises(UserError, match="1 has no mask"):
        load_masks(folder, 32, 8, 10)
    with pytest.raises(UserError, match="two classes or more"):
        load_masks(write_task(tmp_path / "blank", 4, values=(0, 0)), 32, 8, 10)
    with pytest.raises(UserError, match="too few images"):
        load_masks(write_task(tmp_path / "single", 1), 32, 8, 10)
    with pytest.raises(UserError, match=r"watch\.masks is given, but watch\.every is 0"):
        load_config("dino_smoke", {"watch.masks": str(folder)})


def tokens_of(masks: torch.Tensor, noise: float, seed: int) -> torch.Tensor:
    """(N, P, 6): the share of each of three classes in a patch, turned into six noisy features."""
    shares = torch.nn.functional.one_hot(masks, 3).movedim(-1, 1).float()
    shares = torch.nn.functional.avg_pool2d(shares, CELLS).flatten(2).mT
    generator = torch.Generator().manual_seed(0)
    features = shares @ torch.randn(3, 6, generator=generator)
    return features + noise * torch.randn(features.shape, generator=generator.manual_seed(seed))


def test_the_dice_of_informative_tokens_and_of_noise() -> None:
    generator = torch.Generator().manual_seed(1)
    blocks = (torch.rand(40, 6, 6, generator=generator) * 1.4).long() + (
        torch.rand(40, 6, 6, generator=generator) > 0.9
    )
    masks = blocks.repeat_interleave(CELLS, 1).repeat_interleave(CELLS, 2)
    train, test = masks[:20], masks[20:]
    dice = [
        dense_dice((tokens_of(train, noise, 2), train), (tokens_of(test, noise, 3), test), (6, 6), 3)
        for noise in (0.0, 1.0, 50.0)
    ]
    assert dice[0] > 0.85 and dice[0] > dice[1] > dice[2] and dice[2] < 0.5
    assert dice[0] == dense_dice((tokens_of(train, 0.0, 2), train), (tokens_of(test, 0.0, 3), test), (6, 6), 3)


def test_a_run_logs_it(image_folder: Path, tmp_path: Path) -> None:
    masks = write_task(tmp_path / "masks", 8)
    words = ["steps=2", "watch.every=1", "watch.images=4", f"watch.masks={masks}", *SMALL_DINO]
    pretrain("dino_smoke", data=image_folder, out=tmp_path / "out", overrides=words)
    records = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert len(records) == 3 and all(0 < record["dense_dice"] <= 1 for record in records)
    assert str(tmp_path) not in (tmp_path / "out" / "model" / "training_config.yaml").read_text()
