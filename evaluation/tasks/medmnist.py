"""The MedMNIST sets, 2D and 3D, from their .npz files."""

from pathlib import Path

import numpy as np

from biovfm_hf.errors import UserError, require

from ..statistics.kinds import MULTILABEL
from ..statistics.split import whole_labels
from .layouts import Place, opener
from .npz_images import NpzImages, load_npz_member
from .task import SPLITS, Split, Task, TaskRecord

SIZES = (28, 64, 128, 224)
VOLUME_SIZES = (28, 64)


@opener("medmnist")
def open_medmnist(record: TaskRecord, place: Place) -> Task:
    """Open one MedMNIST set, and download it first if it is missing and `place.fetch` is set.

    Raises:
        UserError: as `read_medmnist` and `download`.
    """
    if place.fetch:
        _fetch_if_missing(record, place.data, place.size)
    return Task(record, read_medmnist(record, place.data, place.size, place.cache))


def _fetch_if_missing(record: TaskRecord, data: Path, size: int | None) -> None:
    try:
        find_npz(record.name, data, size)
    except UserError:
        download(record, data, size)


def read_medmnist(record: TaskRecord, data: Path, size: int | None, cache: Path | None) -> dict[str, Split]:
    """Open one MedMNIST set in `data` at `size` pixels (None: the largest that is present).

    In 3D sets every slice along the first axis is an image, and the volume is the case.

    Raises:
        UserError: the file is missing, or is not in MedMNIST's format.
    """
    path = find_npz(record.name, data, size)
    volumes = bool(record.options.get("volumes"))
    splits = {}
    for name in SPLITS:
        labels = whole_labels(load_npz_member(path, f"{name}_labels"), f"{path}: {name}_labels")
        if record.kind != MULTILABEL:
            if labels.size != len(labels):
                raise UserError(f"{path}: {name}_labels has shape {labels.shape}; expected (N, 1)")
            labels = labels.reshape(-1)
        images = NpzImages(path, f"{name}_images", volumes, cache)
        cases = None
        if volumes:
            depth = len(images) // max(len(labels), 1)
            cases = np.repeat(np.arange(len(labels)), depth)
        splits[name] = Split(images, labels=labels, case_of_image=cases)
    return splits


def find_npz(name: str, data: Path, size: int | None) -> Path:
    """The .npz file of a set in `data` or `data/medmnist`, at `size` pixels or, with None, the largest.

    Raises:
        UserError: there is none.
    """
    sizes = (size,) if size else tuple(reversed(SIZES))
    for pixels in sizes:
        file = f"{name}.npz" if pixels == 28 else f"{name}_{pixels}.npz"
        for folder in (data, data / "medmnist"):
            if (folder / file).is_file():
                return folder / file
    at = f" at {size} pixels" if size else ""
    raise UserError(
        f"task {name}: no {name}*.npz{at} in {data}; download it from https://medmnist.com or give --download"
    )


def download(record: TaskRecord, data: Path, size: int | None) -> None:
    """Download the .npz file of a set to `data` with the medmnist package, which verifies the checksum.

    `size` None takes the largest size: 224 pixels, or 64 for volumes.

    Raises:
        UserError: the package is not installed, there is no network, or the set does not exist in this size.
    """
    medmnist = require("medmnist", "eval")
    name, sizes = record.name, VOLUME_SIZES if record.options.get("volumes") else SIZES
    size = size or sizes[-1]
    if size not in sizes:
        raise UserError(f"task {name} does not come at {size} pixels; give --size {' or '.join(map(str, sizes))}")
    data.mkdir(parents=True, exist_ok=True)
    dataset = getattr(medmnist, medmnist.INFO[name]["python_class"])
    try:
        dataset(split="test", root=str(data), download=True, size=size)
    except (RuntimeError, OSError) as error:
        raise UserError(f"task {name}: the download failed ({error}); fetch {name}.npz by hand into {data}") from error
