"""Encoded images by number: of a folder, of a dataset's table, or streamed; from here or from the Hub."""

import os
import re
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from biovfm_hf.errors import UserError, require
from biovfm_hf.nearest import did_you_mean

from ..settings.config import DataConfig
from .decode import read_image
from .stream import NONE_LEFT, cannot_open, check_wanted, name_of, open_stream

_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".dcm")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
TRIES = 20  # images tried in place of a damaged one before the data counts as unreadable


class Images(Protocol):
    """Encoded images by number."""

    def __len__(self) -> int:
        """How many there are."""

    def fetch(self, index: int) -> tuple[bytes, str, str | None]:
        """File bytes, a name for messages, and the modality if it is known."""

    def group_by(self, column: str) -> dict[str, NDArray[np.int64]]:
        """Image numbers by the values of a column."""


class FolderImages:
    """Every image file below a folder, in the order of their paths."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.paths = sorted(
            str(Path(parent, name).relative_to(folder))
            for parent, _, names in os.walk(folder)
            for name in names
            if name.lower().endswith(_SUFFIXES) and not name.startswith(".")
        )

    def __len__(self) -> int:
        return len(self.paths)

    def fetch(self, index: int) -> tuple[bytes, str, str | None]:
        """The file's bytes, its path, and no modality."""
        path = self.folder / self.paths[index]
        try:
            return path.read_bytes(), str(path), None
        except OSError as error:
            raise UserError(f"{path}: {error.strerror or error}") from error

    def group_by(self, column: str) -> dict[str, NDArray[np.int64]]:
        """A folder of images has no columns.

        Raises:
            UserError: always.
        """
        raise UserError(
            f"{self.folder} is a plain folder of images without a column {column!r}; build a dataset first"
        )


class TableImages:
    """Rows of a `datasets` table that is open on this machine."""

    def __init__(self, table: Any, column: str, rows: NDArray[np.int64] | None = None) -> None:
        self.table = table
        self.rows = rows
        self.has_modality = "modality" in table.column_names
        self.modality_names = getattr(table.features.get("modality"), "names", None)
        self.column = column
        self._view = table.select_columns([column, *(["modality"] if self.has_modality else [])])

    def __len__(self) -> int:
        return len(self.table) if self.rows is None else len(self.rows)

    def fetch(self, index: int) -> tuple[bytes, str, str | None]:
        """The image's bytes, its row as a name, and its modality."""
        row = index if self.rows is None else int(self.rows[index])
        record = self._view[row]
        image, name = record[self.column], f"row {row}"
        if isinstance(image, dict):
            name = f"{name} ({image['path']})" if image.get("path") else name
            image = image["bytes"] if image.get("bytes") is not None else image.get("path")
        if isinstance(image, str):
            try:
                image = Path(image).read_bytes()
            except OSError as error:
                reason = error.strerror or error
                raise UserError(f"row {row}: column {self.column!r} names the file {image}: {reason}") from error
        if not isinstance(image, bytes):
            raise UserError(f"{name}: column {self.column!r} holds no image")
        return image, name, name_of(record.get("modality"), self.modality_names) or None

    def group_by(self, column: str) -> dict[str, NDArray[np.int64]]:
        """Image numbers by the values of `column`.

        Raises:
            UserError: there is no such column.
        """
        values = column_values(self.table, column)
        if self.rows is not None:
            values = values[self.rows]
        return {str(name): np.flatnonzero(values == name) for name in np.unique(values)}


def column_values(table: Any, column: str) -> NDArray[Any]:
    """A text column of a `datasets` table, nulls as "".

    Raises:
        UserError: there is no such column.
    """
    if column not in table.column_names:
        raise UserError(f"the data has no column {column!r}{did_you_mean(column, table.column_names)}")
    names = getattr(table.features[column], "names", None)
    return np.array([name_of(value, names) for value in table[column]])


