"""Decoder of NRRD files (.nrrd, .nhdr): https://teem.sourceforge.net/nrrd/format.html."""

import re
from collections.abc import Iterator
from itertools import takewhile

import numpy as np

from ..errors import UserError, unquoted
from .content import Content, Source
from .metaimage import numbered
from .stored import Stored, header_lines, read_stored

_TYPES = {
    "i1": ("signed char", "int8", "int8_t"), "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"), "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "i8": ("longlong", "long long", "long long int", "signed long long", "signed long long int", "int64", "int64_t"),
    "u8": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
    "f4": ("float",), "f8": ("double",),
}  # fmt: skip
_DTYPE_OF = {name: code for code, names in _TYPES.items() for name in names}
_ENCODINGS = {
    "raw": "raw", "gzip": "zlib", "gz": "zlib", "bzip2": "bz2", "bz2": "bz2", "ascii": "text", "text": "text",
    "txt": "text", "hex": "hex",
}  # fmt: skip
_SIGNS = {"right": 1, "left": -1, "anterior": 1, "posterior": -1, "superior": 1, "inferior": -1}
_LETTERS = {"r": "right", "l": "left", "a": "anterior", "p": "posterior", "s": "superior", "i": "inferior"}
_SPATIAL = ("domain", "space", "???")
_TIMES = ("time", "list")
_COLOURS = ("color", "vector", "none", "complex", "point", "normal")


def read_nrrd(source: Source) -> Content:
    """Read an NRRD volume or picture, whose voxels follow the header or lie in files beside it.

    Raises:
        UserError: damaged, neither a picture nor a volume, or over the limits.
    """
    fields, listed = {}, []
    lines = takewhile(bool, header_lines(source))
    for line in lines:
        if line.startswith(("#", "NRRD000")) or ":=" in line:
            continue
        key, _, value = line.partition(":")
        name = key.strip().lower().replace(" ", "")
        fields[name] = value.strip()
        if name == "datafile" and value.strip().upper().startswith("LIST"):
            listed = [entry for entry in lines if not entry.startswith("#")]
    try:
        stored = _stored(fields, listed)
    except (KeyError, ValueError, IndexError, TypeError) as error:
        raise UserError(f"{source.name}: not a readable NRRD ({unquoted(error)}); check its header") from error
    return read_stored(source, stored)


def _stored(fields: dict[str, str], listed: list[str]) -> Stored:
    if missing := [name for name in ("dimension", "sizes", "type", "encoding") if name not in fields]:
        raise ValueError(f"no {missing[0]}")
    sizes = [int(word) for word in fields["sizes"].split()]
    if len(sizes) != int(fields["dimension"]):
        raise ValueError("its sizes do not fit its dimension")
    if fields["type"].lower() not in _DTYPE_OF or fields["encoding"].lower() not in _ENCODINGS:
        raise ValueError("its type or encoding does not hold numbers")
    columns = _directions(fields, len(sizes))
    directions = {axis: column for axis, column in enumerate(columns) if column is not None}
    spatial = list(directions)[:3]  # a fourth of ITK's is time
    others = [axis for axis in range(len(sizes)) if axis not in spatial]
    if len(spatial) not in (2, 3) or len(others) > 1:
        raise ValueError(f"{len(spatial)} spatial axes of {len(sizes)}")
    colour_axis = others[0] if others and _is_colour(fields, others[0], sizes[others[0]]) else None
    shape = tuple(size for axis, size in enumerate(sizes) if axis != colour_axis)
    affine = np.eye(4)
    for number, axis in enumerate(spatial):
        affine[:3, number] = _signs(fields) * np.append(directions[axis], [0.0] * 3)[:3]
    return Stored(
        shape=shape,
        dtype=np.dtype((">" if fields.get("endian", "little").lower() == "big" else "<")
                       + _DTYPE_OF[fields["type"].lower()]),
        affine=affine,
        encoding=_ENCODINGS[fields["encoding"].lower()],
        files=_files(fields.get("datafile", ""), listed),
        channels=1 if colour_axis is None else sizes[colour_axis],
        channel_axis=colour_axis or 0,
        skip_lines=_count(fields, "lineskip", 0),
        skip_bytes=_count(fields, "byteskip", -1),
        time_axis=others[0] if others and colour_axis is None else None,
    )  # fmt: skip


def _is_colour(fields: dict[str, str], axis: int, size: int) -> bool:
    """Whether an axis counts colours, by its kind; without one, where it is the fastest."""
    kinds = fields.get("kinds", "").lower().split()
    kind = kinds[axis] if kinds else "none" if axis == 0 else "list"
    return size in (1, 3, 4) and any(word in kind for word in _COLOURS)


def _count(fields: dict[str, str], name: str, smallest: int) -> int:
    count = int(fields.get(name) or 0)
    if count < smallest:
        raise ValueError(f"a {name} of {count}")
    return count


def _files(entry: str, listed: list[str]) -> tuple[str, ...]:
    """Names of the data files: one, those that follow LIST, or a printf pattern with first, last and step."""
    parts = entry.split()
    if entry.upper().startswith("LIST"):
        if not listed:
            raise ValueError("lists no file")
        return tuple(listed)
    if "%" in entry and len(parts) >= 4:
        return numbered(parts[0], *(int(word) for word in parts[1:4]))
    return (entry,) if entry else ()


def _directions(fields: dict[str, str], count: int) -> list[np.ndarray | None]:
    """One column of numbers for each spatial axis, None for an axis of channels or time."""
    kinds = fields.get("kinds", "").lower().split() or ["domain"] * count
    if "spacedirections" in fields:
        words = re.findall(r"none|\([^)]*\)", fields["spacedirections"].lower())
        if len(words) != count:
            raise ValueError("its space directions do not fit its dimension")
        return [
            None if word == "none" or kind in _TIMES else np.array([float(x) for x in word[1:-1].split(",")])
            for word, kind in zip(words, kinds, strict=True)
        ]
    spacings = [float(word) for word in fields.get("spacings", "").split()] or [1.0] * count
    spatial = [kind in _SPATIAL for kind in kinds]
    if sum(spatial) > 3:
        spatial = [True, True, True] + [False] * (count - 3)
    axes: Iterator[np.ndarray] = iter(np.eye(3))
    return [
        next(axes) * (spacing if np.isfinite(spacing) and spacing > 0 else 1.0) if is_space else None
        for is_space, spacing in zip(spatial, spacings, strict=True)
    ]


def _signs(fields: dict[str, str]) -> np.ndarray:
    """Signs that turn a direction to RAS+; spaces without anatomical names are taken for DICOM's, as ITK does."""
    words = fields.get("space", "").lower().removesuffix("-time").removesuffix("t").split("-")
    if len(words) == 1 and len(words[0]) == 3 and set(words[0]) <= _LETTERS.keys():
        words = [_LETTERS[letter] for letter in words[0]]
    if len(words) != 3 or not set(words) <= _SIGNS.keys():
        words = ["left", "posterior", "superior"]
    return np.array([_SIGNS[word] for word in words], dtype=float)
