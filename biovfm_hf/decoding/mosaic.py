"""Volumes of Siemens' mosaics: DICOM files whose one image holds all slices as tiles."""

from collections.abc import Callable
from math import ceil, sqrt
from typing import Any

import numpy as np

from ..intensity import Pixels
from ..volumes import Volume, canonical
from .slice_places import normal, numbers, plane_affine

_MAX_MOSAIC = 1 << 12  # slices
# Private elements of Siemens: group, creator, number in its block.
_NUMBER_IN_MOSAIC, _CSA_HEADER = (0x0019, "SIEMENS MR HEADER", 0x0A), (0x0029, "SIEMENS CSA HEADER", 0x10)


def mosaic_volume(dataset: Any, decoded: Callable[[], Pixels]) -> Volume | None:
    """The volume of a Siemens mosaic: tiles in rows from the top left, black ones at the end left out.

    Slices follow the normal in Siemens' own header, else the normal of the plane. None if the header does not state
    the number of tiles or the plane.

    Args:
        dataset: the file's header.
        decoded: decodes its one image.
    """
    plane, pitch = numbers(dataset.get("ImageOrientationPatient"), 6), numbers(dataset.get("PixelSpacing"), 2)
    count = _tiles(dataset)
    side = ceil(sqrt(count)) if 1 < count <= _MAX_MOSAIC else 0
    if not side or plane is None or pitch is None or int(dataset.Rows) % side or int(dataset.Columns) % side:
        return None
    pixels = decoded()
    rows, columns = pixels.array.shape[0] // side, pixels.array.shape[1] // side
    tiles = pixels.array[: rows * side, : columns * side].reshape(side, rows, side, columns).transpose(0, 2, 1, 3)
    slices = tiles.reshape(side * side, rows, columns)[:count]
    distance = float(dataset.get("SpacingBetweenSlices") or dataset.get("SliceThickness") or pitch[0])
    step = np.array(_csa_numbers(dataset, b"SliceNormalVector", 3) or normal(plane)) * distance
    turned, spacing, _ = canonical(slices.transpose(2, 1, 0), plane_affine(plane, pitch, np.zeros(3), step))
    return Volume(turned, spacing, pixels.slope, pixels.intercept, inverted=pixels.inverted, padding=pixels.padding)


def _tiles(dataset: Any) -> int:
    element = _private(dataset, *_NUMBER_IN_MOSAIC)
    if element is not None and isinstance(element.value, bytes):
        return int.from_bytes(element.value[:2], "little")
    told_in_csa = _csa_numbers(dataset, b"NumberOfImagesInMosaic", 1)
    return int(element.value) if element is not None else int(told_in_csa[0]) if told_in_csa else 0


def _private(dataset: Any, group: int, creator: str, number: int) -> Any:
    """A private element of the block that names its creator (PS3.5 7.8.1), or else of the first; None: absent."""
    try:
        return dataset.private_block(group, creator)[number]
    except KeyError:
        return dataset.get((group, 0x1000 + number))


def _csa_numbers(dataset: Any, name: bytes, count: int) -> tuple[float, ...] | None:
    """Numbers of one element of Siemens' CSA header: a name of 64 bytes, and items of text behind 20 bytes."""
    element = _private(dataset, *_CSA_HEADER)
    data = element.value if element is not None and isinstance(element.value, bytes) else b""
    at = data.find(name + b"\0")
    if at < 0:
        return None
    items = int.from_bytes(data[at + 76 : at + 80], "little")
    at, values = at + 84, []
    for _ in range(min(items, 32)):
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        text = data[at + 16 : at + 16 + length].split(b"\0")[0].strip()
        values += [float(text)] if text else []
        at += 16 + -(-length // 4) * 4
    return numbers(values[:count], count)
