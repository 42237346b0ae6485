"""What an input will cost, roughly: bytes of rows balance the shards, seconds balance the workers."""

from ..item import Item

_ROW_BYTES = 60_000  # a 2D image seldom makes a larger row
_VIDEO_SHARE = 8  # bytes of video per byte of sampled frames, a guess
_SERIES_FILE = 300_000  # bytes of rows for each slice of a series, of three views
# Seconds of one core of an EPYC, as docs/dataset.md has them for each kind
_PER_INPUT, _PER_EXCLUDED = 1e-3, 1e-5
_PER_IMAGE_BYTE, _PER_VOLUME_BYTE, _PER_PACKED_BYTE = 8e-9, 2e-8, 4e-8
_PER_SERIES_FILE = 4e-3


def row_bytes(item: Item) -> int:
    """Bytes of rows that an input will make."""
    if item.excluded:
        return 0
    size = item.size or 0
    if item.kind == "image" or item.row is not None:
        return min(size, _ROW_BYTES) if size else _ROW_BYTES // 2
    if item.kind == "video":
        return size // _VIDEO_SHARE
    if item.kind == "dicom_series":
        return _SERIES_FILE * len(item.files or item.members)
    return size if item.path.endswith(".gz") else size // 2


def seconds(item: Item) -> float:
    """Seconds of one core that an input will take."""
    if item.excluded:
        return _PER_EXCLUDED
    if item.kind == "dicom_series":
        return _PER_INPUT + _PER_SERIES_FILE * len(item.files or item.members)
    if item.row is not None:
        return _PER_INPUT
    each = _PER_IMAGE_BYTE
    if item.kind == "volume":
        each = _PER_PACKED_BYTE if (item.member or item.path).endswith(".gz") else _PER_VOLUME_BYTE
    return _PER_INPUT + each * (item.size or 0)


def streamed(item: Item) -> bool:
    """Whether an input is a member, or a series of members, of an archive that can only be passed through."""
    if item.kind == "dicom_series":
        return any(part.offset is None for part in item.members)
    return item.member is not None and item.kind != "hdf5" and item.offset is None


def follows(item: Item, before: Item | None) -> bool:
    """Whether the bytes of an input come after those of the one before, in one pass over their archive."""
    return before is not None and item.path == before.path and streamed(item) and streamed(before)
