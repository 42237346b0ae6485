"""HDF5 files of many images: one item per row (PatchCamelyon), per data set (ISIC 2024), or a stack (fastMRI)."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from biovfm_hf.errors import require

from ..item import Item


def table_rows(item: Item, file: Path, key: str | None) -> Iterator[Item]:
    """One item per row of the image array `key` (rows, height, width[, channels])."""
    with require("h5py", "data").File(file, "r") as opened:
        for row in range(_array(opened, key, 3).shape[0]):
            yield replace(item, member=key, options={**(item.options or {}), "row": row})


def encoded_images(item: Item, file: Path, key: str | None) -> Iterator[Item]:
    """One item per dataset of the root group, each the bytes of an encoded image, in the order of their names."""
    with require("h5py", "data").File(file, "r") as opened:
        for name in opened:
            yield replace(item, member=name)


def stack(item: Item, file: Path, key: str | None) -> Iterator[Item]:
    """One item: the array `key` (slices, height, width) of reconstructed magnitudes; `key` may name alternatives."""
    with require("h5py", "data").File(file, "r") as opened:
        for name in (key or "").split("|"):
            if name in opened:
                _array(opened, name, 3)
                yield replace(item, member=name)
                return
    yield replace(item, excluded=f"no dataset {key} in the HDF5 file (k-space without a reconstruction)")


def _array(opened: Any, key: str | None, dimensions: int) -> Any:
    array = opened.get(key)
    if not hasattr(array, "shape") or len(array.shape) < dimensions:
        raise ValueError(f"no image array {key!r} in the HDF5 file")
    return array
