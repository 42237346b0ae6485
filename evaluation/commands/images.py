"""The images that `biovfm embed` turns into vectors: those of a folder or of a dataset, with their ids."""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from biovfm_hf.cards.provenance import hub_provenance, read_provenance
from biovfm_hf.decoding.files import IMAGE_SUFFIXES
from biovfm_hf.errors import UserError, one_line, require
from biovfm_hf.hub.network import heed_missing_network, is_path
from biovfm_hf.reading.image_files import count_frames, walk
from biovfm_hf.reading.rows import row_ids

from ..tasks.images import FileImages, Images, read_image
from .features import UNRECORDED
from .naming import Naming

BEFORE_CROP = 256 / 224  # resized image per input size: the usual resize before a centre crop
NO_FRAME, EVERY_FRAME = "none", "all"


@dataclass(frozen=True)
class Opened:
    """Opened images with the ids of their cases.

    Attributes:
        images: the images of all cases.
        names: ids of the cases.
        left_out: {id: reason} of files that were excluded before decoding.
        case_of_image: (N,) index of each image's case if there are volumes; None if each image is a case.
        private_sources: ids of the dataset's private sources.
        places: {id: path} of ids that withhold their path.
        why_withheld: why ids withhold their paths, None if they do not.
    """

    images: Images
    names: list[str]
    left_out: dict[str, str] = field(default_factory=dict)
    case_of_image: np.ndarray | None = None
    private_sources: tuple[str, ...] = ()
    places: dict[str, str] = field(default_factory=dict)
    why_withheld: str | None = None

    def shrunk(self, size: int) -> "Opened":
        """A dataset of `open_table` for an encoder's input size, as `open_images` opens it."""
        assert isinstance(self.images, DatasetImages)
        return replace(self, images=replace(self.images, shrink_to=round(size * BEFORE_CROP)))


def open_table(source: str, config: str | None, split: str) -> Opened | None:
    """A dataset on this machine, with images of full size; None if `source` is none.

    It is opened before the encoder is loaded, so that a wrong split or column is told at once.

    Raises:
        UserError: it cannot be opened, or has no images.
    """
    folder = Path(source)
    return _open_dataset(source, config, split, None) if folder.is_dir() and not is_plain_folder(folder) else None


def open_images(
    source: str, config: str | None, split: str, size: int, frames: str = NO_FRAME, leave: Collection[Path] = (),
    naming: Naming | None = None,
) -> Opened:  # fmt: skip
    """Open the images of a folder and its sub-folders, or of a dataset, with their ids.

    Large JPEG files are decoded at the smallest scale (1, 1/2, 1/4, 1/8) whose shorter side is at least `size` times
    `BEFORE_CROP`.

    Args:
        source: a folder of images, or a dataset's folder or Hub id.
        config: configuration of a dataset that has several.
        split: split of a dataset.
        size: the encoder's input size in pixels.
        frames: frames of a file with several: "none" leaves the file out, "all" takes all, a number takes that many.
        leave: paths to skip, namely volumes, folders of series and outputs.
        naming: names the files of a folder; None names them by their paths.

    Raises:
        UserError: there is no image.
    """
    check_source(source)
    folder, shrink_to = Path(source), round(size * BEFORE_CROP)
    if is_plain_folder(folder):
        return _open_folder(naming or Naming(folder, False), shrink_to, frames, set(leave))
    return _open_dataset(source, config, split, shrink_to)


def check_source(source: str) -> None:
    """Refuse a source of images that is not there.

    Raises:
        UserError: it is a file, or a path that does not exist, or a folder without an image.
    """
    folder = Path(source)
    if folder.is_file():
        raise UserError(f"{folder} is a file; give the folder that holds the images, or a dataset")
    if not folder.exists() and is_path(source):
        raise UserError(f"{source}: no such folder")
    if folder.is_dir() and not any(reason is None or path.suffix == ".parquet" for path, reason in walk(folder)):
        raise _no_image(folder)


