"""Volumes as cases: a file, or a folder with a DICOM series, represented by slices along one or several axes."""

import threading
from collections import Counter, OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from biovfm_hf.decoding.content import Pages, Source
from biovfm_hf.decoding.dicom import DICOM_SUFFIXES, read_dicom
from biovfm_hf.decoding.files import IMAGE_SUFFIXES, VOLUME_SUFFIXES
from biovfm_hf.decoding.series import group_series, stack_of
from biovfm_hf.decoding.slice_places import Place, read_place, read_places
from biovfm_hf.decoding.stacking import stacked
from biovfm_hf.errors import OptionError, UserError
from biovfm_hf.fitting import with_square_pixels
from biovfm_hf.pixels import Pixels, read_volume, to_uint8
from biovfm_hf.reading.image_files import decode_uint8, holds_dicom, walk
from biovfm_hf.reading.limited import LIMITED
from biovfm_hf.volumes import AXES, MAX_VOLUME_BYTES, Volume, axis_across, believable

from .images import combined_digest, file_digest, to_rgb

_OTHER_SUFFIXES = set(IMAGE_SUFFIXES) - set(DICOM_SUFFIXES)  # of files that are no DICOM
SLICES = 32
AXES_HELP = "axes along which volumes are sliced: axial, coronal, sagittal"
SLICES_HELP = "most slices of a volume along each axis, evenly spread; 0: all"
KEPT = 4  # volumes whose slices stay in memory; threads work on neighbouring ones
PICTURE = ("picture", 0)
"""Stands for the slices of a file that has a volume format but holds a single picture."""
MAX_FILES = 5000  # most files of a series


