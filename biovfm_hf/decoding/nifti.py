"""NIfTI files to volumes, read once, in bounded memory."""

import gzip
import importlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..errors import TooLarge, UserError, one_line, require
from ..volumes import MAX_VOLUME_BYTES, Volume

_MAX_HEADER_BYTES = 64 << 20  # NIfTI header extensions sit between the header and the data


def read_nifti(source: str | Path | BinaryIO, *, name: str | None = None, max_bytes: int = MAX_VOLUME_BYTES) -> Volume:
    """Read a NIfTI volume (.nii, .nii.gz), keeping its stored dtype.

    Args:
        source: a path, or an open binary file at its start.
        name: what messages call the source; its path by default.
        max_bytes: most bytes the voxels may take; a header that claims more is refused before anything is allocated,
            and no more than claimed is ever decompressed.

    Raises:
        UserError: not NIfTI, truncated, corrupt, over `max_bytes`, or nibabel is missing.
    """
    name = name or str(getattr(source, "name", source))
    nibabel = require("nibabel", "data")
    try:
        if isinstance(source, str | Path):
            with Path(source).open("rb") as file:
                return _read(nibabel, _inflating(file), name, max_bytes)
        return _read(nibabel, _inflating(source), name, max_bytes)
    except UserError:
        raise
    except Exception as error:  # nibabel and the inflaters raise nearly every type on damaged files
        raise UserError(
            f"{name}: cannot be read as NIfTI ({one_line(error)}); check or fetch the file again"
        ) from error


def _inflating(file: BinaryIO) -> Any:
    """Return `file`, behind a gzip reader where it is compressed; isal's is twice as fast as the standard one."""
    magic = file.read(2)
    file.seek(-len(magic), 1)
    if magic != b"\x1f\x8b":
        return file
    try:
        reader = importlib.import_module("isal.igzip").IGzipFile
    except ModuleNotFoundError:
        reader = gzip.GzipFile
    return reader(fileobj=file, mode="rb")


def _read(nibabel: Any, file: Any, name: str, max_bytes: int) -> Volume:
    header, offset = _read_header(nibabel, file, name)
    dtype = header.get_data_dtype()
    shape = _checked_shape(tuple(int(n) for n in header.get_data_shape()), name)
    count = int(np.prod(shape, dtype=object))
    if dtype.names is None and dtype.kind not in "iuf":
        raise UserError(
            f"{name}: holds {dtype} numbers, which cannot be shown as an image; convert it to real numbers"
        )
    if count * dtype.itemsize > max_bytes:
        claimed = count * dtype.itemsize / 2**30
        raise TooLarge(
            f"{name}: its header claims {claimed:.1f} GiB of voxels, over the limit of {max_bytes / 2**30:.1f} GiB; "
            "check the file, or raise max_bytes"
        )
    header_length = int(header["sizeof_hdr"])
    _skip(file, offset - header_length, name)
    stored = np.empty(count * dtype.itemsize, np.uint8)
    _fill(file, stored, name)
    file.read(1)  # a gzip reader checks its checksum only when asked for what follows
    array = stored.view(dtype).reshape(shape, order="F")
    slope, intercept = _slope_and_intercept(header)
    return _canonical(nibabel, array, header.get_best_affine(), slope, intercept)


def _read_header(nibabel: Any, file: Any, name: str) -> tuple[Any, int]:
    start = _read_exactly(file, 348, name)
    if start[344:348] == b"n+1\0":
        header = nibabel.Nifti1Header(start, check=False)
    elif start[4:8] == b"n+2\0":
        header = nibabel.Nifti2Header(start + _read_exactly(file, 540 - 348, name), check=False)
    else:
        raise UserError(f"{name}: is not a NIfTI file (.nii or .nii.gz); convert it, or check its name")
    offset = float(header["vox_offset"])
    if not int(header["sizeof_hdr"]) <= offset <= _MAX_HEADER_BYTES:
        raise UserError(
            f"{name}: its header places the voxels at byte {offset:g}; the file is damaged, fetch it again"
        )
    return header, int(offset)


def _checked_shape(shape: tuple[int, ...], name: str) -> tuple[int, ...]:
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    shape += (1,) * (3 - len(shape))
    if len(shape) > 4 or min(shape) < 1:
        raise UserError(f"{name}: has shape {shape}; a volume (X, Y, Z) or a series (X, Y, Z, T) is needed")
    return shape


def _slope_and_intercept(header: Any) -> tuple[float, float]:
    slope, intercept = header.get_slope_inter()
    return (1.0, 0.0) if slope is None else (float(slope), float(intercept or 0.0))


def _canonical(nibabel: Any, array: np.ndarray, affine: np.ndarray, slope: float, intercept: float) -> Volume:
    """Reorder and flip axes, without copying, so that they run right, front, up."""
    rgb = array.dtype.names is not None
    if rgb:
        channels = [array[field] for field in ("R", "G", "B")]
        array, slope, intercept = np.stack(channels, axis=-1), 1.0, 0.0
    elif not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        array = array.astype(np.float64)
    orientation = None
    if np.isfinite(affine).all():
        orientation = nibabel.orientations.io_orientation(affine)
    if orientation is None or np.isnan(orientation).any():  # a header without a usable affine: axes as stored
        return Volume(array, (1.0, 1.0, 1.0), slope, intercept, rgb)
    array = nibabel.orientations.apply_orientation(array, orientation)
    sizes = nibabel.affines.voxel_sizes(affine)
    spacing = [1.0, 1.0, 1.0]
    for stored_axis, (ras_axis, _) in enumerate(orientation):
        spacing[int(ras_axis)] = float(sizes[stored_axis]) or 1.0
    return Volume(array, (spacing[0], spacing[1], spacing[2]), slope, intercept, rgb)


def _read_exactly(file: Any, count: int, name: str) -> bytes:
    buffer = np.empty(count, np.uint8)
    _fill(file, buffer, name)
    return buffer.tobytes()


def _skip(file: Any, count: int, name: str) -> None:
    _read_exactly(file, count, name)


def _fill(file: Any, buffer: np.ndarray, name: str) -> None:
    view, done = buffer.data, 0
    while done < len(view):
        read = file.readinto(view[done : done + (16 << 20)])
        if not read:
            raise UserError(f"{name}: ends after {done} of {len(view)} bytes; it is truncated, fetch it again")
        done += read
