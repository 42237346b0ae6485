"""Finds and reads files by address: a folder, file or pattern, local or through fsspec (`s3://`, `hf://`, ...)."""

import glob
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec

from biovfm_hf.decoding.files import PICTURE_SUFFIXES
from biovfm_hf.errors import UserError, one_line

_BRACES = re.compile(r"\{([^{}]*)\}")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_NUMBERS = re.compile(r"(\d+)\.\.(\d+)")


def is_remote(address: str) -> bool:
    """Whether fsspec reads the address, not this machine's file system."""
    return "://" in address


def is_pattern(address: str) -> bool:
    """Whether an address stands for several files: `shard-{000..012}.tar`, `data/*.tar`."""
    return any(sign in address for sign in "*?{")


def is_folder_or_name(address: str) -> bool:
    """Whether it is a folder of this machine or a Hub id: `datasets` reads these, and a list of files of the rest."""
    return not (is_remote(address) or is_pattern(address) or Path(address).expanduser().is_file())


def has_files(address: str | None) -> bool:
    """Whether an address of data is one of files; otherwise it is a Hub id.

    Raises:
        UserError: it is neither, or there is none.
    """
    if not address:
        raise UserError("no data given; add --data with a dataset folder, a Hub id, or images in a folder or archive")
    if Path(address).expanduser().exists() or is_remote(address) or is_pattern(address):
        return True
    if _HUB_ID.fullmatch(address):
        return False
    raise UserError(
        f"{address} does not exist, and is not a Hub id of the form owner/name; --data takes a dataset folder, a "
        "Hub id, a folder of images, tar shards, zip files, or an address such as s3://bucket/folder"
    )


def no_images(address: str) -> UserError:
    """The error for data without an image."""
    return UserError(
        f"no images under {address}; expected a dataset folder, tar shards (uncompressed .tar), zip files, or "
        f"files ending in {', '.join(PICTURE_SUFFIXES)}"
    )


def find_files(address: str) -> list[str]:
    """The files at an address in the order of their names: those below a folder, those that a pattern stands for, or
    the file itself. Hidden ones are left out.

    Raises:
        UserError: no such file, no access, or the address needs a package that is not installed.
    """
    return sorted({name for part in _expanded(address) for name in _find(part) if not is_hidden(name)})


def read_bytes(path: str) -> bytes:
    """A file's bytes, from here or from fsspec.

    Raises:
        UserError: it cannot be read.
    """
    try:
        if not is_remote(path):
            return Path(path).read_bytes()
        with open_file(path) as file:
            return file.read()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error
    except Exception as error:  # networks fail in many classes
        raise unreadable(path, error) from error


def unreadable(what: str, error: Exception) -> UserError:
    """The error for something that cannot be read."""
    return UserError(f"cannot read {what}: {one_line(error)}")


def _expanded(address: str) -> Iterator[str]:
    """`x-{00..02}.tar` as its three names, `{a,b}` likewise."""
    braces = _BRACES.search(address)
    if not braces:
        yield address
        return
    numbers = _NUMBERS.fullmatch(braces[1])
    choices = braces[1].split(",")
    if numbers:
        first, last, width = int(numbers[1]), int(numbers[2]), len(numbers[1])
        choices = [str(number).zfill(width) for number in range(first, last + 1)]
    for word in choices:
        yield from _expanded(address[: braces.start()] + word + address[braces.end() :])


def _find(address: str) -> list[str]:
    if not is_remote(address):
        return _find_here(Path(address).expanduser())
    try:
        system, path = fsspec.core.url_to_fs(address)
        names = system.glob(path) if is_pattern(path) else system.find(path)
        if not names and not is_pattern(path):
            system.info(path)  # its error says what is wrong; that of listing does not
        return [system.unstrip_protocol(name) for name in names]
    except FileNotFoundError as error:
        raise UserError(f"{address} does not exist or cannot be reached; check its spelling") from error
    except Exception as error:  # missing packages, networks and rights raise many exception classes
        raise unreadable(address, error) from error


def _find_here(path: Path) -> list[str]:
    if path.is_dir():
        return [os.path.join(parent, name) for parent, _, names in os.walk(path) for name in names]  # noqa: PTH118
    if is_pattern(str(path)):
        return [name for name in glob.glob(str(path), recursive=True) if Path(name).is_file()]  # noqa: PTH207
    if not path.is_file():
        raise UserError(f"{path} does not exist; check its spelling")
    return [str(path)]


def is_hidden(path: str) -> bool:
    """Whether a file's own name begins with a point."""
    return path.rpartition("/")[2].startswith(".")


def open_file(path: str) -> Any:
    """A file open for random access, local or through fsspec."""
    return fsspec.open(path, "rb").open()


def owner() -> tuple[int, int]:
    """This process and thread, the key of caches of open files, since a file has one read position."""
    return os.getpid(), threading.get_ident()
