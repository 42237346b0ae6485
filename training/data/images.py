"""Encoded images by number, from a folder, archives, a dataset's table or a stream, local or remote."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from biovfm_hf.decoding.files import PICTURE_SUFFIXES
from biovfm_hf.errors import UserError, require
from biovfm_hf.reading.groups import column_values, group_rows, name_of
from biovfm_hf.reading.rows import kept_rows, read_selection

from ..settings.config import DataConfig
from .archives import TarImages, ZipImages
from .decode import read_image
from .files import find_files, has_files, is_folder_or_name, no_images, read_bytes
from .stream import cannot_open, image_tables, open_stream, split_files

_SAVED = ("dataset_info.json", "dataset_dict.json", "state.json")  # by `Dataset.save_to_disk`
TRIES = 20  # substitutes tried for a damaged image before the data counts as unreadable


class Images(Protocol):
    """Encoded images by number."""

    def __len__(self) -> int:
        """How many there are."""

    def fetch(self, index: int) -> tuple[bytes, str, str | None]:
        """File bytes, a name for messages, and the modality if it is known."""

    def group_by(self, column: str) -> dict[str, NDArray[np.int64]]:
        """Image numbers by the values of a column."""


class FolderImages:
    """Every image file below a folder, or of any list, in the order of their paths."""

    def __init__(self, folder: Path | str, paths: Sequence[str] | None = None) -> None:
        self.folder = folder
        files = find_files(str(folder)) if paths is None else paths
        self.paths = [path for path in files if path.lower().endswith(PICTURE_SUFFIXES)]

    def __len__(self) -> int:
        return len(self.paths)

    def fetch(self, index: int) -> tuple[bytes, str, str | None]:
        """The file's bytes, its path, and no modality."""
        return read_bytes(self.paths[index]), self.paths[index], None

    def group_by(self, column: str) -> dict[str, NDArray[np.int64]]:
        """A folder of images has no columns.

        Raises:
            UserError: always.
        """
        raise UserError(
            f"{self.folder} is a plain folder of images without a column {column!r}; build a dataset first"
        )


class TableImages:
    """Rows of a `datasets` table on this machine."""

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
        return group_rows(values)


def open_images(config: DataConfig) -> Images:
    """The images that `config` selects.

    Raises:
        UserError: no data, no such config, split or column, fewer than two images, or none left by the filters.
    """
    images = _open(config)
    if len(images) < 2:
        raise UserError(
            f"{config.path} holds {len(images)} image(s); pretraining compares images and needs many, at least 2"
        )
    _check_readable(images, config)
    return images


def _open(config: DataConfig) -> Images:
    return _open_files(config) if has_files(config.path) else _open_dataset(config)


def _open_dataset(config: DataConfig) -> Images:
    if config.streaming:
        _refuse_selection(config, "data.streaming")
        return open_stream(config)
    return _open_table(config)


def _open_files(config: DataConfig) -> Images:
    """Images, archives of them, or a dataset, by what there is.

    Raises:
        UserError: there is nothing, or more than one of these.
    """
    files = find_files(str(config.path))
    if _is_dataset(str(config.path), files):
        return _open_dataset(config)
    kinds = _by_kind(str(config.path), files)
    if kinds["Parquet"]:
        return _open_dataset(config)
    shards, archives = kinds["tar"], kinds["zip"]
    if shards or archives:
        _refuse_selection(config, "archives")
    if shards:
        _refuse_dataset_keys(config, "tar shards")
        return TarImages(shards, config.filters)
    images = (
        ZipImages(archives) if archives else FolderImages(str(config.path), _selected_files(config, kinds["image"]))
    )
    for column in (*config.filters, *([config.weight_by] if config.weight_by else [])):
        images.group_by(column)
    _refuse_dataset_keys(config, "a zipped folder of images" if archives else "a plain folder of images")
    if not len(images):
        raise no_images(str(config.path))
    return images


