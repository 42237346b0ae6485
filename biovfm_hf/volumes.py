"""A volume in patient orientation, and its slices as a radiologist sees them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .errors import UserError
from .intensity import Pixels, Window

AXES = ("sagittal", "coronal", "axial")
MAX_VOLUME_BYTES = 4 << 30
_MAX_ASPECT = 10.0  # claims of longer voxels are ignored


@dataclass(frozen=True)
class Volume:
    """A volume whose axes run to the patient's right, front and head (RAS+).

    Attributes:
        array: (X, Y, Z), (X, Y, Z, T) or, with `rgb`, (X, Y, Z, 3); stored dtype, often a strided view.
        spacing: distance of voxel centres along X, Y, Z in mm.
        slope: factor from stored number to value, not 0.
        intercept: value of the stored number 0.
        rgb: whether the last axis holds colours instead of time points.
        inverted: whether the smallest value is shown white (DICOM MONOCHROME1).
        padding: as in `Pixels`.
        absent: (axis, index) of slices that could not be read and only repeat their neighbour.
        axes: along which it may be sliced: a stack of pictures has one.
    """

    array: np.ndarray
    spacing: tuple[float, float, float]
    slope: float = 1.0
    intercept: float = 0.0
    rgb: bool = False
    inverted: bool = False
    padding: Window | None = None
    absent: frozenset[tuple[str, int]] = frozenset()
    axes: tuple[str, ...] = AXES

    @property
    def flat(self) -> str | None:
        """The axis across a volume of one slice, which is a picture; None for all others."""
        return axis_across(self.array.shape[:3])

    def views(self, axes: Sequence[str]) -> Sequence[str]:
        """The axes along which it is sliced, out of `axes` if it has some of these."""
        if self.flat:
            return (self.flat,)
        return [axis for axis in axes if axis in self.axes] or self.axes

    @property
    def times(self) -> int:
        """How many time points there are."""
        return self.array.shape[3] if self.array.ndim == 4 and not self.rgb else 1

    def at_time(self, time_index: int | None) -> np.ndarray:
        """Return (X, Y, Z[, 3]) of one time point, which may be omitted if there is only one.

        Raises:
            UserError: no such time point.
        """
        if self.rgb or self.array.ndim == 3:
            if time_index:
                raise UserError(f"time_index {time_index}: the volume has no time axis; leave it out")
            return self.array
        count = self.array.shape[3]
        if time_index is None and count > 1:
            raise UserError(f"the volume is a series of {count}; choose one with time_index=0 to {count - 1}")
        if not 0 <= (time_index or 0) < count:
            raise UserError(f"time_index {time_index}: out of range; the series has 0 to {count - 1}")
        return self.array[..., time_index or 0]

    def slice(self, index: int, axis: str = "axial", time_index: int | None = None) -> Pixels:
        """Return one slice as a radiologist sees it: front or head up, the patient's right (sagittal: front) at left.

        Args:
            index: position along the axis, counted from the patient's left (sagittal), back (coronal) or feet (axial).
            axis: "axial", "coronal" or "sagittal".
            time_index: which time point of a (X, Y, Z, T) volume; may be omitted if there is only one.

        Raises:
            UserError: no such axis, slice or time point.
        """
        if axis not in AXES:
            raise UserError(f"axis {axis!r}: not known; take one of {', '.join(AXES)}")
        volume = self.at_time(time_index)
        count = volume.shape[AXES.index(axis)]
        if not 0 <= index < count:
            raise UserError(f"{axis} slice {index}: out of range; there are slices 0 to {count - 1}")
        array = np.ascontiguousarray(upright(volume, axis, index))
        reference = None if self.rgb else volume
        return Pixels(
            array, self.slope, self.intercept, None, self.inverted, reference, self.padding,
            spacing=pixel_spacing(self.spacing, axis),
        )  # fmt: skip


def axis_across(shape: Sequence[int]) -> str | None:
    """The axis along which a volume (X, Y, Z) has one slice, None where there are several along each."""
    return AXES[2 - shape[::-1].index(1)] if 1 in shape else None


def upright(volume: np.ndarray, axis: str, index: int) -> np.ndarray:
    """Return a view (rows, columns[, 3]) of one slice of a RAS+ volume (X, Y, Z[, 3]), turned for display.

    Directions are those of a radiology workstation. Axial: anterior up, the patient's right on the left of the
    picture. Coronal: superior up, the patient's right on the left. Sagittal: superior up, anterior on the left.
    """
    # Basic indexing gives views; np.take would copy the whole Fortran-ordered volume on each call.
    if axis == "axial":
        shown = volume[::-1, ::-1, index]
    elif axis == "coronal":
        shown = volume[::-1, index, ::-1]
    else:
        shown = volume[index, ::-1, ::-1]
    return shown.swapaxes(0, 1)


def pixel_spacing(spacing: Sequence[float], axis: str) -> tuple[float, float]:
    """Millimetres between the rows and between the columns of a slice of a volume with `spacing` along X, Y, Z."""
    x, y, z = spacing
    return {"axial": (y, x), "coronal": (z, x), "sagittal": (z, y)}[axis]


def believable(spacing: tuple[float, float]) -> tuple[float, float]:
    """The distances of rows and of columns, or (1, 1) if they are not plausible for any device."""
    rows, columns = spacing
    usable = 0 < rows < np.inf and 0 < columns < np.inf and 1 / _MAX_ASPECT < rows / columns < _MAX_ASPECT
    return spacing if usable else (1.0, 1.0)


def canonical(array: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, tuple[float, float, float], np.ndarray]:
    """Turn an array (I, J, K[, more]) so that its axes run right, front, up, without copying it.

    Args:
        array: voxels.
        affine: (4, 4) from voxel indices to RAS+ millimetres.

    Returns:
        The view; millimetres between voxel centres along its axes, 1 if the affine does not give it; and, for each
        stored axis, the axis that it becomes and 1, or -1 if it is reversed: (3, 2) integers. With an unusable matrix
        the axes stay as stored.
    """
    orientation = _orientation(affine)
    if orientation is None:
        return array, (1.0, 1.0, 1.0), np.array([[0, 1], [1, 1], [2, 1]])
    for axis, (_, sign) in enumerate(orientation):
        if sign < 0:
            array = np.flip(array, axis)
    order = np.argsort(orientation[:, 0])
    sizes = np.linalg.norm(affine[:3, :3], axis=0)[order]
    x, y, z = (float(size) or 1.0 for size in sizes)
    return array.transpose(*order, *range(3, array.ndim)), (x, y, z), orientation


def _orientation(affine: np.ndarray) -> np.ndarray | None:
    """The patient axis nearest to each stored axis, and its sign; None for a singular matrix.

    As in nibabel's `io_orientation`, the rotation nearest to the matrix is found first, so that sheared axes are
    distinguished.
    """
    matrix = np.asarray(affine, np.float64)[:3, :3]
    if not np.isfinite(matrix).all():
        return None
    sizes = np.sqrt((matrix * matrix).sum(axis=0))
    if not (sizes > 0).all():
        return None
    left, strengths, right = np.linalg.svd(matrix / sizes)
    if strengths.min() <= strengths.max() * 3 * np.finfo(np.float64).eps:
        return None
    rotation = left @ right
    orientation = np.zeros((3, 2), int)
    for axis in np.argsort(-(rotation**2).max(axis=0), kind="stable"):  # the clearest first
        nearest = int(np.argmax(np.abs(rotation[:, axis])))
        orientation[axis] = nearest, 1 if rotation[nearest, axis] > 0 else -1
        rotation[nearest] = 0
    return orientation
