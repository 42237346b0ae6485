"""Small image folders and runs that take a second."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

# a run of two blocks on 32-pixel crops
SMALL = [
    "model.size=vit-tiny",
    "model.num_hidden_layers=2",
    "model.hidden_size=32",
    "model.num_attention_heads=2",
    "augment.global_size=32",
    "batch.size=4",
    "data.workers=0",
    "run.device=cpu",
    "run.log_every=1",
]
SMALL_DINO = [
    *SMALL,
    "augment.local_size=16",
    "augment.local_count=2",
    "dino.prototypes=32",
    "dino.hidden=16",
    "dino.bottleneck=8",
]
SMALL_MAE = [
    *SMALL,
    "model.decoder_hidden_size=32",
    "model.decoder_num_hidden_layers=1",
    "model.decoder_num_attention_heads=2",
]


def write_images(folder: Path, count: int, seed: int = 0) -> Path:
    """Grey discs of random place and size on noise, 40 x 48 pixels; every third one in colour."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    rows, columns = np.mgrid[:40, :48]
    for number in range(count):
        top, left, radius = generator.integers(8, 32), generator.integers(8, 40), generator.integers(3, 12)
        image = generator.normal(60, 20, (40, 48))
        image[(rows - top) ** 2 + (columns - left) ** 2 < radius**2] += 120
        image = np.clip(image, 0, 255).astype(np.uint8)
        if number % 3 == 0:
            image = np.stack([image, np.roll(image, 3, axis=0), 255 - image], axis=2)
        Image.fromarray(image).save(folder / f"{number:03d}.png")
    return folder


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("data") / "images", 24)


@pytest.fixture(scope="session", autouse=True)
def datasets_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep the Arrow copies that `datasets` makes out of the user's cache."""
    import datasets

    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def fresh_accelerator() -> None:
    """Accelerate keeps device and precision for the life of a process; each test chooses its own.

    One thread, as in the processes that tests start: another number changes the order of sums, and so the last bits.
    """
    torch.set_num_threads(1)
    from accelerate.state import AcceleratorState, PartialState

    AcceleratorState._reset_state(True)
    PartialState._reset_state()
