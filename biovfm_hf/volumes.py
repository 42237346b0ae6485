"""A volume in patient orientation, and its slices as a radiologist sees them."""

from dataclasses import dataclass

import numpy as np

from .errors import UserError
from .intensity import Pixels

AXES = ("sagittal", "coronal", "axial")
MAX_VOLUME_BYTES = 4 << 30


@dataclass(frozen=True)
class Volume:
    """A volume whose axes run to the patient's right, front and head (RAS+).

    Attributes:
        array: (X, Y, Z), (X, Y, Z, T) or, where `rgb`, (X, Y, Z, 3); stored dtype, often a strided view.
        spacing: distance of voxel centres along X, Y, Z in mm.
        slope: factor from stored number to value, not 0.
        intercept: value of the stored number 0.
        rgb: whether the last axis holds colours instead of time points.
    """

    array: np.ndarray
    spacing: tuple[float, float, float]
    slope: float = 1.0
    intercept: float = 0.0
    rgb: bool = False

    def slice(self, index: int, axis: str = "axial", time_index: int | None = None) -> Pixels:
        """Return one slice as a radiologist sees it: front or head up, the patient's right (sagittal: front) at left.

        Args:
            index: position along the axis, counted from the patient's left (sagittal), back (coronal) or feet (axial).
            axis: "axial", "coronal" or "sagittal".
            time_index: which time point of a (X, Y, Z, T) volume; may be left out where there is one.

        Raises:
            UserError: no such axis, slice or time point.
        """
        if axis not in AXES:
            raise UserError(f"axis {axis!r}: not known; take one of {', '.join(AXES)}")
        volume = self._at_time(time_index)
        number = AXES.index(axis)
        if not 0 <= index < volume.shape[number]:
            raise UserError(f"{axis} slice {index}: out of range; there are slices 0 to {volume.shape[number] - 1}")
        x, y, z = self.spacing
        # Basic indexing gives views; np.take would copy the whole Fortran-ordered volume on each call.
        if axis == "axial":
            shown, spacing = volume[::-1, ::-1, index], (y, x)
        elif axis == "coronal":
            shown, spacing = volume[::-1, index, ::-1], (z, x)
        else:
            shown, spacing = volume[index, ::-1, ::-1], (z, y)
        array = np.ascontiguousarray(shown.swapaxes(0, 1))
        return Pixels(array, self.slope, self.intercept, reference=volume, spacing=spacing)

    def _at_time(self, time_index: int | None) -> np.ndarray:
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
