"""MetaImage (.mha, .mhd): https://itk.org/Wiki/ITK/MetaIO/Documentation."""

from pathlib import Path
from typing import BinaryIO

import numpy as np

from ..errors import UserError, unquoted
from ..volumes import Volume
from .stored import Stored, header_lines, read_stored

_TYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4", "MET_UINT": "u4",
    "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4", "MET_DOUBLE": "f8",
}  # fmt: skip
_TO_RAS = np.diag([-1.0, -1.0, 1.0])  # MetaImage counts millimetres to the left, posterior and superior


def is_metaimage(start: bytes) -> bool:
    """Whether a file that begins with `start` is a MetaImage."""
    return b"=" in start[:64] and b"NDims" in start


def read_metaimage(file: BinaryIO, folder: Path | None, max_bytes: int) -> Volume:
    """Read a MetaImage, whose voxels follow the header or lie in one file in `folder`.

    Raises:
        UserError: damaged, not a volume, or over the limits.
    """
    fields = {}
    for line in header_lines(file):
        key, _, value = line.partition("=")
        fields[key.strip().lower()] = value.strip()
    try:
        stored = _stored(fields)
    except (KeyError, ValueError, IndexError) as error:
        raise UserError(f"not a MetaImage volume ({unquoted(error)})") from error
    return read_stored(file, stored, folder, max_bytes)


def _stored(fields: dict[str, str]) -> Stored:
    if missing := [name for name in ("ndims", "dimsize", "elementtype", "elementdatafile") if name not in fields]:
        raise ValueError(f"no {missing[0]}")
    dimensions = int(fields["ndims"])
    if dimensions not in (3, 4):
        raise ValueError(f"{dimensions} dimensions")
    shape = tuple(int(word) for word in fields["dimsize"].split())
    if len(shape) != dimensions:
        raise ValueError(f"DimSize has {len(shape)} numbers")
    spacing = _numbers(fields.get("elementspacing") or fields.get("elementsize"), [1.0] * dimensions)[:3]
    identity = np.eye(dimensions).ravel().tolist()
    axes = np.reshape(_numbers(fields.get("transformmatrix"), identity), (dimensions, dimensions))[:3, :3]
    affine = np.eye(4)
    affine[:3, :3] = _TO_RAS @ axes.T * spacing  # the matrix lists the direction of each axis in a row
    big = any(fields.get(key, "").lower() == "true" for key in ("binarydatabyteordermsb", "elementbyteordermsb"))
    local = fields["elementdatafile"]
    return Stored(
        shape=shape,
        dtype=np.dtype((">" if big else "<") + _TYPES[fields["elementtype"]]),
        affine=affine,
        encoding="zlib" if fields.get("compresseddata", "").lower() == "true" else "raw",
        data_file=None if local.upper() == "LOCAL" else local,
        channels=int(fields.get("elementnumberofchannels", 1)),
    )


def _numbers(text: str | None, default: list[float]) -> list[float]:
    return [float(word) for word in text.split()] if text else default
