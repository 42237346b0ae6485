"""Distances between the surfaces of two masks, by the four conventions in use, which give different numbers.

A convention defines what a surface consists of, how a percentile of distances is taken, and what the value is if a
mask is empty. The four are those of DeepMind's surface-distance, MONAI, MedPy and seg-metrics (Jia). Results name
theirs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np

from biovfm_hf.errors import UserError, require

PERCENTILE = 95.0  # of the Hausdorff distance in results


@dataclass(frozen=True)
class Surfaces:
    """Distances from each element of one mask's surface to the other mask's surface, in units of the spacing.

    Distances to an empty surface are infinite.

    Attributes:
        to_truth: (n,) distances of the decided mask's elements.
        to_decided: (m,) distances of the true mask's elements.
        decided_sizes, truth_sizes: (n,) and (m,) length or area that each element stands for.
    """

    to_truth: np.ndarray
    to_decided: np.ndarray
    decided_sizes: np.ndarray
    truth_sizes: np.ndarray

    @property
    def empty(self) -> int:
        """Number of empty masks: 0, 1 or 2."""
        return (len(self.to_truth) == 0) + (len(self.to_decided) == 0)

    @property
    def pooled(self) -> np.ndarray:
        """The distances in both directions."""
        return np.concatenate([self.to_truth, self.to_decided])


@dataclass(frozen=True)
class Empty:
    """A convention's values if `one` of the two masks is empty, and if `both` are."""

    one: float
    both: float

    def value(self, surfaces: Surfaces) -> float:
        """The value for surfaces of which at least one is empty."""
        return self.both if surfaces.empty == 2 else self.one


@dataclass(frozen=True)
class Convention:
    """A convention for comparing surfaces.

    Attributes:
        title: description of the convention, for records.
        elements: function from a mask to the places (d-dimensional, bool) and sizes of its surface's elements.
        percentile: function for the Hausdorff distance at a percentage.
        average: function for the average symmetric distance.
        empty: the Hausdorff distance at a percentage if a mask is empty.
        empty_greatest: the greatest distance (at 100 %) if a mask is empty.
        empty_average: the average distance if a mask is empty.
    """

    title: str
    elements: Callable[[np.ndarray, tuple[float, ...]], tuple[np.ndarray, np.ndarray]]
    percentile: Callable[[Surfaces, float], float]
    average: Callable[[Surfaces], float]
    empty: Empty
    empty_greatest: Empty
    empty_average: Empty


def measure_surfaces(
    decided: np.ndarray, truth: np.ndarray, spacing: Sequence[float], convention: str = "deepmind"
) -> Surfaces:
    """The distances between the surfaces of two masks.

    Args:
        decided: (H, W) or (X, Y, Z) bool.
        truth: the true mask, with the same shape.
        spacing: distance between neighbours along each axis of the arrays, in millimetres, for instance.
        convention: one of `CONVENTIONS`.

    Raises:
        UserError: shapes or spacing do not fit, or the convention is unknown.
    """
    masks = [np.asarray(mask, bool) for mask in (decided, truth)]
    if masks[0].shape != masks[1].shape or masks[0].ndim not in (2, 3) or len(spacing) != masks[0].ndim:
        raise UserError(f"masks of shapes {masks[0].shape}, {masks[1].shape} and spacing {tuple(spacing)} do not fit")
    if not all(np.isfinite(step) and step > 0 for step in spacing):
        raise UserError(f"spacing {tuple(spacing)}: every step must be a number above 0")
    steps = tuple(float(step) for step in spacing)
    elements = find_convention(convention).elements
    box = _box(masks[0] | masks[1])
    decided, truth = (mask[box] for mask in masks)
    (places, sizes), (true_places, true_sizes) = elements(decided, steps), elements(truth, steps)
    return Surfaces(
        _distances(places, true_places, steps),
        _distances(true_places, places, steps),
        sizes[places],
        true_sizes[true_places],
    )


def find_convention(name: str) -> Convention:
    """The convention with a name.

    Raises:
        UserError: the name is unknown.
    """
    if name not in CONVENTIONS:
        raise UserError(f"surface convention {name!r} is none of {', '.join(CONVENTIONS)}")
    return CONVENTIONS[name]


