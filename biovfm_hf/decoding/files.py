"""The registry of file formats: chooses a file's decoder by content, or by name if the content leaves it open."""

from collections.abc import Callable
from dataclasses import replace
from typing import Literal, NamedTuple

from .arrays import is_mat, is_npy, is_npz, read_mat, read_npy, read_npz
from .content import GZIP, Content, Source, unpacked, unpacked_start
from .dicom import DICOM_SUFFIXES, is_dicom, is_dicom_file, read_dicom
from .hdf5 import is_hdf5, read_hdf5, read_matlab_7
from .jpegxl import is_jpegxl, read_jpegxl
from .metaimage import is_metaimage, read_metaimage
from .netpbm import is_netpbm, read_netpbm
from .nifti import is_mgh, is_nifti, read_mgh, read_nifti
from .nrrd import read_nrrd
from .raster import RASTER_SUFFIXES, read_raster
from .tiff import is_tiff, read_tiff
from .video import SUFFIXES as VIDEO_SUFFIXES
from .video import is_video, read_video

_START = 512  # bytes by which a format is recognised
NETPBM_SUFFIXES = (".ppm", ".pgm", ".pbm", ".pnm", ".pam", ".pfm")


class Format(NamedTuple):
    """A family of files.

    Attributes:
        recognises: whether a file that begins with `start` and is called `name` belongs to it.
        read: its decoder, which returns a `Volume` or `Pages` of `Pixels`; `as_pixels` of `biovfm_hf/pictures.py`
            makes these from an array, and `one_picture` gives the `Pages` of one.
        holds: what a file holds as a rule: a `picture`, which pretraining and the leakage guard take as it is; a
            `volume`, of which `biovfm probe`, `embed` and `search` take slices; or `any`, so that its content decides.
        suffixes: how its files' names end; `.gz` may follow each.
    """

    recognises: Callable[[bytes, str], bool]
    read: Callable[[Source], Content]
    holds: Literal["picture", "volume", "any"]
    suffixes: tuple[str, ...] = ()


FORMATS = (
    Format(lambda start, name: is_dicom(start), read_dicom, "picture", DICOM_SUFFIXES),
    Format(lambda start, name: start.startswith(b"NRRD000"), read_nrrd, "volume", (".nrrd", ".nhdr")),
    Format(lambda start, name: is_metaimage(start), read_metaimage, "volume", (".mha", ".mhd")),
    Format(lambda start, name: is_npy(start), read_npy, "any", (".npy",)),
    Format(is_npz, read_npz, "any", (".npz",)),
    Format(lambda start, name: start.startswith(b"MATLAB 7.3"), read_matlab_7, "any"),
    Format(is_mat, read_mat, "any", (".mat",)),
    Format(lambda start, name: is_hdf5(start), read_hdf5, "any", (".h5", ".hdf5")),
    Format(lambda start, name: is_tiff(start), read_tiff, "picture", (".tif", ".tiff")),
    Format(lambda start, name: is_netpbm(start), read_netpbm, "picture", NETPBM_SUFFIXES),
    Format(is_mgh, read_mgh, "volume", (".mgh", ".mgz")),
    Format(lambda start, name: name.endswith((".img", ".img.gz")), read_nifti, "volume", (".img",)),
    Format(lambda start, name: is_nifti(start), read_nifti, "volume", (".nii",)),
    Format(is_dicom_file, read_dicom, "picture"),
    Format(lambda start, name: is_video(name), read_video, "any", VIDEO_SUFFIXES),
    Format(lambda start, name: is_jpegxl(start), read_jpegxl, "picture", (".jxl",)),
    Format(lambda start, name: True, read_raster, "picture", RASTER_SUFFIXES),
)
"""In the order in which they are tried; the last takes what no other recognises."""

IMAGE_SUFFIXES = tuple(suffix for one in FORMATS for suffix in one.suffixes)
"""Suffixes of all files that are read, each also with .gz behind it."""
PICTURE_SUFFIXES = tuple(suffix for one in FORMATS if one.holds == "picture" for suffix in one.suffixes)
"""Suffixes of the files that hold one picture as a rule."""
VOLUME_SUFFIXES = tuple(suffix for one in FORMATS if one.holds == "volume" for suffix in one.suffixes)
"""Suffixes of the files that hold a volume as a rule, each also with .gz behind it."""


def read_file(source: Source) -> Content:
    """Open a file of any known format.

    Raises:
        UserError: of no known format, damaged, over the limits, or no picture.
    """
    start = source.file.read(_START)
    source.file.seek(0)
    packed = start.startswith(GZIP)
    name = source.name.lower()
    chosen = recognised(unpacked_start(source.file, _START) if packed else start, name)
    if packed and chosen.read not in (read_nifti, read_mgh):  # those inflate as they read
        source = replace(source, file=unpacked(source))
    return chosen.read(source)


def recognised(start: bytes, name: str) -> Format:
    """The format of a file that begins with `start`, unpacked."""
    return next(one for one in FORMATS if one.recognises(start, name))
