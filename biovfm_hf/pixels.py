"""A file or an image in memory to an array: the one place that decodes, for the image processor and the builder.

    pixels = decode("scan.dcm")                                     # PNG, JPEG, TIFF, BMP, GIF, WebP, .npy, DICOM ...
    pixels = decode("brain.nii.gz", slice_index=90, axis="axial")   # one slice of a volume
    image = to_uint8(pixels)                                        # (H, W) or (H, W, 3) uint8
    volume = read_volume("brain.nii.gz")                            # all of it, once; then volume.slice(90, "axial")

The code that travels with a model has this file, which reads what Pillow does; all else is read by
`biovfm_hf.decoding`, of this package, and needs the extra `data`. Files are taken for hostile: sizes are checked
before anything is allocated, nothing is unpickled, and every failure is a one-line `UserError`.
"""

import importlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageOps, Jpeg2KImagePlugin, TiffImagePlugin, UnidentifiedImageError, WebPImagePlugin

from .errors import ManyPictures, TooLarge, UserError, one_line, unquoted
from .intensity import PERCENTILES, Intensity, Pixels, Window, percentile_window, to_uint8
from .volumes import AXES, MAX_VOLUME_BYTES, Volume

__all__ = [
    "AXES", "MAX_PIXELS", "MAX_VOLUME_BYTES", "PERCENTILES", "Intensity", "Pixels", "Volume", "Window",
    "decode", "percentile_window", "read_volume", "to_uint8",
]  # fmt: skip

