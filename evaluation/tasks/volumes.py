"""Volumes with label volumes, read as slices and scored as volumes: AMOS and the Medical Segmentation Decathlon."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from biovfm_hf.errors import UserError, require
from biovfm_hf.pixels import read_volume

from .images import SliceMasks, VolumeSlices, stretch
from .layouts import layout
from .splitting import systematic_split
from .task import SPLITS, Split, TaskRecord

MAX_BYTES = 4 << 30


@layout("amos", "msd")
def read_volumes(record: TaskRecord, root: Path) -> dict[str, Split]:
    """Open the set of `record` in `root`: pairs of image and label volumes, split by volume, every axial slice.

    The record's options are `folders`, pairs of image and label folders; `channel`, for images of several sequences;
    `window` [low, high] or `percentiles` [low, high] of each volume, which are mapped to 0..255; the shares `test` and
    `val`; and `last_id`, the highest case number that belongs to the task.
    """
    pairs = _pairs(record, root)
    names = np.array([image.name.removesuffix(".gz").removesuffix(".nii") for image, _ in pairs])
    split = systematic_split(names, test=record.options["test"], val=record.options["val"])
    splits = {}
    for name in SPLITS:
        rows = np.flatnonzero(split == name)
        splits[name] = _open_split(record, [pairs[i] for i in rows], names[rows])
    return splits


def _pairs(record: TaskRecord, root: Path) -> list[tuple[Path, Path]]:
    pairs = []
    for images, labels in record.options["folders"]:
        for image in sorted((root / images).glob("*.nii*")) if (root / images).is_dir() else []:
            label = root / labels / image.name
            if not image.name.startswith(".") and label.is_file() and _belongs(record, image.name):
                pairs.append((image, label))
    if len(pairs) < 3:
        raise UserError(f"task {record.name}: {len(pairs)} labelled volumes in {root}; a split needs three or more")
    return pairs


def _belongs(record: TaskRecord, name: str) -> bool:
    last = record.options.get("last_id")
    digits = "".join(c for c in name.split(".")[0].split("_")[-1] if c.isdigit())
    return last is None or (digits != "" and int(digits) <= last)


def _open_split(record: TaskRecord, pairs: list[tuple[Path, Path]], names: np.ndarray) -> Split:
    for image, label in pairs:
        if _shape(image) != _shape(label):
            raise UserError(f"{image} has {_shape(image)} voxels and its labels {_shape(label)}; get the set again")
    where = [(volume, z) for volume, (_, label) in enumerate(pairs) for z in range(_shape(label)[2])]
    channel = record.options.get("channel")
    scale = partial(_scale, window=record.options.get("window"), percentiles=record.options.get("percentiles"))
    recipe = repr([channel, record.options.get("window"), record.options.get("percentiles")])
    images = VolumeSlices([image for image, _ in pairs], where, partial(load, channel=channel), scale, recipe)
    labels = VolumeSlices(
        [label for _, label in pairs], where, load, partial(_classes, top=len(record.classes)), "labels"
    )
    cases = np.array([volume for volume, _ in where], int)
    headers = [_header(label) for _, label in pairs]
    spacing = np.array([header.spacing for header in headers])
    affine = np.array([header.affine for header in headers])
    masks = SliceMasks(labels)
    return Split(images, masks=masks, case_of_image=cases, subjects=names, spacing=spacing, affine=affine)


@dataclass(frozen=True)
class VolumeHeader:
    """A volume's header: voxels to the patient's right, front and head, and their affine (4, 4) to mm."""

    shape: tuple[int, int, int]
    affine: np.ndarray

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Millimetres between slices, rows and columns of the upright axial slices."""
        columns, rows, slices = (float(np.linalg.norm(axis)) for axis in self.affine[:3, :3].T)
        return slices, rows, columns


def _shape(path: Path) -> tuple[int, int, int]:
    """Number of voxels to the patient's right, front and head."""
    return _header(path).shape


def _header(path: Path) -> VolumeHeader:
    """A volume's header without its data; its axes are in the order and direction of right, front and head."""
    nibabel = require("nibabel", "data")
    try:
        image = nibabel.load(path)
        directions = nibabel.io_orientation(image.affine)
        order = [int(np.flatnonzero(directions[:, 0] == axis)[0]) for axis in range(3)]
        right, front, head = (int(image.shape[axis]) for axis in order)
        affine = image.affine @ nibabel.orientations.inv_ornt_aff(directions, image.shape[:3])
        return VolumeHeader((right, front, head), np.asarray(affine, float))
    except (OSError, ValueError, IndexError, nibabel.filebasedimages.ImageFileError) as error:
        raise UserError(f"{path} cannot be read as NIfTI ({error}); get the set again") from error


def load(path: Path, channel: int | None = None) -> np.ndarray:
    """A volume's values (X, Y, Z), axes to the patient's right, front and head; `channel` picks one of a series."""
    volume = read_volume(path, max_bytes=MAX_BYTES)
    array: Any = volume.array
    if array.ndim == 4:
        if channel is None and array.shape[3] > 1:
            raise UserError(f"{path} is a series of {array.shape[3]}; the record must say which channel")
        array = array[..., channel or 0]
    if volume.slope == 1.0 and volume.intercept == 0.0:
        return array
    return array * np.float32(volume.slope) + np.float32(volume.intercept)


def _scale(array: np.ndarray, window: list[float] | None, percentiles: list[float] | None) -> np.ndarray:
    """The whole volume as uint8, rotated so that slices are upright: rows to the back, columns to the left."""
    if window is None:
        window = np.percentile(array[::2, ::2, ::2], percentiles or [0, 100]).tolist()
    return _upright(stretch(array, "volume", window[0], window[1]))


def _classes(array: np.ndarray, top: int) -> np.ndarray:
    numbers = np.rint(array).astype(np.int64)
    if numbers.min() < 0 or numbers.max() >= top:
        raise UserError(
            f"a label volume holds {numbers.min()} to {numbers.max()}; the task has classes 0 to {top - 1}"
        )
    return _upright(numbers.astype(np.uint8))


def _upright(array: np.ndarray) -> np.ndarray:
    return array[::-1, ::-1].swapaxes(0, 1)
