"""Decodes a file or an image in memory to an array, for the image processor and the builder alike.

    pixels = decode("scan.dcm")                                     # PNG, JPEG, TIFF, BMP, GIF, WebP, .npy, DICOM ...
    pixels = decode("brain.nii.gz", slice_index=90, axis="axial")   # one slice of a volume
    image = to_uint8(pixels)                                        # (H, W) or (H, W, 3) uint8
    volume = read_volume("brain.nii.gz")                            # all of it, once; then volume.slice(90, "axial")

This file travels with a model's code and reads the formats that Pillow reads. `biovfm_hf.decoding`, in this package,
reads all others and needs the extra `data`. Files are not trusted: sizes are checked before anything is allocated,
nothing is unpickled, and every failure is a one-line `UserError`.
"""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from .errors import ManyPictures, TooLarge, UserError, unquoted
from .intensity import PERCENTILES, Intensity, Pixels, Window, percentile_window, to_uint8
from .pictures import (
    MAX_PIXELS,
    as_pixels,
    check_sides,
    frames_of,
    from_pil,
    opened_image,
    page_of,
    quiet_decoders,
)
from .volumes import AXES, MAX_VOLUME_BYTES, Volume

__all__ = [
    "AXES", "MAX_PIXELS", "MAX_VOLUME_BYTES", "PERCENTILES", "Intensity", "Pixels", "Volume", "Window",
    "decode", "percentile_window", "read_volume", "to_uint8",
]  # fmt: skip

_MAX_FILE_BYTES = 4 << 30
_DARKEST_UNIT = 1 / 255  # floats that are all below this are not a picture scaled to 0..1


