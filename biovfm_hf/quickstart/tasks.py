"""Labelled tasks from the part of the MNI152 brain that was not pretrained on, with its structures as ground truth.

`structure`: small coronal patches, labelled by the structure at their centre (cortex, white matter, basal ganglia,
ventricle, sulcus). Few are labelled, and every patch is stretched to its own range of grey levels, as two scanners
would differ: a task whose answer is the brightness tests no representation.
`structure-map`: larger coronal patches with a mask of cortex, white matter, basal ganglia and ventricle.

Training, validation and test patches come from separate slabs of the brain with gaps between them, since the left half
of this template is the mirror image of its right. Every patch names its coronal slice as its subject, so that
intervals are drawn over slices, not over patches that show nearly the same.
"""

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from biovfm_hf.writing.files import atomic_path

from .raw import TASKS_BEGIN, Brain, front_of, load_brain
from .structures import STRUCTURES, Anatomy

PATCH = 24  # mm, and pixels
MAP = 64
# millimetres in front of TASKS_BEGIN; patches to draw, of each structure and with a mask
_SLABS = {"train": (0, 9), "val": (11, 14), "test": (17, 31)}
_PATCHES = {"train": 50, "val": 60, "test": 240}
_MAPS = {"train": 24, "val": 30, "test": 120}
_GREY_RANGE = (1, 99)  # percentiles of a patch that become black and white


def write_tasks(folder: Path, seed: int = 0) -> None:
    """Write both tasks below `folder`, in the form that `biovfm probe --tasks` takes."""
    brain = load_brain()
    anatomy = Anatomy(brain)
    begin = front_of(brain.affine, TASKS_BEGIN)
    with atomic_path(folder) as temporary:
        for split, (first, last) in _SLABS.items():
            slab = range(begin + first, begin + last)
            generator = np.random.default_rng((seed, first))
            _write_patches(temporary / "structure", split, slab, anatomy, generator)
            _write_maps(temporary / "structure-map" / split, split, slab, anatomy, generator)


def _write_patches(folder: Path, split: str, slab: range, anatomy: Anatomy, generator: np.random.Generator) -> None:
    (folder / split).mkdir(parents=True)
    rows = []
    inside = _patches_inside(anatomy.brain, slab, PATCH)
    for structure, mask in zip(STRUCTURES, anatomy.sure, strict=True):
        for x, y, z in _draw(mask & inside, _PATCHES[split], generator):
            name = f"{split}/y{y:03d}_x{x:03d}_z{z:03d}.png"
            _save(_stretched(_coronal(anatomy.brain.t1, x, y, z, PATCH)), folder / name)
            rows.append((name, structure, split, f"y{y:03d}"))
    with (folder / "structure.csv").open("a", newline="") as file:
        writer = csv.writer(file)
        if split == "train":
            writer.writerow(("image", "label", "split", "subject"))
        writer.writerows(rows)


def _write_maps(folder: Path, split: str, slab: range, anatomy: Anatomy, generator: np.random.Generator) -> None:
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    inside = _patches_inside(anatomy.brain, slab, MAP)
    for x, y, z in _draw(inside & (anatomy.map > 0), _MAPS[split], generator):
        name = f"y{y:03d}_x{x:03d}_z{z:03d}.png"
        _save(_stretched(_coronal(anatomy.brain.t1, x, y, z, MAP)), folder / "images" / name)
        _save(_coronal(anatomy.map, x, y, z, MAP), folder / "masks" / name)


def _draw(mask: np.ndarray, count: int, generator: np.random.Generator) -> Iterator[np.ndarray]:
    places = np.argwhere(mask)
    yield from places[generator.choice(len(places), count, replace=False)]


def _patches_inside(brain: Brain, slab: range, side: int) -> np.ndarray:
    """Voxels of the slab whose coronal patch lies within the volume."""
    inside = np.zeros(brain.t1.shape, bool)
    margin = side // 2
    inside[margin:-margin, slab.start : slab.stop, margin:-margin] = True
    return inside


def _coronal(volume: np.ndarray, x: int, y: int, z: int, side: int) -> np.ndarray:
    half = side // 2
    return np.rot90(volume[x - half : x + half, y, z - half : z + half])  # superior up


def _stretched(pixels: np.ndarray) -> np.ndarray:
    """The picture with its own range of grey levels from black to white, uint8."""
    low, high = np.percentile(pixels, _GREY_RANGE)
    return np.round(255 * np.clip((pixels - low) / max(high - low, 1e-6), 0, 1)).astype(np.uint8)


def _save(pixels: np.ndarray, path: Path) -> None:
    Image.fromarray(np.ascontiguousarray(pixels)).save(path)
