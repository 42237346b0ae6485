"""Decoder of NIfTI (.nii, .hdr with .img), Analyze and MGH (.mgh, .mgz) volumes, read once in bounded memory."""

import gzip
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import Any, BinaryIO

import numpy as np

from ..errors import TooLarge, UserError, require
from ..pictures import reason
from ..volumes import Volume, canonical
from .content import GZIP, Source

_MAX_HEADER_BYTES = 64 << 20  # NIfTI header extensions sit between the header and the data
_NIFTI1, _NIFTI1_PAIR, _NIFTI2 = b"n+1\0", b"ni1\0", (b"n+2\0", b"ni2\0")
_MGH_VERSION = b"\0\0\0\1"
_MGH_TYPES = {0: ">u1", 1: ">i4", 3: ">f4", 4: ">i2", 10: ">u2"}
_MGH_HEADER = np.dtype([
    ("version", ">i4"), ("shape", ">i4", 4), ("type", ">i4"), ("dof", ">i4"), ("good", ">i2"), ("spacing", ">f4", 3),
    ("axes", ">f4", 9), ("centre", ">f4", 3), ("rest", "V194"),
])  # fmt: skip


def is_nifti(start: bytes) -> bool:
    """Whether a file that begins with `start` is NIfTI (one file, or the header of a pair) or an Analyze header."""
    size = {start[:4]} & {(348).to_bytes(4, order) for order in ("little", "big")}
    return start[344:348] in (_NIFTI1, _NIFTI1_PAIR) or start[4:8] in _NIFTI2 or (bool(size) and len(start) >= 348)


def is_mgh(start: bytes, name: str) -> bool:
    """Whether a file that begins with `start` (unpacked) is of FreeSurfer's MGH format."""
    suffix = name.lower().removesuffix(".gz").endswith((".mgh", ".mgz"))
    return suffix and start[:4] == _MGH_VERSION


def read_nifti(source: Source) -> Volume:
    """Read a NIfTI or Analyze volume, keeping its stored dtype; either file of a pair leads to both.

    Raises:
        UserError: not NIfTI, truncated, corrupt, over `source.max_bytes`, or nibabel is missing.
    """
    nibabel = require("nibabel", "data")
    with _as_user_error(source), unpacked(source.file) as file:
        if source.name.lower().removesuffix(".gz").endswith(".img"):
            with source.companion(*_partners(source.name, ".hdr")) as other, unpacked(other) as header_file:
                return _read(nibabel, source, _header(nibabel, header_file, source.name), file)
        header = _header(nibabel, file, source.name)
        if not _is_pair(header):
            return _read(nibabel, source, header, file)
        with source.companion(*_partners(source.name, ".img")) as other, unpacked(other) as voxels:
            return _read(nibabel, source, header, voxels)


def read_mgh(source: Source) -> Volume:
    """Read a FreeSurfer volume; https://surfer.nmr.mgh.harvard.edu/fswiki/FsTutorial/MghFormat.

    Raises:
        UserError: truncated, corrupt, or over `source.max_bytes`.
    """
    with _as_user_error(source), unpacked(source.file) as file:
        header = np.frombuffer(_read_exactly(file, _MGH_HEADER.itemsize, source.name), _MGH_HEADER)[0]
        if int(header["type"]) not in _MGH_TYPES:
            raise UserError(f"{source.name}: holds numbers of kind {int(header['type'])}, an unknown kind")
        shape = _checked_shape(tuple(int(n) for n in header["shape"]), source.name)
        array = _array(source, file, np.dtype(_MGH_TYPES[int(header["type"])]), shape)
        affine = np.diag([-1.0, 1.0, 1.0, 1.0]) if not header["good"] else np.eye(4)
        if header["good"]:
            affine[:3, :3] = header["axes"].reshape(3, 3).T * header["spacing"]
        else:  # FreeSurfer's default: coronal, columns to the left and rows to the feet
            affine[:3, :3] = [[-1, 0, 0], [0, 0, 1], [0, -1, 0]]
        return _canonical(array, affine, 1.0, 0.0)


@contextmanager
def _as_user_error(source: Source) -> Iterator[None]:
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:  # nibabel and the inflaters raise nearly every type on damaged files
        raise UserError(
            f"{source.name}: cannot be read as a volume ({reason(error)}); check or fetch the file again"
        ) from error


@contextmanager
def unpacked(file: BinaryIO) -> Iterator[Any]:
    """`file`, through a gzip reader if it is compressed; isal's is twice as fast as the standard one."""
    magic = file.read(2)
    file.seek(-len(magic), 1)
    if magic != GZIP:
        yield file
        return
    try:
        reader = importlib.import_module("isal.igzip").IGzipFile
    except ModuleNotFoundError:
        reader = gzip.GzipFile
    with reader(fileobj=file, mode="rb") as inflating:
        yield inflating


def _partners(name: str, suffix: str) -> tuple[str, str]:
    """Names that the other file of a pair can have: a.hdr for a.img, A.HDR for A.IMG, a.img.gz for a.hdr.gz.

    The second is its name if only one of the two is packed.
    """
    path = PurePosixPath(name.rpartition("!")[2])
    packed = path.suffix.lower() == ".gz"
    stem, own = (path.with_suffix(""), path.suffix) if packed else (path, "")
    partner = stem.with_suffix(suffix.upper() if stem.suffix.isupper() else suffix).name
    return partner + own, partner if packed else f"{partner}.gz"


def _is_pair(header: Any) -> bool:
    return "magic" not in header or header["magic"].item()[:2] == b"ni"


