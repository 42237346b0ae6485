"""Surface distances of a segmentation's test cases: whole volumes where images are their slices."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..statistics.bootstrap import Resampling, mean_intervals
from ..statistics.surface import average_distance, find_convention, hausdorff, measure_surfaces, surface_dice
from ..tasks import Split, Task
from .masks import BATCH_SIZE, Predictor, checked_mask, decide

NAMES = ("hd95", "nsd", "assd")
CONVENTION, TOLERANCE = "deepmind", 2.0


@dataclass(frozen=True)
class SurfaceRule:
    """How surfaces are compared: a `convention` of `statistics.surface`, and the `tolerance` of surface Dice.

    The tolerance is in millimetres where the spacing of the cases is known, in pixels otherwise.
    """

    convention: str = CONVENTION
    tolerance: float = TOLERANCE


def measure_cases(task: Task, predict: Predictor, rule: SurfaceRule) -> np.ndarray:
    """HD95, surface Dice and average distance (cases, classes - 1, 3) of the test cases' foreground classes."""
    split, rows = task.splits["test"], []
    for case, (decided, truth) in enumerate(whole_cases(split, task.num_outputs, predict)):
        spacing = (1.0,) * decided.ndim if split.spacing is None else split.spacing[case]
        rows.append([_measure(decided == k, truth == k, spacing, rule) for k in range(1, task.num_outputs)])
    return np.array(rows, float)


def _measure(decided: np.ndarray, truth: np.ndarray, spacing: Any, rule: SurfaceRule) -> tuple[float, float, float]:
    surfaces = measure_surfaces(decided, truth, spacing, rule.convention)
    return (
        hausdorff(surfaces, convention=rule.convention),
        surface_dice(surfaces, rule.tolerance),
        average_distance(surfaces, rule.convention),
    )


def whole_cases(split: Split, classes: int, predict: Predictor) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Decided and true mask of each case in turn: (H, W) of an image, (slices, H, W) of a volume."""
    if split.case_of_image is None:
        for start in range(0, len(split.images), BATCH_SIZE):
            rows = np.arange(start, min(start + BATCH_SIZE, len(split.images)))
            yield from _decided(split, classes, predict, rows)
        return
    for case in range(int(split.case_of_image.max()) + 1):
        slices = np.flatnonzero(split.case_of_image == case)
        parts = [part for part in np.array_split(slices, -(-len(slices) // BATCH_SIZE)) if len(part)]
        pairs = [pair for part in parts for pair in _decided(split, classes, predict, part)]
        yield np.stack([decided for decided, _ in pairs]), np.stack([truth for _, truth in pairs])


def _decided(
    split: Split, classes: int, predict: Predictor, rows: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for scores, row in zip(predict(rows), rows, strict=True):
        truth = checked_mask(split, int(row), classes)
        yield decide(scores, truth.shape), truth


def surface_intervals(
    task: Task, values: np.ndarray, rule: SurfaceRule, resampling: Resampling
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Means over cases of the classes' mean values, with intervals, and what was left out of them, in words."""
    subjects = task.splits["test"].subjects
    finite = np.where(np.isfinite(values), values, np.nan)
    known = np.isfinite(finite)
    total = np.where(known, finite, 0).sum(1)
    means = np.divide(total, known.sum(1), out=np.full(total.shape, np.nan), where=known.any(1))
    entries = dict(zip(NAMES, mean_intervals(means, resampling, subjects), strict=True))
    unit = "pixels" if task.splits["test"].spacing is None else "mm"
    notes = [
        f"hd95, nsd and assd in {unit}, by the convention of {find_convention(rule.convention).title}; nsd within "
        f"{rule.tolerance:g} {unit}",
    ]
    lost = [f"{name} {int(np.sum(~known[..., k]))}" for k, name in enumerate(NAMES) if not known[..., k].all()]
    if lost:
        notes.append(
            "structures without a finite value, because one mask or both are empty, are left out of the means: "
            f"{', '.join(lost)} of {values[..., 0].size}"
        )
    return entries, notes
