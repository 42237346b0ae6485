"""Estimated costs of an input: bytes of rows, to balance shards, and seconds, to balance workers."""

from collections.abc import Sequence

import numpy as np

from ..item import Item

_ROW_BYTES = 60_000  # rows of 2D images are seldom larger
_VIDEO_SHARE = 8  # bytes of video per byte of sampled frames, a guess
_SERIES_FILE = 300_000  # bytes of rows for each slice of a series, of three views
_VOXEL, _PACKED_VOXEL = 2, 1  # bytes of a volume's file per voxel, a guess
# Seconds on one core, measured: images on an EPYC (docs/dataset.md), the others on a Xeon with volumes of 48 x 56 x 40
# to 256 x 256 x 150 voxels. A slice costs much the same whatever its size, since it becomes a picture of one size.
_PER_INPUT, _PER_EXCLUDED = 1e-3, 1e-5
_PER_IMAGE_BYTE, _PER_VOLUME_BYTE, _PER_PACKED_BYTE = 8e-9, 8e-9, 1.5e-8
_PER_SLICE, _PER_SERIES_FILE = 7e-4, 4e-3  # a file of a series stands for its share of the slices of the other views


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
    stored = np.asarray(sizes, np.float64)
    if template.kind != "volume":
        return _PER_INPUT + _PER_IMAGE_BYTE * stored
    if (template.member or template.path).endswith(".gz"):
        return _PER_INPUT + _PER_PACKED_BYTE * stored + _PER_SLICE * _slices(stored / _PACKED_VOXEL)
    return _PER_INPUT + _PER_VOLUME_BYTE * stored + _PER_SLICE * _slices(stored / _VOXEL)


def _slices(voxels: np.ndarray) -> np.ndarray:
    """Slices of cubes with these numbers of voxels along the three axes."""
    return 3 * np.cbrt(voxels)


def streamed(item: Item) -> bool:
    """Whether an input is a member, or a series of members, of an archive that can only be read as a stream."""
    if item.kind == "dicom_series":
        return any(part.offset is None for part in item.members)
    return item.member is not None and item.kind != "hdf5" and item.offset is None


def follows(items: Sequence[Item]) -> list[bool]:
    """For each input, whether its bytes follow those of the one before in one pass over their archive."""
    passed = [item.path if item.member is not None and streamed(item) else None for item in items]
    return [path is not None and path == before for path, before in zip(passed, [None, *passed], strict=False)]
