"""Arrays that the tests of decoders write, and the comparison of processor and builder with these arrays."""

from pathlib import Path

import numpy as np
from PIL import Image

from biovfm_hf.pixels import decode, read_volume
from dataset_builder import readers
from dataset_builder.item import Item
from dataset_builder.readers.picture import Picture

RNG = np.random.default_rng(0)
VOLUME = RNG.integers(0, 900, (4, 5, 6)).astype(np.int16)  # axes to the left, back and head, as ITK's files have them
LPS_TO_RAS = VOLUME[::-1, ::-1]
SHADES = np.arange(48, dtype=np.int64).reshape(6, 8)
VIEWS = ("axial", "coronal", "sagittal")


def smooth(seed: int = 0, top: int = 4080, height: int = 64, width: int = 80) -> np.ndarray:
    """A picture of smooth structure that uses all whole numbers from 0 to `top`, as float; no two seeds alike."""
    coarse = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (6, 7), np.uint8))
    fine = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), float)
    return np.rint((fine - fine.min()) / (fine.max() - fine.min()) * top)


def colours(top: int = 4080) -> np.ndarray:
    """A picture (64, 80, 3) as `smooth`."""
    return np.stack([smooth(seed, top) for seed in (1, 2, 3)], axis=-1)


def slice_of(path: Path, index: int = 2, **where: object) -> np.ndarray:
    """The stored numbers of one picture of several."""
    return decode(path, slice_index=index, **where).array


def values_of(path: Path, **where: object) -> np.ndarray:
    """The values of one picture, rescaled."""
    pixels = decode(path, **where)
    return pixels.array * np.float64(pixels.slope) + pixels.intercept if pixels.array.ndim == 2 else pixels.array


def built(path: Path, kind: str = "image", setting: object = None, size: int = 4096, **about: object) -> list[Picture]:
    """The builder's result for a file."""
    item = Item(path.name, about.pop("member", None), kind, intensity=setting, **about)
    return list(readers.read(path, item, path.parent, VIEWS, size))


def shown(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Values from `low` to `high` on a screen."""
    return np.nan_to_num(np.clip(np.rint((values.astype(float) - low) * 255 / (high - low)), 0, 255))


def assert_read(path: Path, values: np.ndarray, number: int | None = None, kind: str = "image") -> None:
    """Processor and builder read these values: (H, W), (H, W, 3), or (X, Y, Z) of a volume whose axes run RAS."""
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    if values.ndim == 3 and values.shape[2] != 3:
        volume, kind, middle = read_volume(path), "volume", values.shape[2] // 2
        found = volume.array * np.float64(volume.slope) + volume.intercept
        truth = shown(values[::-1, ::-1, middle].T, low, high)
    else:
        found, middle, truth = values_of(path, slice_index=number), number or 0, shown(values, low, high)
    assert np.allclose(found, values, rtol=1e-6, equal_nan=True)
    picture = built(path, kind, {"window": [low, high]}, fps=100.0 if kind == "video" else None)[middle]
    assert picture.pixels.shape == truth.shape and np.abs(picture.pixels - truth).max() <= 1