@dataclass(frozen=True)
class Slicing:
    """The slices that represent a volume: at most `slices` along each of `axes`, evenly spaced; 0 takes all."""

    axes: tuple[str, ...] = ("axial",)
    slices: int = SLICES

    def __post_init__(self) -> None:
        unknown = [axis for axis in self.axes if axis not in AXES]
        if unknown or not self.axes:
            raise OptionError("axes", f"{', '.join(unknown) or 'none'}; give some of {', '.join(AXES)}")

    def __str__(self) -> str:
        return f"{'all' if self.slices == 0 else f'up to {self.slices}'} slices along {', '.join(self.axes)}"

    def chosen(self, shape: tuple[int, int, int]) -> tuple[tuple[str, int], ...]:
        """(axis, index) of each slice of a volume with `shape` voxels along X, Y, Z; `PICTURE` for a picture."""
        if not any(shape):
            return (PICTURE,)
        chosen: list[tuple[str, int]] = []
        across = axis_across(shape)
        for axis in (across,) if across else self.axes:
            count = shape[AXES.index(axis)]
            taken = count if self.slices == 0 else min(self.slices, count)
            chosen += [(axis, (2 * number + 1) * count // (2 * taken)) for number in range(taken)]
        return tuple(chosen)


def is_volume(path: Path) -> bool:
    """Whether a path is a volume: a file by its suffix, or any folder, which must then hold one DICOM series."""
    return path.is_dir() or path.name.lower().removesuffix(".gz").endswith(VOLUME_SUFFIXES)


def find_volumes(folder: Path, series: bool) -> list[Path]:
    """The volumes below a folder: files by their suffix and, with `series`, every folder with DICOM files."""
    files = [path for path, reason in walk(folder) if reason is None]
    volumes = {path for path in files if is_volume(path)}
    if series:
        volumes |= {path.parent for path in files if holds_dicom(path)}
    return sorted(volumes)


def unjoined_slices(folder: Path) -> int:
    """How many DICOM files of one folder, the first below `folder` that has such, would form a volume; 0 if none."""
    files = (path for path, reason in walk(folder) if reason is None and path.suffix.lower() not in _OTHER_SUFFIXES)
    counts = Counter(path.parent for path in files if not is_volume(path))
    return next(filter(None, (_stack_size(parent) for parent, count in counts.items() if count > 1)), 0)


def _stack_size(folder: Path) -> int:
    try:
        return int(LIMITED.call("DICOM headers", stack_size, folder))
    except UserError:  # no series, or several, or a header that stops its reader
        return 0


def stack_size(folder: Path) -> int:
    """The number of evenly spaced slices in a folder's one DICOM series; 0 if they are not, or it is a single one.

    Raises:
        UserError: there is no series, or several.
    """
    files = series_files(folder)
    return len(files) if len(files) > 1 and stack_of(_places(files)) is not None else 0


@dataclass(frozen=True)
class VolumeCase:
    """One volume (a file, or a folder with one DICOM series) and the slices that represent it."""

    path: Path
    slices: tuple[tuple[str, int], ...]

    @property
    def files(self) -> list[Path]:
        """The files that it is read from."""
        return series_files(self.path) if self.path.is_dir() else [self.path]


def open_cases(paths: Sequence[Path], slicing: Slicing) -> tuple[list[VolumeCase], dict[Path, str]]:
    """The volumes that can be read, with the slices to take, and the reasons for the others.

    Each volume is decoded once to find its size, several at a time.
    """
    with ThreadPoolExecutor() as pool:
        shapes = list(pool.map(_shape, paths))
    cases = [
        VolumeCase(path, slicing.chosen(shape))
        for path, shape in zip(paths, shapes, strict=True)
        if not isinstance(shape, str)
    ]
    return cases, {path: shape for path, shape in zip(paths, shapes, strict=True) if isinstance(shape, str)}


def _shape(path: Path) -> tuple[int, int, int] | str:
    """Voxels along X, Y and Z, or the reason why the volume cannot be read."""
    try:
        x, y, z = LIMITED.call(str(path), volume_shape, path)
        return x, y, z
    except UserError as error:
        return str(error)


def volume_shape(path: Path) -> list[int]:
    """Voxels along X, Y and Z; zeros for a file with a single picture, such as ultrasound in MetaImage."""
    try:
        return [int(count) for count in load_volume(path).array.shape[:3]]
    except UserError:
        if not path.is_dir() and _is_picture(path):
            return [0, 0, 0]
        raise


def _is_picture(path: Path) -> bool:
    try:
        decode_uint8(path, str(path))
    except UserError:
        return False
    return True


def read_slices(path: Path, slices: Sequence[tuple[str, int]]) -> list[np.ndarray]:
    """Some slices of a volume as a radiologist sees them, uint8 (H, W) or (H, W, 3), read in a limited process.

    Raises:
        UserError: the volume cannot be read, or takes too much time or memory.
    """
    pictures: list[np.ndarray] = LIMITED.call(str(path), shown_slices, path, list(slices))
    return pictures


def shown_slices(path: Path, slices: Sequence[tuple[str, int]]) -> list[np.ndarray]:
    """`read_slices` in this process; black and white are percentiles of the whole volume."""
    if [tuple(place) for place in slices] == [PICTURE]:
        return [decode_uint8(path, str(path), square=True)]
    volume = load_volume(path)
    shown = [volume.slice(index, axis) for axis, index in slices]
    return [with_square_pixels(np.ascontiguousarray(to_uint8(pixels)), believable(pixels.spacing)) for pixels in shown]


def load_volume(path: Path) -> Volume:
    """Read a volume file, or the DICOM series in a folder.

    Raises:
        UserError: it cannot be read, it is a time series, or the folder does not hold exactly one series.
    """
    volume = _series(path) if path.is_dir() else read_volume(path)
    if volume.times > 1:
        raise UserError(f"{path}: a series of {volume.times} volumes; give one of them as a file of its own")
    return volume


def series_files(folder: Path) -> list[Path]:
    """The files of the one DICOM series in a folder, in slice order.

    Raises:
        UserError: there is no series, several, or one with too many files.
    """
    names = sorted(file.name for file in folder.iterdir() if file.is_file() and not file.name.startswith("."))
    if len(names) > MAX_FILES:
        raise UserError(f"{folder}: {len(names)} files are over the limit of {MAX_FILES} for one series; split it up")
    series, _ = group_series(read_places((name, partial(_opened, folder / name)) for name in names))
    if len(series) != 1:
        content = f"{len(series)} DICOM series" if series else "no DICOM series"
        raise UserError(f"{folder}: holds {content}; give a folder with the files of one")
    return [folder / name for name in series[0]]


def _opened(path: Path) -> BinaryIO:
    return path.open("rb")


def _series(folder: Path) -> Volume:
    files = series_files(folder)
    stack = stack_of(_places(files))
    if stack is None or stack.times > 1:
        raise UserError(f"{folder}: its slices do not form one evenly spaced volume; convert it to NIfTI")
    return stacked([partial(_slice, path) for path in files], stack, str(folder), MAX_VOLUME_BYTES)[0]


def _places(files: Sequence[Path]) -> list[Place]:
    places = []
    for path in files:
        with path.open("rb") as file:
            places.append(read_place(file))
    return places


def _slice(path: Path) -> Pixels:
    with path.open("rb") as file:
        content = read_dicom(Source(file, str(path)))
        pixels = content.page(0) if isinstance(content, Pages) else None
        if pixels is None:
            raise UserError(f"{path}: is not a single slice; leave it out")
        return pixels


@dataclass
class CaseSlices:
    """The slices of several volumes, one volume after another; `case_of_image` (N,) is the volume of each slice."""

    cases: Sequence[VolumeCase]
    _kept: Any = field(default_factory=OrderedDict, repr=False)
    _lock: Any = field(default_factory=threading.Lock, repr=False)

    def __post_init__(self) -> None:
        counts = [len(case.slices) for case in self.cases]
        self.case_of_image = np.repeat(np.arange(len(counts)), counts)
        self._starts = np.cumsum([0, *counts])

    def __len__(self) -> int:
        return len(self.case_of_image)

    def __getitem__(self, index: int) -> np.ndarray:
        number = int(self.case_of_image[index])
        return to_rgb(self._slices(number)[index - int(self._starts[number])], self.cases[number].path)

    def _slices(self, number: int) -> list[np.ndarray]:
        with self._lock:
            if number not in self._kept:
                self._kept[number] = read_slices(self.cases[number].path, self.cases[number].slices)
                if len(self._kept) > KEPT:
                    self._kept.popitem(last=False)
            slices: list[np.ndarray] = self._kept[number]
        return slices

    def fingerprint(self) -> str:
        """A digest of every volume's content and of the chosen slices."""
        files = [file_digest(file) for case in self.cases for file in case.files]
        return combined_digest([repr([case.slices for case in self.cases]).encode(), *files])