def _read(nibabel: Any, source: Source, header: Any, file: Any) -> Volume:
    name, dtype = source.name, header.get_data_dtype()
    if dtype.kind == "V" and dtype.names is None:
        raise UserError(f"{name}: holds numbers of kind {int(header['datatype'])}, which is not read; convert it")
    if dtype.names is None and dtype.kind not in "iuf":
        raise UserError(
            f"{name}: holds {dtype} numbers, which cannot be shown as an image; convert it to real numbers"
        )
    shape = _checked_shape(tuple(int(n) for n in header.get_data_shape()), name)
    start = 0 if _is_pair(header) else int(header["sizeof_hdr"])
    offset = float(header["vox_offset"])
    if not start <= offset <= _MAX_HEADER_BYTES:
        raise UserError(
            f"{name}: its header places the voxels at byte {offset:g}; the file is damaged, fetch it again"
        )
    _read_exactly(file, int(offset) - start, name)
    array = _array(source, file, dtype, shape)
    return _canonical(array, _affine(nibabel, header), *_slope_and_intercept(header))


def _header(nibabel: Any, file: Any, name: str) -> Any:
    start = _read_exactly(file, 348, name)
    if start[344:348] in (_NIFTI1, _NIFTI1_PAIR):
        return nibabel.Nifti1Header(start, check=False)
    if start[4:8] in _NIFTI2:
        return nibabel.Nifti2Header(start + _read_exactly(file, 540 - 348, name), check=False)
    if is_nifti(start):
        return nibabel.Spm99AnalyzeHeader(start, check=False)
    raise UserError(f"{name}: is not a NIfTI file (.nii, .nii.gz or .hdr); convert it, or check its name")


def _array(source: Source, file: Any, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    count = int(np.prod(shape, dtype=object))
    if count * dtype.itemsize > source.max_bytes:
        claimed = count * dtype.itemsize / 2**30
        raise TooLarge(
            f"{source.name}: its header claims {claimed:.1f} GiB of voxels, over the limit of "
            f"{source.max_bytes / 2**30:.1f} GiB; check the file, or raise max_bytes"
        )
    stored = np.empty(count * dtype.itemsize, np.uint8)
    _fill(file, stored, source.name)
    file.read(1)  # a gzip reader checks its checksum only when asked for what follows
    return stored.view(dtype).reshape(shape, order="F")


def _checked_shape(shape: tuple[int, ...], name: str) -> tuple[int, ...]:
    shape = shape[:3] + tuple(extent for extent in shape[3:] if extent != 1)
    shape += (1,) * (3 - len(shape))
    if len(shape) > 4 or min(shape) < 1:
        raise UserError(f"{name}: has shape {shape}; a volume (X, Y, Z) or a series (X, Y, Z, T) is needed")
    return shape


def _slope_and_intercept(header: Any) -> tuple[float, float]:
    """Slope and intercept from stored numbers to values; 1 or 0 if the header has nothing usable."""
    slope = float(header["scl_slope"]) if "scl_slope" in header else float(header["funused1"])
    intercept = float(header["scl_inter"]) if "scl_inter" in header else 0.0
    if not np.isfinite(slope) or slope == 0:
        return 1.0, 0.0
    return slope, intercept if np.isfinite(intercept) else 0.0


def _affine(nibabel: Any, header: Any) -> np.ndarray:
    """The header's matrix to RAS+; a quaternion whose vector is longer than 1 is a half turn, as in niftilib."""
    if "quatern_b" in header:
        header = header.copy()
        vector = np.array([header[f"quatern_{letter}"] for letter in "bcd"], np.float64)
        length = float(np.linalg.norm(vector))
        if np.isfinite(length) and length > 1:
            for letter, value in zip("bcd", vector / length * (1 - 1e-9), strict=True):
                header[f"quatern_{letter}"] = value
        if not np.isfinite(vector).all():
            header["qform_code"] = 0
        if header["pixdim"][0] not in (-1, 1):
            header["pixdim"][0] = 1  # as the standard says of 0
        if header["qform_code"] > 0 and not _spans(np.array([header[f"srow_{letter}"][:3] for letter in "xyz"])):
            header["sform_code"] = 0
    try:
        return header.get_best_affine()
    except (nibabel.spatialimages.HeaderDataError, ValueError, np.linalg.LinAlgError):
        return np.full((4, 4), np.nan)


def _spans(matrix: np.ndarray) -> bool:
    """Whether the columns of a matrix span space."""
    return bool(np.isfinite(matrix).all() and np.linalg.matrix_rank(matrix) == 3)


def _canonical(array: np.ndarray, affine: np.ndarray, slope: float, intercept: float) -> Volume:
    """Reorder and flip axes, without copying, so that they run right, front, up."""
    rgb = array.dtype.names is not None
    if rgb:
        channels = [array[field] for field in ("R", "G", "B")]
        array, slope, intercept = np.stack(channels, axis=-1), 1.0, 0.0
    elif not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        array = array.astype(np.float64)
    turned, spacing, _ = canonical(array, affine)
    return Volume(turned, spacing, slope, intercept, rgb)


def _read_exactly(file: Any, count: int, name: str) -> bytes:
    buffer = np.empty(count, np.uint8)
    _fill(file, buffer, name)
    return buffer.tobytes()


def _fill(file: Any, buffer: np.ndarray, name: str) -> None:
    view, done = buffer.data, 0
    while done < len(view):
        read = file.readinto(view[done : done + (16 << 20)])
        if not read:
            raise UserError(f"{name}: ends after {done} of {len(view)} bytes; it is truncated, fetch it again")
        done += read