def decode(
    source: Any,
    *,
    slice_index: int | None = None,
    axis: str = "axial",
    time_index: int | None = None,
    channels: str | None = None,
    name: str | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Pixels:
    """Decode one image.

    Args:
        source: a path; a file's bytes; a PIL image of any mode; a numpy array or torch tensor (H, W), (H, W, C) or
            (C, H, W) with C of 1, 3 or 4 (alpha, which is dropped). A file is recognised by its content.
        slice_index: which slice of a volume, frame of a DICOM file, GIF or video, or page of a TIFF, from 0. Required
            if there are several.
        axis: "axial", "coronal" or "sagittal", for volumes (see `Volume.slice`).
        time_index: which time point of a 4D series.
        channels: "first" or "last" for an array; None means last if C is 1, 3 or 4, else first if C is 1 or 3.
        name: what messages call the source, by default its path. Its suffix identifies DICOM without a preamble.
        max_pixels: most pixels a file may claim; refused before anything is allocated.

    In a boolean image, and in floats in [0, 1] in memory, 0 is black and 1 white, as in transformers and torchvision;
    floats in a file are stretched like those of a volume. Colours other than grey and RGB become RGB; the orientation
    in EXIF is applied.

    Raises:
        UserError: the source is not an image, is damaged, over `max_pixels`, or needs a slice_index.
    """
    if isinstance(source, Image.Image):
        check_sides(source.size, name or "the image")  # it may be opened but not decoded yet
        pixels = from_pil(source, name or "the image")
        return _unit_range(pixels) if source.format is None else pixels
    if hasattr(source, "detach"):  # a torch tensor, without importing torch
        source = _tensor_array(source)
    if isinstance(source, np.ndarray):
        return _unit_range(as_pixels(source, channels, name or f"array of shape {source.shape}"))
    if isinstance(source, bytes | bytearray | memoryview):
        with _in_one_line(name or "the bytes"):
            content = _content(BytesIO(source), name or "the bytes", None, max_pixels)
            return _of_content(content, slice_index, axis, time_index, name)
    if isinstance(source, str | Path):
        path = _checked_path(source)
        with path.open("rb") as file, _in_one_line(name or str(source)):
            content = _content(file, name or str(source), path.parent, max_pixels)
            return _of_content(content, slice_index, axis, time_index, name or str(source))
    raise UserError(f"{type(source).__name__}: not an image; give a path, bytes, a PIL image, an array or a tensor")


def _tensor_array(tensor: Any) -> np.ndarray:
    try:
        tensor = tensor.detach().cpu()
        return (tensor.float() if tensor.dtype.is_floating_point else tensor).numpy()
    except (NotImplementedError, RuntimeError, TypeError) as error:
        what = f"a tensor on {tensor.device}, {tensor.layout}"
        raise UserError(f"{what}: has no numbers to read ({unquoted(error)}); give a dense one with data") from error


@contextmanager
def _in_one_line(name: str) -> Iterator[None]:
    """Turn unforeseen exceptions on damaged files into a UserError, and keep warnings quiet."""
    quiet_decoders()
    try:
        yield
    except (UserError, MemoryError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # libraries raise nearly all types; a Rust panic is not an Exception
        raise UserError(f"{name}: cannot be read ({unquoted(error)}); check or fetch the file again") from error


def read_volume(
    source: str | Path | BinaryIO, *, name: str | None = None, max_bytes: int = MAX_VOLUME_BYTES
) -> Volume:
    """Read a volume, keeping its stored dtype.

    It may have any format in `FORMATS` of `biovfm_hf/decoding/files.py` that can hold a volume, such as NIfTI, or
    DICOM with several slices.

    Args:
        source: a path, or an open binary file at its start.
        name: what messages call the source; its path by default.
        max_bytes: most bytes the voxels may take; a header that claims more is refused before anything is allocated,
            and no more than claimed is ever decompressed.

    Raises:
        UserError: not a volume, truncated, corrupt, over `max_bytes`, or its reader is not installed.
    """
    name = name or str(source if isinstance(source, str | Path) else getattr(source, "name", source))
    with _opened(source) as (file, folder):
        content = _content(file, name, folder, MAX_PIXELS, max_bytes)
        volume = content if isinstance(content, Volume) else content.volume() if content.volume else None
    if volume is None:
        raise UserError(f"{name}: holds no volume; convert it to NIfTI (.nii or .nii.gz), or check its name")
    return volume


@contextmanager
def _opened(source: str | Path | BinaryIO) -> Iterator[tuple[BinaryIO, Path | None]]:
    if not isinstance(source, str | Path):
        yield source, None
        return
    path = _checked_path(source)
    with path.open("rb") as file:
        yield file, path.parent


def _content(
    file: BinaryIO, name: str, folder: Path | None, max_pixels: int, max_bytes: int = MAX_VOLUME_BYTES
) -> Any:
    """A file's content: `biovfm_hf.decoding.content.Pages` or a `Volume`."""
    try:
        package = importlib.import_module("biovfm_hf.decoding")
    except ModuleNotFoundError:  # the code in a model folder, without this package
        image = opened_image(file, name, max_pixels)
        return _Image(image, name, max_pixels)
    return package.open_content(file, name, folder=folder, max_pixels=max_pixels, max_bytes=max_bytes)


def _of_content(content: Any, index: int | None, axis: str, time_index: int | None, name: str | None) -> Pixels:
    name = name or "the bytes"
    if not isinstance(content, Volume) and content.volume and axis != "axial":
        content = content.volume() or content
    if isinstance(content, Volume):
        return _of_volume(content, name, index, axis, time_index)
    last = content.count - 1
    if index is None and last:
        remedy = f"choose one with slice_index=0 to {last}"
        raise ManyPictures(f"{name}: holds {content.count} {content.word}s; {remedy}", content.count)
    if not 0 <= (index or 0) <= last:
        raise UserError(
            f"{name}: slice_index out of range: has no {content.word} {index}; choose slice_index=0 to {last}"
        )
    pixels = content.page(index or 0)
    if pixels is None:
        raise UserError(f"{name}: {content.word} {index} is of another size than the first; choose another")
    return pixels


def _of_volume(volume: Volume, name: str, slice_index: int | None, axis: str, time_index: int | None) -> Pixels:
    shape = volume.array.shape[:3]
    if slice_index is None:
        if volume.flat is None:
            raise ManyPictures(
                f"{name}: is a volume of {' x '.join(map(str, shape))} voxels; choose a slice, for instance "
                f"slice_index={shape[2] // 2}, axis='axial'",
                shape[AXES.index(axis)],
            )
        slice_index, axis = 0, volume.flat
    try:
        return volume.slice(slice_index, axis, time_index)
    except UserError as error:
        raise UserError(f"{name}: {error}") from None


class _Image:
    """The frames of an image that Pillow opens, in the form of `biovfm_hf.decoding.content.Pages`."""

    word, volume = "frame", None

    def __init__(self, image: Image.Image, name: str, max_pixels: int) -> None:
        self.count = frames_of(image)
        self.page = lambda number: page_of(image, number, name, max_pixels)


def _checked_path(source: str | Path) -> Path:
    path = Path(source)
    try:
        if path.is_dir():
            raise UserError(f"{source}: is a folder; give one image file")
        if not path.is_file():
            raise UserError(
                f"{source}: no such file; give the path of an image (download it first if it is an address)"
            )
        size = path.stat().st_size
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise UserError(f"{str(source)[:200]!r}: not a usable path ({why}); give the path of an image") from error
    if size > _MAX_FILE_BYTES:
        raise TooLarge(f"{source}: {size / 2**30:.1f} GiB is over the limit of 4 GiB for one image; cut it into tiles")
    return path


def _unit_range(pixels: Pixels) -> Pixels:
    """Take floats in [0, 1] in memory as 0 black and 1 white."""
    array = pixels.array
    if array.dtype.kind == "f" and array.min() >= 0.0 and _DARKEST_UNIT < array.max() <= 1.0:
        return replace(pixels, window=(0.0, 1.0))
    return pixels