def _no_image(folder: Path) -> UserError:
    return UserError(f"{folder}: no image file there (of {', '.join(IMAGE_SUFFIXES)}, or DICOM without a suffix)")


def is_plain_folder(folder: Path) -> bool:
    """Whether it is a folder of files, and not a dataset: Parquet files, in `data` or at the top, without images."""
    return folder.is_dir() and not (_has_only_parquet(folder / "data") or _has_only_parquet(folder))


def _has_only_parquet(folder: Path) -> bool:
    tables = False
    for path, reason in walk(folder):
        if reason is None:
            return False
        tables = tables or path.suffix == ".parquet"
    return tables


def _open_folder(naming: Naming, shrink_to: int, frames: str, leave: set[Path]) -> Opened:
    folder = naming.folder
    paths: list[Path] = []
    numbers: list[int | None] = []
    left_out: dict[str, str] = {}
    for path, reason in walk(folder):
        if path in leave or path.parent in leave:
            continue
        if reason is None:
            chosen = _frames(path, frames)
            paths += [path] * len(chosen)
            numbers += chosen
        else:
            left_out[naming(path)] = reason
    if not paths:
        raise _no_image(folder)
    files = [naming(path) for path in paths]
    names = [name if at is None else f"{name}:frame:{at}" for name, at in zip(files, numbers, strict=True)]
    several = None if all(at is None for at in numbers) else numbers
    images = FileImages(paths, shrink_to=shrink_to, frames=several, names=files, square=True)
    return Opened(images, names, left_out, private_sources=(UNRECORDED,))


def _frames(path: Path, frames: str) -> list[int | None]:
    """Indices of the frames of a file to embed; None for a file with a single image."""
    if frames == NO_FRAME:
        return [None]
    try:
        count = count_frames(path)
    except UserError:  # reported when it is decoded
        count = 1
    if count == 1:
        return [None]
    taken = count if frames == EVERY_FRAME else min(int(frames), count)
    return [(2 * number + 1) * count // (2 * taken) for number in range(taken)]


@dataclass(frozen=True)
class DatasetImages:
    """The image column of a dataset, as bytes or paths of files; `shrink_to` is passed on to `read_image`."""

    dataset: Any
    column: str
    shrink_to: int | None

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> np.ndarray:
        stored = self.dataset[int(index)][self.column]
        if stored is None:
            raise UserError(f"row {index}: column {self.column!r} is empty; leave such rows out of the dataset")
        source = Path(stored["path"]) if stored["bytes"] is None else stored["bytes"]
        return read_image(source, self.shrink_to, f"row {index}", square=True)

    def fingerprint(self) -> str:
        """The dataset's own fingerprint of its content and transforms, with the column and `shrink_to`."""
        identity = f"{self.dataset._fingerprint} {self.column} {self.shrink_to}"
        return hashlib.blake2b(identity.encode(), digest_size=16).hexdigest()


def _open_dataset(source: str, config: str | None, split: str, shrink_to: int | None) -> Opened:
    datasets = require("datasets", "eval")
    if not Path(source).exists():
        heed_missing_network()
    try:
        rows = datasets.load_dataset(source, config, split=split)
    except (ValueError, OSError, datasets.exceptions.DatasetsError) as error:
        reason = one_line(error)
        raise UserError(f"{source}: neither a folder of images nor a dataset that can be opened ({reason})") from error
    columns = [name for name, feature in rows.features.items() if isinstance(feature, datasets.Image)]
    if not columns or len(rows) == 0:
        raise UserError(f"{source}: the dataset has no rows with an image column; columns: {', '.join(rows.features)}")
    stored = rows.cast_column(columns[0], datasets.Image(decode=False))
    marks = read_provenance(Path(source)) if Path(source).is_dir() else hub_provenance(source, "dataset")
    images = DatasetImages(stored, columns[0], shrink_to)
    return Opened(images, row_ids(rows), private_sources=marks.private_sources)
