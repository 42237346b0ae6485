"""Readers of inputs: one for files of every format, one each for series, tables of images and videos."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from ..item import Item
from ..limits import Refused
from . import files, hdf5, series, video
from .picture import Picture, Unread


def read(
    source: Path | bytes | list[bytes | Refused], item: Item, raw: Path, views: Sequence[str], size: int
) -> Iterator[Picture | Unread]:
    """Yield the 8-bit pictures of one input in a fixed order, and which of its files could not be read.

    Args:
        source: the file, or the bytes of a member of an archive; for a series in an archive the archive, or the bytes
            of its files in order.
        item: its description by the catalogue.
        raw: the raw folder, to which the paths of a DICOM series are relative.
        views: anatomical views to slice volumes along.
        size: side of the rows in pixels; a decoder may shrink to twice this.

    Raises:
        Refused, UserError, or what a decoder raises; see `limits.refusal`.
    """
    if item.kind == "dicom_series" or isinstance(source, list):
        yield from series.read(source, item, raw, views, size)
    elif item.kind == "hdf5":
        yield from hdf5.read_hdf5(source, item.member, item.row, item.intensity, views, size)
    elif item.kind == "video":
        yield from video.read(source, item.member or item.path, item.intensity, item.fps)
    else:
        beside = files.beside(source, item, raw)
        for picture in files.read(source, item.member or item.path, beside, item.intensity, views, size):
            yield replace(picture, view=item.view) if item.view and picture.view == "2d" else picture