def hausdorff(surfaces: Surfaces, percent: float = PERCENTILE, convention: str = "deepmind") -> float:
    """The Hausdorff distance at `percent` in 0..100 (Huttenlocher et al. 1993); 100 gives the greatest distance."""
    rule = find_convention(convention)
    if surfaces.empty:
        return (rule.empty_greatest if percent == 100 else rule.empty).value(surfaces)
    return rule.percentile(surfaces, percent)


def average_distance(surfaces: Surfaces, convention: str = "deepmind") -> float:
    """The average symmetric surface distance (ASSD)."""
    rule = find_convention(convention)
    return rule.empty_average.value(surfaces) if surfaces.empty else rule.average(surfaces)


def surface_dice(surfaces: Surfaces, tolerance: float) -> float:
    """The share of both surfaces that lies within `tolerance` of the other (Nikolov et al. 2018), 0..1.

    Elements are weighted by their sizes. NaN if both masks are empty, 0 if one is.
    """
    total = surfaces.decided_sizes.sum() + surfaces.truth_sizes.sum()
    near = surfaces.decided_sizes[surfaces.to_truth <= tolerance].sum()
    near += surfaces.truth_sizes[surfaces.to_decided <= tolerance].sum()
    return float(near / total) if total else float("nan")


def diagonal(shape: Sequence[int], spacing: Sequence[float]) -> float:
    """The longest distance within an image of a shape: the worst distance, used if one mask is empty."""
    return float(np.linalg.norm([(side - 1) * step for side, step in zip(shape, spacing, strict=True)]))


def _box(mask: np.ndarray) -> tuple[slice, ...]:
    """The smallest box around the foreground of a mask, extended by one voxel where possible."""
    axes = range(mask.ndim)
    inside = [np.flatnonzero(mask.any(axis=tuple(other for other in axes if other != axis))) for axis in axes]
    return tuple(slice(max(at[0] - 1, 0), at[-1] + 2) if len(at) else slice(0, 1) for at in inside)


def _distances(places: np.ndarray, others: np.ndarray, steps: tuple[float, ...]) -> np.ndarray:
    from scipy.ndimage import distance_transform_edt

    if not others.any():
        return np.full(int(places.sum()), np.inf)
    return distance_transform_edt(~others, sampling=steps)[places]