def _selected_files(config: DataConfig, files: Sequence[str]) -> Sequence[str]:
    """The files of a folder that the selection lists by relative path."""
    if not config.selection:
        return files
    below = {os.path.relpath(name, str(config.path)): name for name in files}
    return [below[name] for name in read_selection(config.selection, list(below))]


def _refuse_selection(config: DataConfig, what: str) -> None:
    if config.selection:
        raise UserError(f"{config.path}: data.selection does not work with {what}; use the dataset without streaming")


def _refuse_dataset_keys(config: DataConfig, what: str) -> None:
    default = DataConfig()
    for name in ("config", "split", "revision", "column", "streaming"):
        if getattr(config, name) != getattr(default, name):
            raise UserError(f"{config.path} is {what}; data.{name} is for datasets, so leave it out")


def _check_readable(images: Images, config: DataConfig) -> None:
    """Read one image, so that a fault of all images is known before anything is built."""
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


def _is_dataset(path: str, files: Sequence[str]) -> bool:
    """Whether `datasets` saved the files, or a card or an image folder's table says what the others are."""
    names = {name.rpartition("/")[2] for name in files}
    if "README.md" in names and image_tables(files):
        return True
    return not names.isdisjoint(_SAVED) or ("metadata.parquet" in names and is_folder_or_name(path))


def _by_kind(path: str, files: Sequence[str]) -> dict[str, list[str]]:
    """The files that images may be read from, by what they are: all of one kind.

    Raises:
        UserError: there are several kinds, of which only one would be read.
    """
    kinds = {
        "Parquet": image_tables(files),
        "tar": [name for name in files if name.lower().endswith(".tar")],
        "zip": [name for name in files if name.lower().endswith(".zip")],
        "image": [name for name in files if name.lower().endswith(PICTURE_SUFFIXES)],
    }
    present = {kind: names for kind, names in kinds.items() if names}
    if len(present) > 1:
        counts = " and ".join(f"{len(names)} {kind} file(s)" for kind, names in present.items())
        suffix = Path(next(iter(present.values()))[0]).suffix
        raise UserError(
            f"{path} holds {counts}, and one kind alone can be read; name it by a pattern such as {path}/*{suffix}"
        )
    return kinds


def _open_table(config: DataConfig) -> TableImages:
    datasets = require("datasets", "train")
    path = str(config.path)
    try:
        if not is_folder_or_name(path):
            files = split_files(find_files(path), config.split)
            table = datasets.load_dataset("parquet", data_files={"train": files}, split="train")
        elif (Path(path) / "state.json").is_file() or (Path(path) / "dataset_dict.json").is_file():
            table = datasets.load_from_disk(path)
            table = table[config.split] if isinstance(table, dict) else table
        else:
            table = datasets.load_dataset(path, config.config, split=config.split, revision=config.revision)
    except Exception as error:  # mistakes and network failures raise many exception classes
        raise cannot_open(path, error) from error
    if config.column not in table.column_names:
        columns = [name for name, kind in table.features.items() if _may_hold_images(kind, datasets)]
        remedy = f"set data.column to one of its image columns: {', '.join(columns)}"
        remedy = remedy if columns else f"nor any with images: it has {', '.join(table.column_names)}"
        raise UserError(f"{path} has no column {config.column!r}; {remedy}")
    try:
        table = table.cast_column(config.column, datasets.Image(decode=False))
    except Exception as error:
        kind = table.features[config.column]
        kind = getattr(kind, "dtype", kind)
        raise UserError(f"{path}: column {config.column!r} holds {kind}, not images; set data.column") from error
    return TableImages(table, config.column, kept_rows(table, config.filters, config.selection))


def _may_hold_images(kind: Any, datasets: Any) -> bool:
    """Whether a column's type fits images: decoded by `datasets`, or bytes of files."""
    binary = ("binary", "large_binary", "binary_view")
    if isinstance(kind, dict):
        return any(_may_hold_images(part, datasets) for name, part in kind.items() if name == "bytes")
    return isinstance(kind, datasets.Image) or getattr(kind, "dtype", None) in binary
