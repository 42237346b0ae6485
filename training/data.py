"""From a dataset folder, a Hub id or a folder of images to batches of crops.

A batch is a pure function of (configuration, batch number): workers only compute, they hold no state. That is what
makes the order independent of their number, and resuming exact.
"""

import logging
import os
import re
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from biovfm_hf.errors import UserError, require

from .augment import Augmenter, Image, pack
from .augment_batch import pack_looks, per_channel
from .config import DataConfig, TrainConfig
from .decode import read_image
from .order import SampleOrder
from .stream import StreamedImages, StreamOrder, cannot_open, name_of, open_stream
from .typed import nearest

logger = logging.getLogger(__name__)

_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".dcm")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_TRIES = 20  # neighbours tried in place of a damaged image before the data counts as unreadable


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
        raise UserError(f"the data has no column {column!r}; {nearest(column, table.column_names)}")
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
        for name in ("modality", "source"):
            if getattr(config, name):
                images.group_by(name)
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
    places = np.linspace(0, len(images) - 1, min(_TRIES, len(images))).astype(int).tolist()
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
    for column in ("modality", "source"):
        wanted = getattr(config, column)
        if wanted:
            values = column_values(table, column)
            present = [str(name) for name in np.unique(values)]
            for name in wanted:
                if name not in present:
                    raise UserError(f"no image has {column} {name!r}; {nearest(name, present)}")
            keep &= np.isin(values, wanted)
    if not keep.any():
        raise UserError("no image is left by data.modality and data.source together")
    return None if keep.all() else np.flatnonzero(keep)


def sample_order(images: Images, config: TrainConfig) -> SampleOrder | StreamOrder:
    """The order that the configuration asks for.

    Raises:
        UserError: weights for groups that do not exist, negative ones, or all zero.
    """
    if isinstance(images, StreamedImages) and config.data.weight_by is None:
        return StreamOrder(images, config.seed, config.batch.size, config.data.stream_lanes)
    if config.data.weight_by is None:
        return SampleOrder(len(images), config.seed)
    groups = images.group_by(config.data.weight_by)
    for name in config.data.weights:
        if name not in groups:
            raise UserError(
                f"data.weights: no image has {config.data.weight_by} {name!r}; {nearest(name, list(groups))}"
            )
    weights = [config.data.weights.get(name, 1.0) for name in groups]
    if min(weights) < 0 or sum(weights) <= 0:
        raise UserError("data.weights must be zero or more, and not all zero")
    return SampleOrder(len(images), config.seed, list(groups.values()), weights)


@dataclass(frozen=True)
class Share:
    """Which part of the row of positions a process reads.

    Micro-batch `m` (counting forward passes) of process `rank` takes positions
    (m * processes + rank) * images ... + images.
    """

    images: int
    processes: int = 1
    rank: int = 0

    def positions(self, micro_batch: int) -> NDArray[np.int64]:
        """Positions of one micro-batch."""
        first = (micro_batch * self.processes + self.rank) * self.images
        return np.arange(first, first + self.images, dtype=np.int64)


