"""Real images that ship inside ordinary Python packages, laid out as raw sources.

Nothing is downloaded and nothing is synthetic: the MNI152 brain of nilearn, the sample files of pydicom and nibabel,
and scikit-image's retina, immunohistochemistry and cell images.
"""

import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from biovfm_hf.errors import require
from biovfm_hf.writing.files import atomic_path

RECORDS = Path(__file__).parent / "sources"
# Millimetres along the MNI152 brain's back-to-front axis. Pretraining uses the part behind the gap; the labelled tasks
# use the part in front of it, which was never seen. (Left and right would not do: this template is exactly symmetric.)
PRETRAINING_ENDS = -14
TASKS_BEGIN = 0
TILE = 96
_DICOM = (
    "CT_small.dcm",
    "693_J2KI.dcm",
    "J2K_pixelrep_mismatch.dcm",
    "MR_small.dcm",
    "examples_overlay.dcm",
    "examples_rgb_color.dcm",
    "examples_ybr_color.dcm",
    "examples_palette.dcm",
    "examples_jpeg2k.dcm",
    "JPEG2000.dcm",
    "JPEG-lossy.dcm",
)
_TILED = {"retina.jpg": "retina", "ihc.png": "ihc", "cell.png": "cell"}


def record_paths() -> list[Path]:
    """The records of the quickstart's sources, for `biovfm build --sources`."""
    return sorted(RECORDS.glob("*.yaml"))


def lay_out(raw: Path) -> None:
    """Write the raw folder: one sub-folder for each record.

    Raises:
        UserError: a package of the extra `demo` is missing.
    """
    with atomic_path(raw) as folder:
        _brain(folder / "mni152")
        _dicom(folder / "pydicom-samples")
        _nifti(folder / "nibabel-samples")
        _tiles(folder / "skimage-samples")


@dataclass(frozen=True)
class Brain:
    """The MNI152 T1 brain and its grey- and white-matter probabilities: (X, Y, Z) float32, RAS, 1 mm; the affine."""

    t1: np.ndarray
    grey: np.ndarray
    white: np.ndarray
    affine: np.ndarray


def load_brain() -> Brain:
    """Read the maps that ship inside nilearn."""
    datasets = require("nilearn.datasets", "demo")
    names = ("load_mni152_template", "load_mni152_gm_template", "load_mni152_wm_template")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        images = [getattr(datasets, name)(resolution=1) for name in names]
    t1, grey, white = (np.asarray(image.dataobj, dtype=np.float32) for image in images)
    return Brain(t1, grey, white, images[0].affine)


def front_of(affine: np.ndarray, millimetres: float) -> int:
    """Index along the back-to-front axis of a position in millimetres."""
    return round(float((millimetres - affine[1, 3]) / affine[1, 1]))


def _brain(folder: Path) -> None:
    nibabel = require("nibabel", "demo")
    folder.mkdir(parents=True)
    brain = load_brain()
    back = brain.t1[:, : front_of(brain.affine, PRETRAINING_ENDS)]
    image = nibabel.Nifti1Image((back / brain.t1.max() * 4095).astype(np.int16), brain.affine)
    nibabel.save(image, folder / "sub-mni152_T1w.nii.gz")


def _dicom(folder: Path) -> None:
    pydicom_data = require("pydicom.data", "demo")
    folder.mkdir(parents=True)
    for name in _DICOM:
        path = pydicom_data.get_testdata_file(name, download=False)
        if path is not None:
            shutil.copyfile(path, folder / name)


def _nifti(folder: Path) -> None:
    samples = _folder_of("nibabel") / "tests" / "data"
    folder.mkdir(parents=True)
    for name in ("example4d.nii.gz", "anatomical.nii"):
        if (samples / name).is_file():
            shutil.copyfile(samples / name, folder / name)


def _folder_of(package: str) -> Path:
    return Path(require(package, "demo").__file__ or "").parent


def _tiles(folder: Path) -> None:
    """Large pictures cut into tiles, as microscopy and fundus photographs are for pretraining."""
    from PIL import Image

    samples = _folder_of("skimage") / "data"
    for file, name in _TILED.items():
        if not (samples / file).is_file():
            continue
        (folder / name).mkdir(parents=True)
        with Image.open(samples / file) as picture:
            picture.load()
        columns, rows = picture.width // TILE, picture.height // TILE
        for index in range(columns * rows):
            left, top = index % columns * TILE, index // columns * TILE
            tile = picture.crop((left, top, left + TILE, top + TILE))
            tile.save(folder / name / f"{name}_{top:04d}_{left:04d}.png")
