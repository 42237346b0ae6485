"""Estimated costs of an input: bytes of rows, to balance shards, and seconds, to balance workers."""

from collections.abc import Sequence

import numpy as np

from ..item import Item

_ROW_BYTES = 60_000  # rows of 2D images are seldom larger
_VIDEO_SHARE = 8  # bytes of video per byte of sampled frames, a guess
_SERIES_FILE = 300_000  # bytes of rows for each slice of a series, of three views
# Seconds on one core of an EPYC for each kind, from docs/dataset.md
_PER_INPUT, _PER_EXCLUDED = 1e-3, 1e-5
_PER_IMAGE_BYTE, _PER_VOLUME_BYTE, _PER_PACKED_BYTE = 8e-9, 2e-8, 4e-8
_PER_SERIES_FILE = 4e-3


def row_bytes(item: Item) -> int:
    """Bytes of rows that an input will make."""
    if item.kind == "dicom_series" and not item.excluded:
        return _SERIES_FILE * len(item.files or item.members)
    return file_bytes(item, [0 if item.row is not None else item.size or 0])[0]


def file_bytes(template: Item, sizes: Sequence[int]) -> list[int]:
    """Bytes of rows from files of these sizes that otherwise equal the template."""
    if template.excluded:
        return [0] * len(sizes)
    if template.kind == "image" or template.row is not None:
        return [(size if size < _ROW_BYTES else _ROW_BYTES) if size else _ROW_BYTES // 2 for size in sizes]
    if template.kind == "video":
        return [size // _VIDEO_SHARE for size in sizes]
    return list(sizes) if template.path.endswith(".gz") else [size // 2 for size in sizes]


def seconds(item: Item) -> float:
    """Seconds of one core that an input will take."""
    if item.kind == "dicom_series" and not item.excluded:
        return _PER_INPUT + _PER_SERIES_FILE * len(item.files or item.members)
    return float(file_seconds(item, [0 if item.row is not None else item.size or 0])[0])


def file_seconds(template: Item, sizes: Sequence[int] | np.ndarray) -> np.ndarray:
    """Seconds of one core, float64 (n,), for files of these sizes that otherwise equal the template."""
    if template.excluded:
        return np.full(len(sizes), _PER_EXCLUDED)
    each = _PER_IMAGE_BYTE
    if template.kind == "volume":
        each = _PER_PACKED_BYTE if (template.member or template.path).endswith(".gz") else _PER_VOLUME_BYTE
    return _PER_INPUT + each * np.asarray(sizes, np.float64)


def streamed(item: Item) -> bool:
    """Whether an input is a member, or a series of members, of an archive that can only be read as a stream."""
    if item.kind == "dicom_series":
        return any(part.offset is None for part in item.members)
    return item.member is not None and item.kind != "hdf5" and item.offset is None


def follows(items: Sequence[Item]) -> list[bool]:
    """For each input, whether its bytes follow those of the one before in one pass over their archive."""
    passed = [item.path if item.member is not None and streamed(item) else None for item in items]
    return [path is not None and path == before for path, before in zip(passed, [None, *passed], strict=False)]
