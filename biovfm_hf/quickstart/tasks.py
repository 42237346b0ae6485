"""Labelled tasks from the part of the MNI152 brain that was not pretrained on, with its tissue maps as ground truth.

`tissue`: small coronal patches, labelled by the tissue at their centre (grey matter, white matter, fluid).
`tissue-map`: larger coronal patches with a mask of grey and white matter.

Training, validation and test patches come from separate slabs of the brain with gaps between them, centred in the
right half only, because the left half mirrors it in this template. Every patch names its coronal slice as its subject,
so that intervals are drawn over slices, not over patches that show nearly the same.
"""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from biovfm_hf.writing.files import atomic_path

from .raw import TASKS_BEGIN, Brain, front_of, load_brain

PATCH = 24  # mm, and pixels
MAP = 64
# millimetres in front of TASKS_BEGIN, and patches to draw
_SLABS = {"train": (0, 36), "val": (40, 50), "test": (54, 78)}
_PATCHES = {"train": 1500, "val": 450, "test": 1200}
_MAPS = {"train": 24, "val": 30, "test": 120}
TISSUES = ("grey matter", "white matter", "fluid")


def write_tasks(folder: Path, seed: int = 0) -> None:
    """Write both tasks below `folder`, in the form that `biovfm probe --tasks` takes."""
    brain = load_brain()
    brain = replace(brain, t1=np.round(brain.t1 / brain.t1.max() * 255).astype(np.uint8))
    begin = front_of(brain.affine, TASKS_BEGIN)
    with atomic_path(folder) as temporary:
        for split, (first, last) in _SLABS.items():
            slab = range(begin + first, begin + last)
            generator = np.random.default_rng((seed, first))
            _write_patches(temporary / "tissue", split, slab, brain, generator)
            _write_maps(temporary / "tissue-map" / split, split, slab, brain, generator)


def _write_patches(folder: Path, split: str, slab: range, brain: Brain, generator: np.random.Generator) -> None:
    (folder / split).mkdir(parents=True)
    rows = []
    inside = _inside(brain.t1, slab, PATCH)
    for label, tissue in enumerate(_sure_tissue(brain)):
        places = np.argwhere(tissue & inside)
        chosen = generator.choice(len(places), _PATCHES[split] // len(TISSUES), replace=False)
        for x, y, z in places[chosen]:
            name = f"{split}/y{y:03d}_x{x:03d}_z{z:03d}.png"
            _save(_coronal(brain.t1, x, y, z, PATCH), folder / name)
            rows.append((name, TISSUES[label], split, f"y{y:03d}"))
    with (folder / "tissue.csv").open("a", newline="") as file:
        writer = csv.writer(file)
        if split == "train":
            writer.writerow(("image", "label", "split", "subject"))
        writer.writerows(rows)


def _write_maps(folder: Path, split: str, slab: range, brain: Brain, generator: np.random.Generator) -> None:
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    tissue_map = np.select([brain.grey >= 0.5, brain.white >= 0.5], [1, 2]).astype(np.uint8)
    places = np.argwhere(_inside(brain.t1, slab, MAP) & (tissue_map > 0))
    for x, y, z in places[generator.choice(len(places), _MAPS[split], replace=False)]:
        name = f"y{y:03d}_x{x:03d}_z{z:03d}.png"
        _save(_coronal(brain.t1, x, y, z, MAP), folder / "images" / name)
        _save(_coronal(tissue_map, x, y, z, MAP), folder / "masks" / name)


def _sure_tissue(brain: Brain) -> list[np.ndarray]:
    """Where each of `TISSUES` is beyond doubt."""
    return [brain.grey > 0.75, brain.white > 0.75, brain.grey + brain.white < 0.4]


def _inside(t1: np.ndarray, slab: range, side: int) -> np.ndarray:
    """Brain voxels of the right half in the slab whose coronal patch lies within the volume."""
    inside = np.zeros(t1.shape, bool)
    margin = side // 2
    middle = t1.shape[0] // 2
    block = (slice(middle + 1, t1.shape[0] - margin), slice(slab.start, slab.stop), slice(margin, -margin))
    inside[block] = t1[block] > 12  # of 255; fluid is dark, outside is black
    return inside


def _coronal(volume: np.ndarray, x: int, y: int, z: int, side: int) -> np.ndarray:
    half = side // 2
    return np.rot90(volume[x - half : x + half, y, z - half : z + half])  # superior up


def _save(pixels: np.ndarray, path: Path) -> None:
    Image.fromarray(np.ascontiguousarray(pixels)).save(path)
