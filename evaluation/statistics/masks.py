"""Metrics of masks: means over cases of overlaps and surface distances, and scores over the voxels of all cases.

One of the latter is the radiology study's own (arXiv 2312.02366), (Dice + Jaccard) / 2. Its Jaccard, torchmetrics'
with `ignore_index=0`, leaves out every pixel whose truth is background. Foreground predicted on background therefore
costs nothing there, and this Jaccard can exceed the Dice, which an ordinary Jaccard never does.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from biovfm_hf.errors import UserError

from .bootstrap import ALONE, Interval, Resampler, Resampling, bounds, mean_intervals, without_interval
from .metrics import MASK_METRICS, Arrays, MaskMetric, register
from .significance import paired_interval, paired_means

COUNTS, STUDY_COUNTS, SURFACE_VALUES = "test_counts", "test_study_counts", "test_surfaces"
SURFACES = ("hd95", "nsd", "assd")
OVERLAP_NOTE = (
    "dice and jaccard are means over cases of the foreground classes' values; a class that is in neither mask of a "
    "case is left out of the case's mean, one that is in a single mask counts 0"
)
STUDY_NOTE = (
    "radiology, radiology_dice and radiology_jaccard are the radiology study's own score: over the pixels of all test "
    "cases together, (Dice + Jaccard) / 2 with the pixels of true background left out of the Jaccard"
)


def segmentation_counts(decided: np.ndarray, truth: np.ndarray, classes: int) -> np.ndarray:
    """Voxel counts of one case, (classes, 4) int64: intersection, decided, true, and decided on true background.

    Counts are additive: for a score per volume, sum them over its slices before calling `dice` or `jaccard`.

    Raises:
        UserError: the masks differ in shape or contain a class outside 0..classes-1.
    """
    decided, truth = np.asarray(decided), np.asarray(truth)
    if decided.shape != truth.shape:
        raise UserError(f"masks differ in shape: decided {decided.shape}, truth {truth.shape}")
    for name, mask in (("decided", decided), ("truth", truth)):
        if mask.size and (mask.min() < 0 or mask.max() >= classes):
            raise UserError(f"{name} mask holds classes {mask.min()}..{mask.max()}; expected 0..{classes - 1}")
    hit = np.bincount(truth[decided == truth].reshape(-1), minlength=classes)
    counts = [
        hit,
        np.bincount(decided.reshape(-1), minlength=classes),
        np.bincount(truth.reshape(-1), minlength=classes),
        np.bincount(decided[truth == 0].reshape(-1), minlength=classes),
    ]
    return np.stack(counts, axis=1).astype(np.int64)


def dice(counts: np.ndarray) -> np.ndarray:
    """Dice (1945) per class from `segmentation_counts` (..., classes, 4); NaN if a class is in neither mask."""
    hit, decided, truth, _ = np.moveaxis(np.asarray(counts, dtype=np.float64), -1, 0)
    return _ratio(2 * hit, decided + truth)


def jaccard(counts: np.ndarray) -> np.ndarray:
    """Jaccard index per class from `segmentation_counts` (..., classes, 4); NaN if a class is in neither mask."""
    hit, decided, truth, _ = np.moveaxis(np.asarray(counts, dtype=np.float64), -1, 0)
    return _ratio(hit, decided + truth - hit)


def jaccard_without_background(counts: np.ndarray) -> np.ndarray:
    """Jaccard index per class over the pixels whose truth is not background, from counts (..., classes, 4).

    NaN if a class is in neither mask there.
    """
    hit, decided, truth, on_background = np.moveaxis(np.asarray(counts, dtype=np.float64), -1, 0)
    return _ratio(hit, decided - on_background + truth - hit)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)


def foreground_mean(per_class: np.ndarray) -> np.ndarray:
    """Mean over the defined foreground classes, (..., classes) -> (...); NaN if none is defined."""
    return known_mean(np.asarray(per_class)[..., 1:])


def known_mean(values: np.ndarray) -> np.ndarray:
    """Mean over the finite values along the last axis; NaN if there are none."""
    known = np.isfinite(values)
    total = np.where(known, values, 0.0).sum(-1)
    return np.divide(total, known.sum(-1), out=np.full(np.shape(total), np.nan), where=known.any(-1))


def mean_dice(counts: np.ndarray) -> float:
    """Mean over cases of the mean Dice of the foreground classes that occur; 0 if no class is defined."""
    mean = float(known_mean(foreground_mean(dice(counts))))
    return 0.0 if np.isnan(mean) else mean


def pooled_scores(counts: np.ndarray) -> dict[str, np.ndarray]:
    """The radiology study's score and its two parts, each (...,), from counts (..., classes, 4) of all pixels."""
    return {name: pooled(counts) for name, pooled in _POOLED.items()}


_POOLED: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "radiology": lambda counts: (
        (foreground_mean(dice(counts)) + foreground_mean(jaccard_without_background(counts))) / 2
    ),
    "radiology_dice": lambda counts: foreground_mean(dice(counts)),
    "radiology_jaccard": lambda counts: foreground_mean(jaccard_without_background(counts)),
}


def _surface(place: int) -> Callable[[Arrays], np.ndarray]:
    return lambda arrays: known_mean(arrays[SURFACE_VALUES][..., place])


