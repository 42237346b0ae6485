"""Surface distances of a segmentation's test cases; over whole volumes if the images are slices."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ...statistics.masks import SURFACES
from ...statistics.surface import (
    average_distance,
    diagonal,
    find_convention,
    hausdorff,
    measure_surfaces,
    surface_dice,
)
from ...tasks import Split

CONVENTION, TOLERANCE = "deepmind", 2.0
IGNORED, WORST = "ignore", "worst"
EMPTY = {
    IGNORED: "left out of the means and counted",
    WORST: "0 nsd and the image's diagonal where one of the two is; left out of the means and counted where both are",
}
"""How surface metrics treat a structure if one of its masks, or both, are empty."""


@dataclass(frozen=True)
class SurfaceRule:
    """Settings for comparing surfaces.

    Attributes:
        convention: name of a convention in `statistics.surface`.
        tolerance: tolerance of surface Dice in millimetres, or in pixels if the spacing of the cases is unknown.
        empty: one of `EMPTY`.
    """

    convention: str = CONVENTION
    tolerance: float = TOLERANCE
    empty: str = IGNORED

    def measure(self, decided: np.ndarray, truth: np.ndarray, classes: int, spacing: Any) -> np.ndarray:
        """HD95, surface Dice and average distance (classes - 1, 3) of the foreground classes in one case."""
        return np.array([self._measure(decided == k, truth == k, spacing) for k in range(1, classes)], float)

    def _measure(self, decided: np.ndarray, truth: np.ndarray, spacing: Any) -> tuple[float, float, float]:
        surfaces = measure_surfaces(decided, truth, spacing, self.convention)
        if self.empty == WORST and surfaces.empty == 1:
            far = diagonal(decided.shape, spacing)
            return far, 0.0, far
        return (
            hausdorff(surfaces, convention=self.convention),
            surface_dice(surfaces, self.tolerance),
            average_distance(surfaces, self.convention),
        )

    def notes(self, split: Split, values: np.ndarray) -> list[str]:
        """Unit, convention and tolerance; and what the means of `values` (cases, classes - 1, 3) leave out."""
        unit = "pixels" if split.spacing is None else "mm"
        notes = [
            f"hd95, nsd and assd in {unit}, by the convention of {find_convention(self.convention).title}; nsd within "
            f"{self.tolerance:g} {unit}; empty masks: {EMPTY[self.empty]}"
        ]
        lost = np.sum(~np.isfinite(values), axis=(0, 1))
        if lost.any():
            counts = ", ".join(f"{name} {count}" for name, count in zip(SURFACES, lost, strict=True) if count)
            notes.append(
                "structures without a finite value, because one mask or both are empty, are left out of the means: "
                f"{counts} of {values[..., 0].size}"
            )
        return notes


def case_spacing(split: Split, case: int, dimensions: int) -> tuple[float, ...]:
    """The distance between neighbours along each axis of a case, in millimetres; 1 if unknown."""
    return (1.0,) * dimensions if split.spacing is None else tuple(map(float, split.spacing[case]))