MAX_PIXELS = 89_478_485  # Pillow's own bound: larger images need tiles, not resizing to 224
MAX_SIDE = 1 << 20  # rows or columns: a decoder has a pointer for each row besides its pixels
_MAX_FILE_BYTES = 4 << 30
_MAX_SEQUENTIAL_PIXELS = 20 * MAX_PIXELS  # reaching frame n of a GIF decodes the n frames before it
_TIFF_PHOTOMETRIC = 262
RASTER_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "PPM", "WEBP", "JPEG2000")
# Named, a format must be imported: Pillow loads the rarer ones only when it is left to guess.
_RARER = (Jpeg2KImagePlugin, TiffImagePlugin, WebPImagePlugin)
_DARKEST_UNIT = 1 / 255  # floats that all lie below are no picture scaled to 0..1


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
        slice_index: which slice of a volume, frame of a DICOM file, GIF or video, or page of a TIFF, from 0. Needed
            where there are several.
        axis: "axial", "coronal" or "sagittal", for volumes (see `Volume.slice`).
        time_index: which time point of a 4D series.
        channels: "first" or "last" for an array; None takes last where C is 1, 3 or 4, else first where it is 1 or 3.
        name: what messages call the source; a path's own by default. Its suffix marks DICOM without a preamble.
        max_pixels: most pixels a file may claim; refused before anything is allocated.

    A boolean image, and an array in memory of floats in [0, 1], are taken as 0 black and 1 white, as transformers and
    torchvision have it; floats in a file are stretched as those of a volume are. Colours other than grey and RGB
    become RGB; the orientation in EXIF is applied.

    Raises:
        UserError: the source is not an image, is damaged, over `max_pixels`, or needs a slice_index.
    """
    if isinstance(source, Image.Image):
        check_sides(source.size, name or "the image")  # it may be opened only, and not decoded yet
        return _from_pil(source, name or "the image")
    if hasattr(source, "detach"):  # a torch tensor, without importing torch
        source = source.detach().cpu()
        source = (source.float() if source.dtype.is_floating_point else source).numpy()
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


@contextmanager
def _in_one_line(name: str) -> Iterator[None]:
    """Have what no decoder foresaw of a damaged file told as a UserError, as all else is."""
    try:
        yield
    except (UserError, MemoryError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # libraries raise nearly all types; panics of Rust are no Exception
        raise UserError(f"{name}: cannot be read ({unquoted(error)}); check or fetch the file again") from error


def read_volume(
    source: str | Path | BinaryIO, *, name: str | None = None, max_bytes: int = MAX_VOLUME_BYTES
) -> Volume:
    """Read a volume (NIfTI, Analyze, MGH, NRRD, MetaImage, DICOM of several slices, .npy), keeping its stored dtype.

    Args:
        source: a path, or an open binary file at its start.
        name: what messages call the source; its path by default.
        max_bytes: most bytes the voxels may take; a header that claims more is refused before anything is allocated,
            and no more than claimed is ever decompressed.

    Raises:
        UserError: not a volume, truncated, corrupt, over `max_bytes`, or what reads it is missing.
    """
    name = name or str(getattr(source, "name", source))
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
    """What a file holds: `biovfm_hf.decoding.content.Pages` or a `Volume`."""
    try:
        package = importlib.import_module("biovfm_hf.decoding")
    except ModuleNotFoundError:  # the code of a model folder, on its own
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
        if 1 not in shape:
            raise ManyPictures(
                f"{name}: is a volume of {' x '.join(map(str, shape))} voxels; choose a slice, for instance "
                f"slice_index={shape[2] // 2}, axis='axial'",
                shape[AXES.index(axis)],
            )
        slice_index, axis = 0, AXES[2 - shape[::-1].index(1)]
    try:
        return volume.slice(slice_index, axis, time_index)
    except UserError as error:
        raise UserError(f"{name}: {error}") from None


class _Image:
    """The frames of an image that Pillow opens, as `biovfm_hf.decoding.content.Pages` has them."""

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


def opened_image(file: BinaryIO, name: str, max_pixels: int) -> Image.Image:
    """Open a raster file with Pillow, which reads its header.

    Raises:
        UserError: of no known format, damaged, or over `max_pixels`.
    """
    file.seek(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damage that Pillow then reads past
            image = Image.open(file, formats=RASTER_FORMATS)
    except Image.DecompressionBombError as error:
        raise TooLarge(f"{name}: {reason(error)}; check it, or cut it into tiles") from error
    except Exception as error:  # Pillow's plugins raise nearly every type on damaged files
        raise UserError(f"{name}: not a readable image ({reason(error)}); check or fetch the file again") from error
    check_size(image.size, name, max_pixels)
    return image


def frames_of(image: Image.Image) -> int:
    """How many frames or pages an open image has; of a JPEG with embedded previews the first is the picture."""
    return 1 if image.format == "MPO" else getattr(image, "n_frames", 1)


def page_of(image: Image.Image, number: int | None, name: str, max_pixels: int | None) -> Pixels:
    """Decode one frame or page of an open image; without a number, the one it stands at.

    Raises:
        UserError: there is none of that number, it is damaged, or over `max_pixels`.
    """
    if max_pixels is None:
        max_pixels = MAX_PIXELS
    try:
        if number is not None and image.tell() != number:
            _seek(image, number, name)
        check_size(image.size, name, max_pixels)
        return _from_pil(image, name)
    except (UserError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise TooLarge(f"{name}: {reason(error)}; check it, or cut it into tiles") from error
    except Exception as error:  # Pillow's plugins raise nearly every type on damaged files
        raise UserError(f"{name}: not a readable image ({reason(error)}); check or fetch the file again") from error


def _seek(image: Image.Image, number: int, name: str) -> None:
    work = 0 if image.format == "TIFF" else number * image.size[0] * image.size[1]
    if number < 0 or work > _MAX_SEQUENTIAL_PIXELS:
        raise UserError(f"{name}: slice_index {number} is out of range; choose a smaller one, from 0")
    try:
        image.seek(number)
    except EOFError as error:
        raise UserError(f"{name}: has no frame or page {number}; choose a smaller slice_index") from error


def _from_pil(image: Image.Image, name: str) -> Pixels:
    """Decode a PIL image without ever letting `convert` clip numbers over 255."""
    try:
        # Pillow inverts "white is zero" TIFF of up to 8 bits, not of more, and no floats.
        tags = image.tag_v2 if isinstance(image, TiffImagePlugin.TiffImageFile) else {}
        inverted = image.mode[0] in "IF" and tags.get(_TIFF_PHOTOMETRIC) == 0
        image = ImageOps.exif_transpose(image)
        if image.mode in ("LA", "La"):
            image = image.convert("LA").getchannel(0)
        elif image.mode not in ("1", "L", "RGB", "I", "F") and not image.mode.startswith("I;16"):
            image = image.convert("RGB")
        array = np.asarray(image)
    except (OSError, ValueError, SyntaxError) as error:
        raise UserError(f"{name}: cannot be decoded ({reason(error)}); check or fetch it again") from error
    return replace(as_pixels(array, "last", name), inverted=inverted)


def check_size(size: tuple[int, int], name: str, max_pixels: int) -> None:
    """Refuse an image of more than `max_pixels` pixels, or of too long a side; `size` is columns and rows.

    Raises:
        TooLarge: it is one.
    """
    check_sides(size, name)
    if size[0] * size[1] > max_pixels:
        raise TooLarge(f"{name}: {size[0]} x {size[1]} pixels are over the limit of {max_pixels}; cut it into tiles")


def check_sides(size: tuple[int, int], name: str) -> None:
    """Refuse an image with a side over `MAX_SIDE`; `size` is columns and rows.

    Raises:
        TooLarge: it is one.
    """
    if max(size) > MAX_SIDE:
        raise TooLarge(f"{name}: {size[0]} x {size[1]} pixels; no side may be over {MAX_SIDE}, cut it into tiles")


def as_pixels(array: np.ndarray, channels: str | None, name: str) -> Pixels:
    """Check an array and bring it to (H, W) or (H, W, 3) in native byte order; booleans are black and white.

    Raises:
        UserError: no real numbers, no pixels, or another shape.
    """
    if array.dtype.kind not in "biuf":
        raise UserError(f"{name}: holds {array.dtype}, not real numbers; convert it to integers or floats")
    array = _channels_last(array, channels, name)
    if array.size == 0:
        raise UserError(f"{name}: has no pixels (shape {array.shape}); leave it out")
    if array.dtype == bool:
        return Pixels(array.astype(np.uint8), window=(0.0, 1.0))
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if array.dtype.kind == "f" and (array.dtype.itemsize == 2 or array.dtype.itemsize > 8):
        array = array.astype(np.float32 if array.dtype.itemsize == 2 else np.float64)
    return Pixels(array)


def oriented(array: np.ndarray, orientation: int) -> np.ndarray:
    """Turn an array (H, W[, C]) as the EXIF or TIFF orientation 1 to 8 says (TIFF 6.0, tag 274)."""
    if orientation >= 5:  # rows are columns
        array = array.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return np.ascontiguousarray(array)


def _unit_range(pixels: Pixels) -> Pixels:
    """An array in memory of floats in [0, 1]: 0 is black and 1 white."""
    array = pixels.array
    if array.dtype.kind == "f" and array.min() >= 0.0 and _DARKEST_UNIT < array.max() <= 1.0:
        return replace(pixels, window=(0.0, 1.0))
    return pixels


def _channels_last(array: np.ndarray, channels: str | None, name: str) -> np.ndarray:
    if channels not in (None, "first", "last"):
        raise UserError(f"channels {channels!r}: not known; take 'first' or 'last'")
    if array.ndim == 3:
        if channels is None:
            channels = "last" if array.shape[2] in (1, 3, 4) or array.shape[0] not in (1, 3) else "first"
        if channels == "first":
            array = np.moveaxis(array, 0, 2)
        if array.shape[2] in (1, 3, 4):
            return array[..., 0] if array.shape[2] == 1 else array[..., :3]
    if array.ndim != 2:
        raise UserError(
            f"{name}: shape {array.shape} is not one image (H, W), (H, W, 3) or (3, H, W); give one slice of a volume"
        )
    return array


def reason(error: Exception) -> str:
    """A decoder's message in one short line."""
    if isinstance(error, UnidentifiedImageError):  # its own words show a Python object
        return "its content is of no known image format"
    return one_line(error)
