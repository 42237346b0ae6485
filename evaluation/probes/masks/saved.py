"""Predicted masks as files: one NIfTI file per volume, or PNG files of images and slices.

Files are named by the indices of the test cases and slices, from 1: names from a source could identify patients.
Voxel values are class indices.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from biovfm_hf.errors import UserError, require
from biovfm_hf.writing.files import atomic_path

from ...tasks import Split
from ..probe import Trial

PNG, NIFTI = "png", "nifti"
Save = Callable[[int, np.ndarray], None]  # case index, decided mask: (H, W), or (slices, H, W) for a volume


@contextmanager
def saving(trial: Trial) -> Iterator[Save]:
    """Yield a function that receives each test case's decided mask; without a masks folder it does nothing.

    The folder appears when all masks are written.
    """
    if trial.masks is None:
        yield lambda case, decided: None
        return
    with atomic_path(trial.masks) as folder:
        yield _writer(trial, folder)


@contextmanager
def saving_draws(trial: Trial) -> Iterator[Callable[[int], Save]]:
    """As `saving`, for several draws: yields a function from a draw's number to its `Save`; each draw has a folder."""
    if trial.masks is None:
        yield lambda draw: lambda case, decided: None
        return
    with atomic_path(trial.masks) as folder:
        yield lambda draw: _writer(trial, folder / f"draw-{draw:02d}")


def _writer(trial: Trial, folder: Path) -> Save:
    folder.mkdir(parents=True)
    return MaskWriter(folder, trial.task.splits["test"], str(trial.run.save_masks)).write


def check_format(trial: Trial) -> None:
    """Raise a UserError if NIfTI files are requested for single images."""
    if trial.run.save_masks == NIFTI and trial.task.splits["test"].case_of_image is None:
        raise UserError(f"task {trial.task.name} has single images, no volumes; give --save-masks png or auto")


@dataclass(frozen=True)
class MaskWriter:
    """Writes masks of a split's cases to a folder as `png`, `nifti`, or `auto` (NIfTI for volumes, PNG for images)."""

    folder: Path
    split: Split
    kind: str

    def write(self, case: int, decided: np.ndarray) -> None:
        """Write the mask of one case."""
        name = f"{case + 1:05d}"
        if decided.ndim == 2:
            Image.fromarray(decided).save(self.folder / f"{name}.png")
        elif self.kind == PNG:
            (self.folder / name).mkdir()
            for number, mask in enumerate(decided, start=1):
                Image.fromarray(mask).save(self.folder / name / f"{number:04d}.png")
        else:
            nibabel = require("nibabel", "data")
            image = nibabel.Nifti1Image(as_voxels(decided), self._affine(case))
            nibabel.save(image, self.folder / f"{name}.nii.gz")

    def _affine(self, case: int) -> np.ndarray:
        """The affine matrix of a case's voxels; built from the spacing if the task has none, else from 1 mm voxels."""
        if self.split.affine is not None:
            return self.split.affine[case]
        steps = (1.0,) * 3 if self.split.spacing is None else self.split.spacing[case][::-1]
        return np.diag([*steps, 1.0])


def as_voxels(slices: np.ndarray) -> np.ndarray:
    """Upright axial slices (Z, H, W) as voxels (X, Y, Z), with axes to the patient's right, front and head."""
    return np.ascontiguousarray(slices.transpose(2, 1, 0)[::-1, ::-1])
