"""Decoder of MetaImage files (.mha, .mhd): https://itk.org/Wiki/ITK/MetaIO/Documentation."""

from collections.abc import Iterator

import numpy as np

from ..errors import UserError, unquoted
from .content import Content, Source
from .stored import Stored, header_lines, read_stored

_TYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4", "MET_UINT": "u4",
    "MET_LONG": "i4", "MET_ULONG": "u4", "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}  # fmt: skip
_TO_RAS = np.diag([-1.0, -1.0, 1.0])  # MetaImage counts millimetres to the left, posterior and superior
_MAX_FILES = 20_000


def is_metaimage(start: bytes) -> bool:
    """Whether a file that begins with `start` is a MetaImage."""
    return b"=" in start[:64] and b"NDims" in start


def read_metaimage(source: Source) -> Content:
    """Read a MetaImage, whose voxels follow the header or lie in files beside it.

    Raises:
        UserError: damaged, neither a picture nor a volume, or over the limits.
    """
    fields, lines = {}, header_lines(source)
    for line in lines:
        key, _, value = line.partition("=")
        fields[key.strip().lower()] = value.strip()
        if key.strip().lower() == "elementdatafile":
            break
    try:
        stored = _stored(fields, lines)
    except (KeyError, ValueError, IndexError, TypeError) as error:
        raise UserError(f"{source.name}: not a readable MetaImage ({unquoted(error)}); check its header") from error
    if stored.skip_bytes > 0 and not stored.files:
        source.file.seek(0)  # HeaderSize counts from the start of the file
    return read_stored(source, stored)


def _stored(fields: dict[str, str], lines: Iterator[str]) -> Stored:
    if missing := [name for name in ("ndims", "dimsize", "elementtype", "elementdatafile") if name not in fields]:
        raise ValueError(f"no {missing[0]}")
    dimensions = int(fields["ndims"])
    shape = tuple(int(word) for word in fields["dimsize"].split())
    if len(shape) != dimensions:
        raise ValueError(f"DimSize has {len(shape)} numbers")
    kinds = fields.get("kinds", "").lower().split()
    listed = kinds.index("list") if len(kinds) == len(shape) and "list" in kinds else None
    while listed is None and len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    kind = fields["elementtype"].upper().removesuffix("_ARRAY")
    if kind not in _TYPES:
        raise ValueError("unknown ElementType")
    big = any(_is_true(fields.get(key)) for key in ("binarydatabyteordermsb", "elementbyteordermsb"))
    text = fields.get("binarydata", "true").lower() in ("false", "f", "0")
    compressed = "zlib" if _is_true(fields.get("compresseddata")) else "raw"
    return Stored(
        shape=shape,
        dtype=np.dtype((">" if big else "<") + _TYPES[kind]),
        affine=_affine(fields, dimensions),
        encoding="text" if text else compressed,
        files=_files(fields["elementdatafile"], shape, lines),
        channels=int(fields.get("elementnumberofchannels", 1)),
        skip_bytes=int(fields.get("headersize", 0)),
        time_axis=listed,
    )


def _affine(fields: dict[str, str], dimensions: int) -> np.ndarray:
    spacing = _numbers(fields, ("elementspacing", "elementsize"), [1.0] * dimensions)
    identity = np.eye(dimensions).ravel().tolist()
    matrix = _numbers(fields, ("transformmatrix", "orientation", "rotation"), identity)
    used = min(dimensions, 3)
    axes, steps = np.eye(3), np.ones(3)
    axes[:used, :used] = np.reshape(matrix, (dimensions, dimensions))[:used, :used]
    steps[:used] = spacing[:used]
    affine = np.eye(4)
    affine[:3, :3] = _TO_RAS @ axes.T * steps  # the matrix lists the direction of each axis in a row
    return affine


def _files(entry: str, shape: tuple[int, ...], lines: Iterator[str]) -> tuple[str, ...]:
    """Names of the data files: one, the lines that follow LIST, or a printf pattern with first, last and step."""
    parts = entry.split()
    if not parts:
        raise ValueError("ElementDataFile is empty")
    if parts[0].upper() == "LOCAL":
        return ()
    if parts[0].upper() == "LIST":
        depth = int(parts[1].rstrip("Dd")) if len(parts) > 1 else len(shape) - 1
        count = int(np.prod(shape[depth:], dtype=object))
        names = [line for line in (next(lines, "") for _ in range(min(count, _MAX_FILES))) if line]
        if len(names) != count:
            raise ValueError(f"lists {len(names)} of {count} files")
        return tuple(names)
    if "%" in parts[0] and len(parts) >= 3:
        return numbered(parts[0], *(int(word) for word in parts[1:4]))
    return (entry,)


def numbered(pattern: str, first: int, last: int, step: int = 1) -> tuple[str, ...]:
    """Names of numbered files by a printf pattern such as a%03d.raw.

    Raises:
        ValueError: too many files, or not such a pattern.
    """
    head, _, rest = pattern.partition("%")
    digits, _, tail = rest.partition("d")
    count = (last - first) // step + 1 if step else 0
    if not 0 < count <= _MAX_FILES or not (digits == "" or digits.isdigit()) or "d" not in rest or "%" in tail:
        raise ValueError("its pattern of files cannot be followed")
    width = min(int(digits or 0), 20)
    return tuple(f"{head}{str(number).rjust(width, '0' if digits.startswith('0') else ' ')}{tail}"
                 for number in range(first, first + count * step, step))  # fmt: skip


def _is_true(text: str | None) -> bool:
    return (text or "").lower() in ("true", "t", "1")


def _numbers(fields: dict[str, str], names: tuple[str, ...], default: list[float]) -> list[float]:
    text = next((fields[name] for name in names if fields.get(name)), None)
    return [float(word) for word in text.split()] if text else default
