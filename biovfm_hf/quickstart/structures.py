"""Structures of the MNI152 brain that brightness alone does not distinguish, drawn from its tissue maps.

Cortex and basal ganglia are both grey matter; ventricles and the sulci between the folds are both fluid. What tells
them apart is where they lie: the cortex beside the fluid around the brain, the basal ganglia in the white matter.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from biovfm_hf.errors import require

from .raw import Brain

# Classes of a map; 0 is everything else.
CORTEX, WHITE, BASAL_GANGLIA, VENTRICLE = 1, 2, 3, 4
STRUCTURES = ("cortex", "white matter", "basal ganglia", "ventricle", "sulcus")
# Millimetres (right, front, up) of a point in the right lateral ventricle, and of one between caudate and putamen.
_IN_VENTRICLE = (8, 20, 10)
_IN_BASAL_GANGLIA = (20, 7, 4)
_CORTEX_REACHES = 5  # mm into the brain from the fluid around it
_BASAL_GANGLIA_BEGIN = 6


@dataclass(frozen=True)
class Anatomy:
    """The structures of a brain, or of a slab of it; arrays of its shape."""

    brain: Brain

    @cached_property
    def map(self) -> np.ndarray:
        """The class of every voxel, uint8: the maps' ground truth."""
        grey, white = self.brain.grey, self.brain.white
        conditions = [self.ventricle, self.basal_ganglia, self._is_grey, (white > grey) & (white > 0.4)]
        return np.select(conditions, [VENTRICLE, BASAL_GANGLIA, CORTEX, WHITE]).astype(np.uint8)

    @cached_property
    def sure(self) -> list[np.ndarray]:
        """Where each of `STRUCTURES` is beyond doubt."""
        grey, white, classes = self.brain.grey, self.brain.white, self.map
        cortex = (classes == CORTEX) & (grey > 0.7) & (self._depth <= _CORTEX_REACHES)
        sulcus = self._inside & (grey + white < 0.45) & ~self.ventricle
        return [cortex, white > 0.7, (classes == BASAL_GANGLIA) & (grey > 0.6), self.ventricle, sulcus]

    @cached_property
    def ventricle(self) -> np.ndarray:
        """The fluid that hangs together with the lateral ventricle."""
        return self._component((self.brain.grey + self.brain.white < 0.5) & self._inside, _IN_VENTRICLE)

    @cached_property
    def basal_ganglia(self) -> np.ndarray:
        """Caudate, putamen and accumbens: grey matter deep in the brain that hangs together, on either side."""
        ndimage = require("scipy.ndimage", "demo")
        core = ndimage.binary_opening(self._is_grey & (self._depth > _BASAL_GANGLIA_BEGIN))
        right = self._component(core, _IN_BASAL_GANGLIA)
        both = right | right[::-1]  # the template is symmetric
        return ndimage.binary_dilation(both, iterations=2, mask=self._is_grey & (self._depth > _CORTEX_REACHES - 1.5))

    @cached_property
    def _inside(self) -> np.ndarray:
        return require("scipy.ndimage", "demo").binary_fill_holes(self.brain.t1 > 0.05 * self.brain.t1.max())

    @cached_property
    def _is_grey(self) -> np.ndarray:
        return self._inside & (self.brain.grey >= 0.5) & (self.brain.grey >= self.brain.white)

    @cached_property
    def _depth(self) -> np.ndarray:
        """Millimetres to the outside of the brain or the fluid of a sulcus."""
        ndimage = require("scipy.ndimage", "demo")
        around = ndimage.binary_dilation(self.ventricle, iterations=3)
        fluid = (self.brain.grey + self.brain.white < 0.7) & ~around
        return ndimage.distance_transform_edt(self._inside & ~fluid)

    def _component(self, mask: np.ndarray, millimetres: tuple[int, int, int]) -> np.ndarray:
        labels, _ = require("scipy.ndimage", "demo").label(mask)
        place = tuple(round(v - o) for v, o in zip(millimetres, self.brain.affine[:3, 3], strict=True))
        return labels == labels[place]