def open_images(config: DataConfig) -> Images:
    """The images that `config` selects.

    Raises:
        UserError: nothing there, no such config, split or column, no images, only one, or none left by the filters.
    """
    if not config.path:
        raise UserError("no data given; add --data with a dataset folder, a Hub id or a folder of images")
    folder = Path(config.path).expanduser()
    images: Images
    if folder.is_dir() and not _is_dataset(folder):
        images = FolderImages(folder)
        for column in config.wanted:
            images.group_by(column)
        default = DataConfig()
        for name in ("config", "split", "revision", "column", "streaming"):
            if getattr(config, name) != getattr(default, name):
                raise UserError(f"{folder} is a plain folder of images; data.{name} is for datasets, so leave it out")
        if not len(images):
            raise UserError(
                f"no images under {folder}; expected a dataset folder, or files ending in {', '.join(_SUFFIXES)}"
            )
    elif folder.is_dir() or (not folder.exists() and _HUB_ID.fullmatch(config.path)):
        images = open_stream(config) if config.streaming else _open_table(config)
    else:
        what = "is a file" if folder.exists() else "does not exist, and is not a Hub id of the form owner/name"
        raise UserError(f"{config.path} {what}; --data takes a dataset folder, a Hub id or a folder of images")
    if len(images) < 2:
        raise UserError(
            f"{config.path} holds {len(images)} image(s); pretraining compares images and needs many, at least 2"
        )
    _check_readable(images, config)
    return images


def _check_readable(images: Images, config: DataConfig) -> None:
    """Read one image: what goes wrong with every one of them is known before anything is built."""
    first: Exception | None = None
    places = np.linspace(0, len(images) - 1, min(TRIES, len(images))).astype(int).tolist()
    for index in places:
        try:
            read_image(*images.fetch(index)[:2])
            return
        except (UserError, cv2.error) as error:
            first = first or error
    doubt = "" if isinstance(images, FolderImages) else f" (is data.column {config.column!r} the right one?)"
    raise UserError(
        f"{config.path}: none of {len(places)} images tried can be read{doubt}; the first failed because: {first}"
    )


def _is_dataset(folder: Path) -> bool:
    if any((folder / name).is_file() for name in ("dataset_info.json", "dataset_dict.json", "state.json")):
        return True
    return next((path for path in folder.rglob("*.parquet") if path.name != "manifest.parquet"), None) is not None


def _open_table(config: DataConfig) -> TableImages:
    datasets = require("datasets", "train")
    path = str(config.path)
    try:
        if (Path(path) / "state.json").is_file() or (Path(path) / "dataset_dict.json").is_file():
            table = datasets.load_from_disk(path)
            table = table[config.split] if isinstance(table, dict) else table
        else:
            table = datasets.load_dataset(path, config.config, split=config.split, revision=config.revision)
    except Exception as error:  # every kind of mistake and network failure arrives here, in many classes
        raise cannot_open(path, error) from error
    if config.column not in table.column_names:
        found = [name for name, kind in table.features.items() if isinstance(kind, datasets.Image)]
        remedy = f"set data.column to one of its image columns: {', '.join(found)}" if found else "it holds no images"
        raise UserError(f"{path} has no column {config.column!r}; {remedy}")
    try:
        table = table.cast_column(config.column, datasets.Image(decode=False))
    except Exception as error:
        kind = table.features[config.column]
        kind = getattr(kind, "dtype", kind)
        raise UserError(f"{path}: column {config.column!r} holds {kind}, not images; set data.column") from error
    return TableImages(table, config.column, _selected_rows(table, config))


def _selected_rows(table: Any, config: DataConfig) -> NDArray[np.int64] | None:
    keep = np.ones(len(table), dtype=bool)
    for column, wanted in config.wanted.items():
        values = column_values(table, column)
        check_wanted(column, wanted, [str(name) for name in np.unique(values)])
        keep &= np.isin(values, wanted)
    if not keep.any():
        raise UserError(NONE_LEFT)
    return None if keep.all() else np.flatnonzero(keep)
