"""Lists HDF5 files of many images: an item per row (PatchCamelyon), per data set (ISIC 2024), or a stack (fastMRI)."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from biovfm_hf.decoding.bounds import check_hdf5
from biovfm_hf.errors import UserError, require

from ..item import Item

MAX_ROWS = 5_000_000  # rows of one array: a file may claim any number


def array_rows(item: Item, file: Path, key: str | None) -> Iterator[Item]:
    """One item per row of the image array `key` (rows, height, width[, channels])."""
    with require("h5py", "data").File(file, "r") as opened:
        array = _own(opened, key or "")
        if len(array.shape) < 3 or array.shape[0] > MAX_ROWS:
            raise ValueError(f"{key!r} is not an array of up to {MAX_ROWS:,} images")
        for row in range(array.shape[0]):
            yield item._replace(member=key, row=row)


def encoded_images(item: Item, file: Path, key: str | None) -> Iterator[Item]:
    """One item per data set of the root group, each the bytes of an encoded image, in the order of their names."""
    with require("h5py", "data").File(file, "r") as opened:
        for name in opened:
            try:
                _own(opened, name)
                yield item._replace(member=name)
            except ValueError as error:
                yield item._replace(member=name, excluded=str(error))


def stack(item: Item, file: Path, key: str | None) -> Iterator[Item]:
    """One item: the array `key` (slices, height, width) of reconstructed magnitudes; `key` may name alternatives."""
    with require("h5py", "data").File(file, "r") as opened:
        for name in (key or "").split("|"):
            if name in opened:
                if len(_own(opened, name).shape) < 3:
                    raise ValueError(f"{name!r} is not a stack of slices")
                yield item._replace(member=name)
                return
    yield item._replace(excluded=f"no data set {key} in the HDF5 file (k-space without a reconstruction)")


def _own(opened: Any, name: str) -> Any:
    """The data set `name`, if its values lie in this file: HDF5 can point to any other file of the machine."""
    h5py = require("h5py", "data")
    if not isinstance(opened.get(name, getlink=True), h5py.HardLink):
        raise ValueError("a link inside an HDF5 file")
    data = opened[name]
    if not isinstance(data, h5py.Dataset):
        raise ValueError("no data set")
    try:
        check_hdf5(data, "the data set")
    except UserError as error:
        raise ValueError(str(error)) from error
    return data


EXPANDERS: dict[str, Callable[[Item, Path, str | None], Iterator[Item]]] = {
    "hdf5_rows": array_rows,
    "hdf5_encoded": encoded_images,
    "hdf5_stack": stack,
}
"""Name in a record -> function from (item of the file, the file, the rule's key) to the items inside the file."""
