"""Tiny random models and tasks that the tests of the probes share."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SPLIT_SIZES = {"train": 24, "val": 12, "test": 15}


def draw_image(label: int, seed: int, size: int = 32) -> np.ndarray:
    """A noisy picture whose brightness and stripes tell the class, uint8 (H, W, 3)."""
    rng = np.random.default_rng(seed)
    image = rng.normal(60 + 70 * label, 25, (size, size, 3))
    image[:: 2 + label] += 40
    return np.clip(image, 0, 255).astype(np.uint8)


def write_class_folder(root: Path, classes: int = 2, splits: dict[str, int] = SPLIT_SIZES) -> Path:
    for split, count in splits.items():
        for number in range(count):
            label = number % classes
            path = root / split / f"class{label}" / f"{number:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw_image(label, len(split) * 1000 + number * 7 + ord(split[0]))).save(path)
    return root


def write_mask_folder(root: Path, splits: dict[str, int] | None = None) -> Path:
    """Bright discs on dark ground with their masks."""
    rows, columns = np.mgrid[:32, :32]
    for split, count in (splits or {"train": 8, "val": 4, "test": 5}).items():
        for number in range(count):
            rng = np.random.default_rng([len(split), number])
            y, x = rng.integers(10, 22, 2)
            mask = ((rows - y) ** 2 + (columns - x) ** 2 < 64).astype(np.uint8)
            image = np.clip(rng.normal(40, 10, (32, 32, 3)) + 150 * mask[..., None], 0, 255).astype(np.uint8)
            for kind, array in (("images", image), ("masks", mask)):
                path = root / split / kind / f"{number:03d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(path)
    return root


def write_box_folder(root: Path, splits: dict[str, int] | None = None) -> Path:
    """Bright and dark squares on grey ground with their boxes, as Roboflow exports COCO's form."""
    for split, count in (splits or {"train": 12, "valid": 4, "test": 5}).items():
        images, annotations = [], []
        for number in range(count):
            rng = np.random.default_rng([len(split), ord(split[0]), number])
            picture = np.clip(rng.normal(120, 8, (48, 64, 3)), 0, 255)
            for kind in range(2):
                width, height = rng.integers(14, 20, 2)
                x, y = rng.integers(0, 32 - 20) + 32 * kind, rng.integers(0, 48 - 20)
                picture[y : y + height, x : x + width] = 250 if (number + kind) % 2 else 10
                annotations.append({"id": len(annotations), "image_id": number, "category_id": 1 + (number + kind) % 2,
                                    "bbox": [int(x), int(y), int(width), int(height)], "iscrowd": 0})  # fmt: skip
            path = root / split / f"{number:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture.astype(np.uint8)).save(path)
            images.append({"id": number, "file_name": path.name, "width": 64, "height": 48})
        categories = [{"id": 0, "name": "squares"}, {"id": 1, "name": "dark"}, {"id": 2, "name": "bright"}]
        stored = {"images": images, "annotations": annotations, "categories": categories}
        (root / split / "_annotations.coco.json").write_text(json.dumps(stored))
    return root


def save_tiny_model(folder: Path, seed: int = 0, registers: int = 0, **overrides) -> Path:
    """A random BioVFM of width 32 with its image processor."""
    import torch

    from biovfm_hf import BioVFMConfig, BioVFMImageProcessor, BioVFMModel

    settings = dict(image_size=32, patch_size=8, hidden_size=32, num_hidden_layers=4, num_attention_heads=2)
    torch.manual_seed(seed)
    model = BioVFMModel(BioVFMConfig(**{**settings, "num_register_tokens": registers, **overrides}))
    with torch.no_grad():  # weights large enough that images differ in their features
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(3)
    model.save_pretrained(folder)
    BioVFMImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def second_model(tmp_path_factory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "second", seed=1, registers=2)


@pytest.fixture(scope="session")
def class_folder(tmp_path_factory) -> Path:
    return write_class_folder(tmp_path_factory.mktemp("tasks") / "stripes")


@pytest.fixture(scope="session")
def mask_folder(tmp_path_factory) -> Path:
    return write_mask_folder(tmp_path_factory.mktemp("tasks") / "discs")


@pytest.fixture(scope="session")
def box_folder(tmp_path_factory) -> Path:
    return write_box_folder(tmp_path_factory.mktemp("tasks") / "squares")


@pytest.fixture
def make_model():
    return save_tiny_model


@pytest.fixture
def make_class_folder():
    return write_class_folder


@pytest.fixture
def make_mask_folder():
    return write_mask_folder


@pytest.fixture(scope="session")
def write_masks():
    return write_mask_folder


@pytest.fixture
def make_image():
    return draw_image