_DISTANCE: dict[str, Any] = {
    "reads": SURFACE_VALUES, "averaged": False, "highest": None, "percent": False, "lower_is_better": True,
}  # fmt: skip
for _metric in (
    MaskMetric("dice", "Dice", COUNTS, lambda arrays: foreground_mean(dice(arrays[COUNTS])), column=True),
    MaskMetric("jaccard", "Jaccard", COUNTS, lambda arrays: foreground_mean(jaccard(arrays[COUNTS])), column=True),
    MaskMetric("hd95", "HD95", cases=_surface(0), column=True, **_DISTANCE),
    MaskMetric("nsd", "NSD", SURFACE_VALUES, _surface(1), column=True, averaged=False),
    MaskMetric("assd", "ASSD", cases=_surface(2), column=True, **_DISTANCE),
    MaskMetric("radiology", "(Dice + Jaccard) / 2, pooled", COUNTS, pooled=_POOLED["radiology"], column=True),
    MaskMetric(
        "radiology_dice", "Dice, pooled", COUNTS, pooled=_POOLED["radiology_dice"], compared=False
    ),
    MaskMetric(
        "radiology_jaccard", "Jaccard without background, pooled", COUNTS, pooled=_POOLED["radiology_jaccard"],
        compared=False,
    ),
):  # fmt: skip
    register(_metric)


def known_metrics(arrays: Arrays) -> Iterator[MaskMetric]:
    """The metrics of masks whose arrays are present."""
    return (metric for metric in MASK_METRICS.values() if metric.reads in arrays)


def draw_metric(metric: MaskMetric, arrays: Arrays, resampler: Resampler, resamples: int) -> np.ndarray:
    """A metric's value followed by its values over resamples of the cases: (1 + resamples,), NaN if undefined."""
    cases = len(arrays[metric.reads])
    weightings = [np.ones((cases, 1)), *resampler.blocks(resamples)]
    return np.concatenate([weighted(metric, arrays, weights) for weights in weightings])


def weighted(metric: MaskMetric, arrays: Arrays, weights: np.ndarray) -> np.ndarray:
    """A metric's values (B,) under B weightings (cases, B) of the cases."""
    weights = weights.astype(np.float64)
    if metric.pooled is not None:
        return metric.pooled(np.einsum("nb,nkc->bkc", weights, _pooled_counts(arrays)))
    assert metric.cases is not None
    values = metric.cases(arrays)
    known = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return (weights.T @ np.where(known, values, 0.0)) / (weights.T @ known)


def _pooled_counts(arrays: Arrays) -> np.ndarray:
    """Counts at the size that the study scores, if the protocol stores them; otherwise at the masks' own size."""
    return arrays[STUDY_COUNTS] if STUDY_COUNTS in arrays else arrays[COUNTS]


def mask_intervals(
    arrays: Arrays, classes: list[str], resampling: Resampling, clusters: np.ndarray | None = None
) -> dict[str, Interval]:
    """All metrics of masks of a split with intervals over resamples of its cases, and Dice and Jaccard of each class.

    Args:
        arrays: counts (cases, classes, 4), and surface values (cases, classes - 1, 3) if they were measured.
        classes: names of the classes, background first.
        resampling: number of resamples and seed; the resamples are drawn as under protocol `fast`.
        clusters: (cases,) subjects, to draw whole subjects.
    """
    entries: dict[str, Interval] = {}
    per_class = {"dice": dice(arrays[COUNTS]), "jaccard": jaccard(arrays[COUNTS])}
    for metric in known_metrics(arrays):
        if metric.cases is None:
            entries[metric.name] = _pooled_interval(metric, arrays, resampling, clusters)
            continue
        columns = [metric.cases(arrays)]
        names = [metric.name]
        if metric.name in per_class and len(classes) > 2:
            columns += list(per_class[metric.name][:, 1:].T)
            names += [f"{metric.name}_{label}" for label in classes[1:]]
        intervals = mean_intervals(np.column_stack(columns), resampling, clusters)
        entries |= dict(zip(names, intervals, strict=True))
    return entries


def _pooled_interval(
    metric: MaskMetric, arrays: Arrays, resampling: Resampling, clusters: np.ndarray | None
) -> Interval:
    cases = len(_pooled_counts(arrays))
    resampler = Resampler(cases, "fast", resampling.seed, clusters)
    value, *rest = draw_metric(metric, arrays, resampler, resampling.resamples)
    if np.isnan(value):
        empty: Interval = {"value": None, "mean": None, "low": None, "high": None, "cases": 0}
        return empty | {"reason": "no foreground class occurs"}
    low, high = bounds(np.array(rest), "fast")
    entry: Interval = {"value": float(value), "mean": float(np.nanmean(rest)), "low": low, "high": high}
    entry["cases"] = cases
    return without_interval(entry, ALONE) if resampler.count_units() == 1 else entry


def paired_difference(
    metric: MaskMetric,
    first: Arrays,
    second: Arrays,
    resamples: int = 1000,
    seed: int = 0,
    clusters: np.ndarray | None = None,
) -> dict[str, Any]:
    """The difference between two models in a metric on the same cases, with its interval and p, see `paired_interval`.

    A mean over cases is compared on the cases that define it for both models.
    """
    if metric.cases is not None:
        return paired_means(metric.cases(first) - metric.cases(second), resamples, seed, clusters)
    resampler = Resampler(len(_pooled_counts(first)), "fast", seed, clusters)
    difference, *drawn = (draw_metric(metric, first, resampler, resamples)) - draw_metric(
        metric, second, resampler, resamples
    )
    if np.isnan(difference):
        return {"difference": None, "low": None, "high": None, "p": None, "reason": "no foreground class occurs"}
    return paired_interval(float(difference), np.array(drawn), resampler.count_units())
