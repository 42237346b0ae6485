"""Reads images inside archives by number: WebDataset's tar shards, and zipped folders. Nothing is unpacked.

A tar's headers are read once; an image is then a range of bytes, local or at any address that fsspec reads. The JSON
file that WebDataset stores beside an image (`KEY.json` beside `KEY.jpg`) gives the columns `modality` and `source`.
"""

import json
import logging
import tarfile
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from biovfm_hf.decoding.files import PICTURE_SUFFIXES
from biovfm_hf.errors import UserError
from biovfm_hf.nearest import did_you_mean
from biovfm_hf.reading.groups import check_filter, group_rows

from .files import is_hidden, open_file, owner, unreadable

logger = logging.getLogger(__name__)

_AT_ONCE = 16  # archives listed at the same time
_MOST_BYTES = 2**30  # limit of one file in an archive
_COLUMNS = ("modality", "anatomy", "source")


@dataclass(frozen=True)
class TarSample:
    """Place of an image in its shard, and of the JSON beside it (size 0: none)."""

    shard: str
    name: str
    offset: int
    size: int
    json_offset: int = 0
    json_size: int = 0


class TarImages:
    """The images of WebDataset shards, shard by shard.

    Args:
        shards: addresses of uncompressed tar files.
        filters: column -> the values to keep.
    """

    def __init__(self, shards: Sequence[str], filters: dict[str, list[str]]) -> None:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            self.samples = [sample for part in pool.map(_tar_samples, shards) for sample in part]
        if not self.samples:
            raise UserError(f"{shards[0]}: no image in {len(shards)} tar file(s); they must not be compressed")
        for column, values in filters.items():
            present = self._column(column)
            check_filter(column, values, sorted(set(present.tolist())))
            self.samples = [sample for sample, value in zip(self.samples, present, strict=True) if value in values]

    def __len__(self) -> int:
        return len(self.samples)

    def fetch(self, index: int) -> tuple[bytes, str, str | None]:
        """The image's bytes, its shard and name, and its modality if the JSON beside it states one."""
        sample = self.samples[index]
        data = _read_range(sample.shard, sample.offset, sample.size)
        return data, f"{sample.shard}/{sample.name}", _fields(sample).get("modality") or None

    def group_by(self, column: str) -> dict[str, NDArray[np.int64]]:
        """Image numbers by the values of a column of the JSON files.

        Raises:
            UserError: no JSON file has it.
        """
        return group_rows(self._column(column))

    def _column(self, column: str) -> NDArray[Any]:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            fields = list(pool.map(_fields, self.samples))
        if not any(column in row for row in fields):
            known = sorted({name for row in fields for name in row})
            raise UserError(f"no image has a JSON file with {column!r} beside it{did_you_mean(column, known)}")
        return np.array([row.get(column, "") for row in fields])


class ZipImages:
    """The images of zipped folders, in the order of their names."""

    def __init__(self, archives: Sequence[str]) -> None:
        self.archives = archives
        self.members = [(path, name) for path in archives for name in _zip_names(path)]

    def __len__(self) -> int:
        return len(self.members)

    def fetch(self, index: int) -> tuple[bytes, str, str | None]:
        """The file's bytes, its archive and name, and no modality."""
        path, name = self.members[index]
        archive = _open_zip(path, owner())
        if archive.getinfo(name).file_size > _MOST_BYTES:
            raise UserError(f"{path}/{name} is larger than {_MOST_BYTES >> 30} GiB")
        try:
            return archive.read(name), f"{path}/{name}", None
        except Exception as error:  # damage fails in many classes, those of zlib and lzma among them
            raise unreadable(f"{path}/{name}", error) from error

    def group_by(self, column: str) -> dict[str, NDArray[np.int64]]:
        """A zipped folder has no columns.

        Raises:
            UserError: always.
        """
        raise UserError(f"{self.archives[0]} is a zipped folder of images without a column {column!r}")


def _tar_samples(shard: str) -> list[TarSample]:
    """The images of one shard, each with the JSON file of the same key; in a damaged shard those before the damage."""
    images: list[tarfile.TarInfo] = []
    sidecars: dict[str, tarfile.TarInfo] = {}
    try:
        with open_file(shard) as file, tarfile.open(fileobj=file, mode="r:") as archive:
            for member in archive:
                if not member.isfile() or is_hidden(member.name) or member.size > _MOST_BYTES:
                    continue
                if member.name.lower().endswith(PICTURE_SUFFIXES):
                    images.append(member)
                elif member.name.endswith(".json"):
                    sidecars[_key(member.name)] = member
            file.seek(archive.offset)
            if file.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
                raise tarfile.ReadError("it was cut off")
    except tarfile.TarError as error:
        logger.warning("%s is not a complete tar file (%s); %d of its images are read", shard, error, len(images))
    except Exception as error:  # no damage, but no access: to go on would train on other data than was named
        raise unreadable(shard, error) from error
    return [_sample(shard, image, sidecars.get(_key(image.name))) for image in images]


def _sample(shard: str, image: tarfile.TarInfo, beside: tarfile.TarInfo | None) -> TarSample:
    place = (beside.offset_data, beside.size) if beside else (0, 0)
    return TarSample(shard, image.name, image.offset_data, image.size, *place)


def _key(name: str) -> str:
    """WebDataset's key of a file: its folder, and its name up to the first point."""
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.split(".", 1)[0]


def _fields(sample: TarSample) -> dict[str, str]:
    """The columns that this package knows, from the JSON beside an image."""
    if not sample.json_size:
        return {}
    try:
        row = json.loads(_read_range(sample.shard, sample.json_offset, sample.json_size))
    except ValueError:
        return {}
    row = row if isinstance(row, dict) else {}
    return {name: str(row[name]) for name in _COLUMNS if row.get(name) is not None}


def _read_range(path: str, offset: int, size: int) -> bytes:
    try:
        file = _open_tar(path, owner())
        file.seek(offset)
        data = file.read(size)
    except Exception as error:  # networks fail in many classes
        raise unreadable(path, error) from error
    if len(data) < size:
        raise UserError(f"{path} ends at byte {offset + len(data)}, within an image; it was cut off")
    return data


def _zip_names(path: str) -> list[str]:
    names = _open_zip(path, owner()).namelist()
    kept = (name for name in names if name.lower().endswith(PICTURE_SUFFIXES) and "__MACOSX/" not in name)
    return sorted(name for name in kept if not is_hidden(name))


@lru_cache(maxsize=256)
def _open_tar(path: str, owner: tuple[int, int]) -> Any:
    return open_file(path)


@lru_cache(maxsize=64)
def _open_zip(path: str, owner: tuple[int, int]) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(open_file(path))
    except Exception as error:  # damage and networks fail in many classes
        raise unreadable(path, error) from error
