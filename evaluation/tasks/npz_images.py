"""The images in a member of an .npz file, such as MedMNIST's."""

import shutil
import threading
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from biovfm_hf.errors import UserError
from biovfm_hf.writing.files import atomic_path

from . import npz
from .images import combined_digest, to_rgb


@dataclass
class NpzImages:
    """The images of one member of an .npz file, (N, H, W[, 3]) uint8, read on first use.

    With `as_volumes` the member is (N, D, H, W), and image `i` is slice `i % D` of volume `i // D`. Members larger
    than `spill_bytes` are unpacked once to `spill_dir` and memory-mapped, so that 13 GB sets need little memory.
    """

    path: Path
    member: str
    as_volumes: bool = False
    spill_dir: Path | None = None
    spill_bytes: int = 2 << 30
    _array: Any = field(default=None, repr=False)
    _lock: Any = field(default_factory=threading.Lock, repr=False)

    def _load(self) -> np.ndarray:
        with self._lock:
            if self._array is None:
                self._array = load_npz_member(self.path, self.member, self.spill_dir, self.spill_bytes)
                if self._array.dtype != np.uint8 or self._array.ndim not in (3, 4):
                    raise UserError(
                        f"{self.path}: {self.member} is {self._array.dtype} of shape {self._array.shape}; "
                        "expected uint8 (N, H, W) or (N, H, W, 3)"
                    )
        return self._array

    def __len__(self) -> int:
        array = self._load()
        return array.shape[0] * array.shape[1] if self.as_volumes else array.shape[0]

    def __getitem__(self, index: int) -> np.ndarray:
        array = self._load()
        if self.as_volumes:
            volume, position = divmod(index, array.shape[1])
            return to_rgb(array[volume, position], self.path)
        return to_rgb(array[index], self.path)

    def fingerprint(self) -> str:
        """The checksum of the member in the zip directory, as a digest."""
        info = _zip_info(self.path, self.member)
        return combined_digest(
            [self.member.encode(), info.CRC.to_bytes(4, "little"), info.file_size.to_bytes(8, "little")]
        )


def _zip_info(path: Path, member: str) -> zipfile.ZipInfo:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.getinfo(f"{member}.npy")
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing; put it into the --data folder") from error
    except KeyError as error:
        raise UserError(f"{path} has no member {member}; a MedMNIST file holds {{train,val,test}}_images") from error
    except npz.BROKEN as error:
        raise UserError(f"{path} is not a readable .npz file ({error}); download it again") from error


def load_npz_member(path: Path, member: str, spill_dir: Path | None = None, spill_bytes: int = 2 << 30) -> np.ndarray:
    """Read one array of an .npz file; arrays above `spill_bytes` through a memory-mapped copy in `spill_dir`.

    Raises:
        UserError: the file or member does not exist, the archive is broken, or the content is pickled.
    """
    info = _zip_info(path, member)
    if spill_dir is None or info.file_size <= spill_bytes:
        return npz.read(path, member, max_bytes=info.file_size)
    try:
        copy = spill_dir / f"{path.stem}.{member}.{info.CRC:08x}.npy"
        if not copy.exists():
            _unpack(path, info, copy)
        return np.load(copy, mmap_mode="r", allow_pickle=False)
    except npz.BROKEN as error:
        raise UserError(f"{path}: {member} cannot be read ({error}); download the file again") from error


def _unpack(path: Path, info: zipfile.ZipInfo, target: Path) -> None:
    with (
        zipfile.ZipFile(path) as archive,
        archive.open(info) as source,
        atomic_path(target) as temporary,
        temporary.open("wb") as stream,
    ):
        shutil.copyfileobj(source, stream, 1 << 22)
