"""A file or an image in memory to an array: the one place that decodes, for the image processor and the builder.

    pixels = decode("scan.dcm")                                     # PNG, JPEG, TIFF, BMP, GIF, PPM, WebP, .npy, DICOM
    pixels = decode("brain.nii.gz", slice_index=90, axis="axial")   # one slice of a volume
    image = to_uint8(pixels)                                        # (H, W) or (H, W, 3) uint8
    volume = read_volume("brain.nii.gz")                            # all of it, once; then volume.slice(90, "axial")

Reading DICOM, NIfTI and unusual TIFF needs the extra `data`. Files are taken for hostile: sizes are checked before
anything is allocated, nothing is unpickled, and every failure is a one-line `UserError`.
"""

from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageOps, TiffImagePlugin, UnidentifiedImageError

from .errors import UserError, one_line, require
from .intensity import PERCENTILES, Intensity, Pixels, Window, percentile_window, to_uint8
from .volumes import AXES, MAX_VOLUME_BYTES, Volume

__all__ = [
    "AXES", "MAX_PIXELS", "MAX_VOLUME_BYTES", "PERCENTILES", "Intensity", "Pixels", "Volume", "Window",
    "decode", "percentile_window", "read_volume", "to_uint8",
]  # fmt: skip

MAX_PIXELS = 89_478_485  # Pillow's own bound: larger images need tiles, not resizing to 224
_MAX_FILE_BYTES = 4 << 30
_MAX_SEQUENTIAL_PIXELS = 20 * MAX_PIXELS  # reaching frame n of a GIF decodes the n frames before it
_TIFF_BITS, _TIFF_PHOTOMETRIC = 258, 262
_RASTER_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "PPM", "WEBP", "JPEG2000")
_DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")


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
        slice_index: which slice of a volume, frame of a DICOM file or GIF, or page of a TIFF, from 0. Needed where
            there are several.
        axis: "axial", "coronal" or "sagittal", for volumes (see `Volume.slice`).
        time_index: which time point of a 4D series.
        channels: "first" or "last" for an array; None takes last where C is 1, 3 or 4, else first where it is 1 or 3.
        name: what messages call the source; a path's own by default. Its suffix marks DICOM without a preamble.
        max_pixels: most pixels a file may claim; refused before anything is allocated.

    A floating-point image whose values lie in [0, 1], and a boolean one, are taken as 0 black and 1 white.
    16-bit colour PNG keeps its 8 high bits, as Pillow reads it. Colours other than grey and RGB become RGB; the
    orientation in EXIF is applied.

    Raises:
        UserError: the source is not an image, is damaged, over `max_pixels`, or needs a slice_index.
    """
    if isinstance(source, Image.Image):
        return _from_pil(source, name or "the image", slice_index=None, max_pixels=None)
    if hasattr(source, "detach"):  # a torch tensor, without importing torch
        source = source.detach().cpu()
        source = (source.float() if source.dtype.is_floating_point else source).numpy()
    if isinstance(source, np.ndarray):
        return _from_array(source, channels, name or f"array of shape {source.shape}")
    if isinstance(source, bytes | bytearray | memoryview):
        return _from_file(BytesIO(source), name or "the bytes", slice_index, axis, time_index, max_pixels)
    if isinstance(source, str | Path):
        path = _checked_path(source)
        with path.open("rb") as file:
            return _from_file(file, name or str(source), slice_index, axis, time_index, max_pixels)
    raise UserError(f"{type(source).__name__}: not an image; give a path, bytes, a PIL image, an array or a tensor")


def read_volume(
    source: str | Path | BinaryIO, *, name: str | None = None, max_bytes: int = MAX_VOLUME_BYTES
) -> Volume:
    """Read a NIfTI volume (.nii, .nii.gz), keeping its stored dtype.

    Args:
        source: a path, or an open binary file at its start.
        name: what messages call the source; its path by default.
        max_bytes: most bytes the voxels may take; a header that claims more is refused before anything is allocated,
            and no more than claimed is ever decompressed.

    Raises:
        UserError: not NIfTI, truncated, corrupt, over `max_bytes`, or nibabel is missing.
    """
    return _decoder("nifti").read_nifti(source, name=name, max_bytes=max_bytes)


def _decoder(name: str) -> Any:
    """A module of `biovfm_hf.decoding`: the code that travels with a model has this file and not those."""
    return require(f"biovfm_hf.decoding.{name}", "data")


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
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{str(source)[:200]!r}: not a usable path ({reason}); give the path of an image") from error
    if size > _MAX_FILE_BYTES:
        raise UserError(
            f"{source}: {size / 2**30:.1f} GiB is over the limit of 4 GiB for one image; cut it into tiles"
        )
    return path


def _from_file(
    file: BinaryIO, name: str, slice_index: int | None, axis: str, time_index: int | None, max_pixels: int
) -> Pixels:
    start = file.read(352)
    file.seek(0)
    if start[128:132] == b"DICM":
        return _decoder("dicom").read_dicom(file, name, slice_index, max_pixels)
    if start[:2] == b"\x1f\x8b" or start[344:348] == b"n+1\0" or start[4:8] == b"n+2\0":
        return _from_volume(read_volume(file, name=name), name, slice_index, axis, time_index)
    if start[:6] == b"\x93NUMPY":
        return _from_npy(file, name, max_pixels)
    if name.lower().endswith(_DICOM_SUFFIXES):
        return _decoder("dicom").read_dicom(file, name, slice_index, max_pixels)
    return _from_raster(file, name, slice_index, max_pixels)


def _from_volume(volume: Volume, name: str, slice_index: int | None, axis: str, time_index: int | None) -> Pixels:
    shape = volume.array.shape[:3]
    if slice_index is None:
        if 1 not in shape:
            raise UserError(
                f"{name}: is a volume of {' x '.join(map(str, shape))} voxels; choose a slice, for instance "
                f"slice_index={shape[2] // 2}, axis='axial'"
            )
        slice_index, axis = 0, AXES[2 - shape[::-1].index(1)]
    try:
        return volume.slice(slice_index, axis, time_index)
    except UserError as error:
        raise UserError(f"{name}: {error}") from None


def _from_npy(file: BinaryIO, name: str, max_pixels: int) -> Pixels:
    try:
        version = np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read_header(file)
        if dtype.hasobject or np.prod(shape, dtype=object) > 4 * max_pixels:
            raise UserError(
                f"{name}: holds Python objects or shape {shape}, over the limit; save one image as numbers"
            )
        file.seek(0)
        array = np.load(file, allow_pickle=False)
    except (ValueError, EOFError, OSError, TypeError, SyntaxError) as error:
        raise UserError(f"{name}: cannot be read as .npy ({_reason(error)}); save it again with numpy.save") from error
    return _from_array(array, None, name)


def _from_raster(file: BinaryIO, name: str, page: int | None, max_pixels: int) -> Pixels:
    try:
        with Image.open(file, formats=_RASTER_FORMATS) as image:
            bits = image.tag_v2.get(_TIFF_BITS, (8,)) if isinstance(image, TiffImagePlugin.TiffImageFile) else (8,)
            if len(bits) == 1 or max(bits) <= 8:
                return _from_pil(image, name, page, max_pixels)
        return _from_tiff(file, name, page, max_pixels)  # Pillow keeps 8 bits of colours
    except UserError:
        raise
    except Image.DecompressionBombError as error:
        raise UserError(f"{name}: {_reason(error)}; check it, or cut it into tiles") from error
    except Exception as error:  # Pillow's plugins raise nearly every type on damaged files
        file.seek(0)
        if file.read(4) in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            return _from_tiff(file, name, page, max_pixels)
        raise UserError(f"{name}: not a readable image ({_reason(error)}); check or fetch the file again") from error


def _from_pil(image: Image.Image, name: str, slice_index: int | None, max_pixels: int | None) -> Pixels:
    """Decode a PIL image without ever letting `convert` clip numbers over 255."""
    if max_pixels is not None:
        _check_size(image.size, name, max_pixels)
        if image.format != "MPO":  # JPEG with embedded previews: the first is the picture
            _seek(image, name, slice_index)
            _check_size(image.size, name, max_pixels)
    try:
        # Pillow inverts "white is zero" TIFF of up to 8 bits, not of more.
        tags = image.tag_v2 if isinstance(image, TiffImagePlugin.TiffImageFile) else {}
        inverted = image.mode.startswith("I") and tags.get(_TIFF_PHOTOMETRIC) == 0
        image = ImageOps.exif_transpose(image)
        if image.mode in ("LA", "La"):
            image = image.convert("LA").getchannel(0)
        elif image.mode not in ("1", "L", "RGB", "I", "F") and not image.mode.startswith("I;16"):
            image = image.convert("RGB")
        array = np.asarray(image)
    except (OSError, ValueError, SyntaxError) as error:
        if max_pixels is not None:
            raise
        raise UserError(f"{name}: cannot be decoded ({_reason(error)}); check its source") from error
    return replace(_from_array(array, "last", name), inverted=inverted)


def _seek(image: Image.Image, name: str, slice_index: int | None) -> None:
    if slice_index is None:
        if getattr(image, "is_animated", False):
            raise UserError(f"{name}: holds several frames or pages; choose one with slice_index, for instance 0")
        return
    work = 0 if image.format == "TIFF" else slice_index * image.size[0] * image.size[1]
    if slice_index < 0 or work > _MAX_SEQUENTIAL_PIXELS:
        raise UserError(f"{name}: slice_index {slice_index} is out of range; choose a smaller one, from 0")
    try:
        image.seek(slice_index)
    except EOFError as error:
        raise UserError(f"{name}: has no frame or page {slice_index}; choose a smaller slice_index") from error


def _check_size(size: tuple[int, int], name: str, max_pixels: int) -> None:
    if size[0] * size[1] > max_pixels:
        raise UserError(f"{name}: {size[0]} x {size[1]} pixels are over the limit of {max_pixels}; cut it into tiles")


def _from_tiff(file: BinaryIO, name: str, page: int | None, max_pixels: int) -> Pixels:
    """Decode the TIFF variants that Pillow does not read: 16-bit colour, 64-bit float, BigTIFF, rare compressions."""
    tifffile = require("tifffile", "data")
    file.seek(0)
    try:
        with tifffile.TiffFile(file) as tiff:
            if page is None and len(tiff.pages) > 1:
                raise UserError(f"{name}: holds {len(tiff.pages)} pages; choose one with slice_index, for instance 0")
            chosen = tiff.pages[page or 0]
            _check_size((chosen.imagewidth, chosen.imagelength * chosen.imagedepth), name, max_pixels)
            if chosen.samplesperpixel > 4:
                raise UserError(f"{name}: has {chosen.samplesperpixel} channels; save the one or three to be shown")
            array, inverted = chosen.asarray(), chosen.photometric == 0
    except UserError:
        raise
    except Exception as error:  # tifffile raises nearly every type on damaged files
        raise UserError(f"{name}: not a readable TIFF ({_reason(error)}); check or fetch the file again") from error
    return replace(_from_array(array, None, name), inverted=inverted)


def _from_array(array: np.ndarray, channels: str | None, name: str) -> Pixels:
    """Check an array and bring it to (H, W) or (H, W, 3) in native byte order."""
    if array.dtype.kind not in "biuf":
        raise UserError(f"{name}: holds {array.dtype}, not real numbers; convert it to integers or floats")
    array = _channels_last(array, channels, name)
    if array.size == 0:
        raise UserError(f"{name}: has no pixels (shape {array.shape}); leave it out")
    if array.dtype == bool:
        return Pixels(array.astype(np.uint8), window=(0.0, 1.0))
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if array.dtype.kind == "f":
        if array.dtype.itemsize == 2 or array.dtype.itemsize > 8:
            array = array.astype(np.float32 if array.dtype.itemsize == 2 else np.float64)
        if array.min() >= 0.0 and array.max() <= 1.0:
            return Pixels(array, window=(0.0, 1.0))
    return Pixels(array)


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


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):  # its own words show a Python object
        return "its content is of no known image format"
    return one_line(error)
