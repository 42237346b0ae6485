"""NRRD (.nrrd, .nhdr): https://teem.sourceforge.net/nrrd/format.html."""

import re
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ..errors import UserError, unquoted
from ..volumes import Volume
from .stored import Stored, header_lines, read_stored

_TYPES = {
    "i1": ("signed char", "int8", "int8_t"), "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"), "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "i8": ("longlong", "long long", "long long int", "signed long long", "int64", "int64_t"),
    "u8": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
    "f4": ("float",), "f8": ("double",),
}  # fmt: skip
_DTYPE_OF = {word: code for code, words in _TYPES.items() for word in words}
_ENCODINGS = {"raw": "raw", "gzip": "zlib", "gz": "zlib", "bzip2": "bz2", "bz2": "bz2"}
_SIGNS = {"right": 1, "left": -1, "anterior": 1, "posterior": -1, "superior": 1, "inferior": -1}
_LETTERS = {"r": "right", "l": "left", "a": "anterior", "p": "posterior", "s": "superior", "i": "inferior"}


def read_nrrd(file: BinaryIO, folder: Path | None, max_bytes: int) -> Volume:
    """Read an NRRD volume, whose voxels follow the header or lie in one file in `folder`.

    Raises:
        UserError: damaged, not a volume, or over the limits.
    """
    fields = {}
    for line in header_lines(file)[1:]:
        if line.startswith("#") or ":=" in line:
            continue
        key, _, value = line.partition(":")
        fields[key.strip().lower()] = value.strip()
    try:
        stored = _stored(fields)
    except (KeyError, ValueError, IndexError) as error:
        raise UserError(f"not an NRRD volume ({unquoted(error)})") from error
    return read_stored(file, stored, folder, max_bytes)


def _stored(fields: dict[str, str]) -> Stored:
    if missing := [name for name in ("dimension", "sizes", "type", "encoding") if name not in fields]:
        raise ValueError(f"no {missing[0]}")
    sizes = [int(word) for word in fields["sizes"].split()]
    if len(sizes) != int(fields["dimension"]) or any(key in fields for key in ("line skip", "byte skip")):
        raise ValueError("its sizes do not fit its dimension, or it skips bytes")
    columns = _directions(fields, len(sizes))
    spatial = [axis for axis, column in enumerate(columns) if column is not None]
    if len(spatial) != 3 or spatial != list(range(spatial[0], spatial[0] + 3)) or len(sizes) > 4:
        raise ValueError(f"{len(spatial)} spatial axes of {len(sizes)}")
    affine = np.eye(4)
    affine[:3, :3] = _signs(fields.get("space", "left-posterior-superior"))[:, None] * np.stack(
        [column for column in columns if column is not None], axis=1
    )
    channels = sizes[0] if spatial[0] == 1 else 1
    big = fields.get("endian", "little").lower() == "big"
    return Stored(
        shape=tuple(sizes[1:] if spatial[0] == 1 else sizes),
        dtype=np.dtype((">" if big else "<") + _DTYPE_OF[fields["type"].lower()]),
        affine=affine,
        encoding=_ENCODINGS[fields["encoding"].lower()],
        data_file=fields.get("data file") or fields.get("datafile"),
        channels=channels,
    )


def _directions(fields: dict[str, str], count: int) -> list[np.ndarray | None]:
    """One column of three numbers for each spatial axis, None for an axis of channels or time."""
    if "space directions" in fields:
        words = re.findall(r"none|\([^)]*\)", fields["space directions"])
        if len(words) != count:
            raise ValueError("its space directions do not fit its dimension")
        return [None if word == "none" else np.array([float(x) for x in word[1:-1].split(",")]) for word in words]
    kinds = fields.get("kinds", "").split() or ["domain"] * count
    spacings = [float(word) for word in fields.get("spacings", "").split()] or [1.0] * count
    axes = iter(np.eye(3))
    spatial = [kind.lower() in ("domain", "space", "???") for kind in kinds]
    if sum(spatial) > 3:
        spatial = [True, True, True] + [False] * (count - 3)
    return [
        next(axes) * (spacing if np.isfinite(spacing) and spacing > 0 else 1.0) if is_space else None
        for is_space, spacing in zip(spatial, spacings, strict=True)
    ]


def _signs(space: str) -> np.ndarray:
    words = space.lower().split("-")
    if len(words) == 1:
        words = [_LETTERS[letter] for letter in words[0]]
    return np.array([_SIGNS[word] for word in words[:3]], dtype=float)
