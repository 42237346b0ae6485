"""One reader per family of formats; `read` sends an input to the one that its content asks for."""

import gzip
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path

from biovfm_hf.image_files import is_dicom

from ..item import Item
from ..limits import MAX_MEMBER_BYTES, TOO_LARGE, Refused
from . import arrays, dicom, raster, video, volume
from .picture import Picture, first_bytes

_VOLUME_NAMES = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd")


def read(source: Path | bytes, item: Item, raw: Path, views: Sequence[str], size: int) -> Iterator[Picture]:
    """Yield the 8-bit pictures of one input in a fixed order.

    Args:
        source: the file, or the bytes of a member of an archive.
        item: what the catalogue says of it.
        raw: the raw folder, which the files of a DICOM series are relative to.
        views: anatomical views to slice volumes along.
        size: side of the rows to be made; a decoder may shrink by itself down to twice this.

    Raises:
        Refused, UserError, or what a decoder raises; see `limits.refusal`.
    """
    options = item.options or {}
    setting = item.intensity
    name = item.member or item.path
    start = first_bytes(source, 512) if item.kind != "dicom_series" else b""
    if item.kind == "dicom_series":
        files = [raw / file for file in options.get("files", ())]
        return dicom.read_series(files, name, setting, views, size)
    if item.kind == "hdf5":
        return arrays.read_hdf5(source, item.member, options.get("row"), setting, size)
    if item.kind == "video":
        return video.read(source, setting, options.get("fps"))
    if start[:6] == b"\x93NUMPY":
        return arrays.read_npy(source, setting)
    if start.startswith(b"MATLAB 5.0") or start.startswith(b"MATLAB 7.3"):
        return arrays.read_mat(source, setting)
    if item.kind == "volume" or name.lower().endswith(_VOLUME_NAMES):
        if is_dicom(start):
            return dicom.read(source, name, setting, size)
        return volume.read(source, name, setting, views)
    if dicom.is_dicom_file(start, name):
        return dicom.read(source, name, setting, size)
    if start[:2] == b"\x1f\x8b":
        return raster.read(_gunzipped(source), name, setting, size)
    return _with_view(raster.read(source, name, setting, size), item.view)


def _with_view(pictures: Iterator[Picture], view: str | None) -> Iterator[Picture]:
    for picture in pictures:
        yield replace(picture, view=view) if view and picture.view == "2d" else picture


def _gunzipped(source: Path | bytes) -> bytes:
    with gzip.open(BytesIO(source) if isinstance(source, bytes) else source) as file:
        try:
            data = file.read(MAX_MEMBER_BYTES + 1)
        except (EOFError, zlib.error) as error:
            raise OSError(f"damaged gzip data ({error})") from error
    if len(data) > MAX_MEMBER_BYTES:
        raise Refused(TOO_LARGE, f"inflates to more than {MAX_MEMBER_BYTES / 2**20:.0f} MiB")
    return data