class CropBatches(Dataset):
    """Batch number -> `global_crops` (G * B, 3, S, S) uint8, `local_crops`, and what `extra` adds.

    With `augment.on_device` the crops are only cut and flipped, and `global_looks`, `local_looks` say what is to be
    done to them (`augment_batch.apply_looks`).

    Crops are stacked view by view: the first B global crops are every image's first one. `skipped` lists (number of an
    image that could not be read, number of the one that stands in for it, why).
    """

    def __init__(
        self,
        images: Images,
        order: SampleOrder | StreamOrder,
        config: TrainConfig,
        share: Share,
        extra: Callable[[NDArray[np.int64], np.random.Generator], dict[str, torch.Tensor]] | None = None,
    ) -> None:
        self.images = images
        self.order = order
        self.config = config
        self.share = share
        self.extra = extra
        self.augmenter = Augmenter(config.augment)
        self._cache: dict[int, tuple[Image, str | None]] = {}
        self._room = 0

    def set_cache(self, mebibytes: int) -> None:
        """Keep decoded images, or row groups of a stream, in memory: up to this much in each process that reads."""
        if isinstance(self.images, StreamedImages):
            self.images.set_cache(mebibytes)
        else:
            self._room = mebibytes * 2**20

    def __getitem__(self, micro_batch: int) -> dict[str, Any]:
        """The batch of one forward pass."""
        positions = self.share.positions(micro_batch)
        skipped: list[tuple[int, int, str]] = []
        views: list[tuple[list[Any], list[Any]]] = []
        draw = self.augmenter.draw if self.config.augment.on_device else self.augmenter.views
        for position, index in zip(positions.tolist(), self.order.indices(positions).tolist(), strict=True):
            image, modality = self.read(index, skipped)
            random = Random((self.config.seed << 64) + position)
            views.append(draw(image, random, modality))
        batch: dict[str, Any] = self._stacked("global", [large for large, _ in views])
        if self.config.augment.local_count:
            batch |= self._stacked("local", [small for _, small in views])
        batch["skipped"] = skipped
        if self.extra is not None:
            seed = (self.config.seed, micro_batch, self.share.rank)
            batch.update(self.extra(positions, np.random.default_rng(seed)))
        return batch

    def _stacked(self, name: str, views: list[list[Any]]) -> dict[str, torch.Tensor]:
        """Per image its V views of one size, to crops (V * B, 3, S, S) view by view, and the looks not yet applied."""
        ordered = [image[number] for number in range(len(views[0])) for image in views]
        if not self.config.augment.on_device:
            return {f"{name}_crops": torch.from_numpy(pack(ordered))}
        crops, looks = zip(*ordered, strict=True)
        return {f"{name}_crops": torch.from_numpy(pack(list(crops))), f"{name}_looks": pack_looks(looks)}

    def read(self, index: int, skipped: list[tuple[int, int, str]]) -> tuple[Image, str | None]:
        """The decoded image `index` and its modality, or the next readable one, which is noted in `skipped`.

        Raises:
            UserError: many images in a row are unreadable.
        """
        first: Exception | None = None
        for step in range(min(_TRIES, len(self.images))):
            candidate = (index + step) % len(self.images)
            if candidate in self._cache:
                found = self._cache[candidate]
            else:
                try:
                    data, name, modality = self.images.fetch(candidate)
                    found = (read_image(data, name, self.config.data.max_side), modality)
                except (UserError, cv2.error) as failure:
                    first = first or failure
                    continue
                self._remember(candidate, found)
            if step:
                skipped.append((index, candidate, str(first)))
            return found
        raise UserError(f"{_TRIES} images in a row cannot be read, the first because: {first}") from first

    def _remember(self, index: int, found: tuple[Image, str | None]) -> None:
        if found[0].nbytes <= self._room:
            self._room -= found[0].nbytes
            self._cache[index] = found


def normalise(crops: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """(B, 3, S, S) uint8 to float32, (x / 255 - mean) / std per channel."""
    scale = per_channel([1 / (255 * s) for s in std], crops)
    shift = per_channel([-m / s for m, s in zip(mean, std, strict=True)], crops)
    return torch.addcmul(shift, crops.float(), scale)


def loader(dataset: CropBatches, batches: Sequence[int], workers: int, pin: bool) -> Iterator[dict[str, Any]]:
    """The batches of these numbers, in this order, computed ahead by `workers` processes.

    Raises:
        UserError: the data cannot be read; said on every process that meets it, since each reads its own part.
    """
    cv2.setNumThreads(1)
    ready = iter(
        DataLoader(
            dataset,
            sampler=batches,
            batch_size=None,
            num_workers=workers,
            pin_memory=pin,
            prefetch_factor=2 if workers else None,
            worker_init_fn=_quiet_worker,
        )
    )
    while True:
        try:
            batch = next(ready)
        except StopIteration:
            return
        except UserError as error:  # from a worker it arrives with a traceback as its text
            words = str(error).strip().splitlines()[-1].removeprefix("biovfm_hf.errors.UserError: ")
            if dataset.share.rank:
                logger.error("process %d: %s", dataset.share.rank, words)
            raise UserError(words) from error
        yield batch


def _quiet_worker(_: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the main process, which then ends its workers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    cv2.setNumThreads(1)
    torch.set_num_threads(1)


def choose_workers(config: DataConfig, processes_here: int) -> int:
    """Loader processes for one training process: as configured, or the cores that are left, at most 12."""
    if config.workers >= 0:
        return config.workers
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(0, min(12, cores // processes_here - 1))