def _surfels(mask: np.ndarray, steps: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The cells between voxels through which the surface runs, with the surface's length or area in each."""
    mask = np.pad(mask, 1)
    corners = list(product((0, 1), repeat=mask.ndim))
    sides = [tuple(slice(at, side - 1 + at) for at, side in zip(c, mask.shape, strict=True)) for c in corners]
    code = np.zeros([side - 1 for side in mask.shape], np.uint8)
    for bit, part in enumerate(sides):
        code |= mask[part].astype(np.uint8) << bit
    return (code > 0) & (code < (1 << len(corners)) - 1), _cell_sizes(steps)[code]


@cache
def _cell_sizes(steps: tuple[float, ...]) -> np.ndarray:
    """The length (2D, 16 codes) or area (3D, 256 codes) of the surface in a cell, by which corners are inside."""
    if len(steps) == 3:
        return np.array([_triangle_area(code, np.array(steps)) for code in range(256)])
    slant = float(np.hypot(steps[0], steps[1])) / 2
    # Codes 0 to 7 of the corners 00, 01, 10, 11, which are bits 0 to 3; the other codes are these inside out.
    half = [0, slant, slant, steps[1], slant, steps[0], 2 * slant, slant]
    return np.array([*half, *half[::-1]])


def _triangle_area(code: int, steps: np.ndarray) -> float:
    vertices, triangles = _triangles(code)
    corners = (vertices * steps)[triangles]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    return float(np.linalg.norm(normals, axis=1).sum() / 2)


@cache
def _triangles(code: int) -> tuple[np.ndarray, np.ndarray]:
    """Marching cubes (Lorensen and Cline 1987) in one cell with sides of 1: vertices (V, 3) and triangles (T, 3)."""
    measure = require("skimage.measure", "eval")
    cell = np.array([code >> bit & 1 for bit in range(8)], float).reshape(2, 2, 2)
    if code in (0, 255):
        return np.zeros((0, 3)), np.zeros((0, 3), int)
    vertices, triangles, *_ = measure.marching_cubes(cell, 0.5, method="lorensen")
    return np.round(2 * vertices.astype(float)) / 2, triangles


def _edges(mask: np.ndarray, steps: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The voxels of a mask with a neighbour outside the mask; places beyond the image count as outside."""
    return _border(mask, 1, False), np.ones(mask.shape)


def _contour(mask: np.ndarray, steps: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The voxels of a mask with a neighbour outside the mask, diagonals included; beyond the image nothing counts."""
    return _border(mask, mask.ndim, True), np.ones(mask.shape)


def _border(mask: np.ndarray, reach: int, beyond: bool) -> np.ndarray:
    """The voxels of a mask with a neighbour outside it along up to `reach` axes; `beyond` counts the image's end."""
    from scipy.ndimage import binary_erosion, generate_binary_structure

    return mask & ~binary_erosion(mask, generate_binary_structure(mask.ndim, reach), border_value=beyond)


def _by_size(surfaces: Surfaces, percent: float) -> float:
    """The greater of the two directions' distances within which `percent` of the surface lies."""
    directions = ((surfaces.to_truth, surfaces.decided_sizes), (surfaces.to_decided, surfaces.truth_sizes))
    return max(_share_within(distances, sizes, percent / 100) for distances, sizes in directions)


def _share_within(distances: np.ndarray, sizes: np.ndarray, share: float) -> float:
    """The first distance within which a share of the surface lies."""
    order = np.lexsort((sizes, distances))
    reached = np.cumsum(sizes[order]) / sizes.sum()
    return float(distances[order[min(int(np.searchsorted(reached, share)), len(order) - 1)]])


def _greater(surfaces: Surfaces, percent: float) -> float:
    return float(max(np.percentile(surfaces.to_truth, percent), np.percentile(surfaces.to_decided, percent)))


def _of_both(surfaces: Surfaces, percent: float) -> float:
    return float(np.percentile(surfaces.pooled, percent))


def _pooled_mean(surfaces: Surfaces) -> float:
    return float(surfaces.pooled.mean())


def _mean_of_means(surfaces: Surfaces) -> float:
    return float((surfaces.to_truth.mean() + surfaces.to_decided.mean()) / 2)


def _mean_by_size(surfaces: Surfaces) -> float:
    """Mean over both surfaces, each element weighted by its size."""
    sizes = np.concatenate([surfaces.decided_sizes, surfaces.truth_sizes])
    return float((surfaces.pooled * sizes).sum() / sizes.sum())


_INF, _NAN = float("inf"), float("nan")
_INFINITE, _UNDEFINED, _PERFECT = Empty(_INF, _NAN), Empty(_NAN, _NAN), Empty(0.0, 0.0)
CONVENTIONS = {
    "deepmind": Convention(
        "DeepMind's surface-distance: elements between voxels, each by its length or area; percentiles of the surface",
        _surfels, _by_size, _mean_by_size, Empty(_INF, _INF), Empty(_INF, _INF), _INFINITE,
    ),
    "monai": Convention(
        "MONAI: edge voxels alike; the greater of two interpolated percentiles",
        _edges, _greater, _pooled_mean, _UNDEFINED, _INFINITE, _INFINITE,
    ),
    "medpy": Convention(
        "MedPy: edge voxels alike; percentiles of both directions together",
        _edges, _of_both, _mean_of_means, _UNDEFINED, _UNDEFINED, _UNDEFINED,
    ),
    "seg-metrics": Convention(
        "seg-metrics: edge voxels by corners too; percentiles of both directions together; 0 where a mask is empty",
        _contour, _of_both, _pooled_mean, _PERFECT, _PERFECT, _PERFECT,
    ),
}  # fmt: skip
