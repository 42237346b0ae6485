"""The radiology study's own score of masks (arXiv 2312.02366): (Dice + Jaccard) / 2 over the pixels of all cases.

Its Jaccard, torchmetrics' with `ignore_index=0`, leaves out every pixel whose truth is background, so that what is
drawn on background by mistake costs nothing: it can exceed its Dice, which ordinary pairs never do.
"""

import numpy as np

from .bootstrap import ALONE, Interval, Resampler, Resampling, bounds, without_interval
from .metrics import dice

NOTE = (
    "radiology, radiology_dice and radiology_jaccard are the radiology study's own score: over the pixels of all test "
    "cases together, (Dice + Jaccard) / 2 with the pixels of true background left out of the Jaccard; dice and "
    "jaccard are means over cases"
)


def jaccard_without_background(counts: np.ndarray) -> np.ndarray:
    """Jaccard index per class over the pixels whose truth is no background, from counts (..., classes, 4).

    NaN where a class is in neither mask there.
    """
    hit, decided, truth, on_background = np.moveaxis(np.asarray(counts, dtype=np.float64), -1, 0)
    union = decided - on_background + truth - hit
    return np.divide(hit, union, out=np.full(hit.shape, np.nan), where=union > 0)


def pooled_scores(counts: np.ndarray) -> dict[str, np.ndarray]:
    """The study's score and its two parts, each (...,), from counts (..., classes, 4) of all pixels of a split.

    Means run over the foreground classes that are defined; NaN where none is.
    """
    parts = {"radiology_dice": dice(counts), "radiology_jaccard": jaccard_without_background(counts)}
    means = {name: _mean(values[..., 1:]) for name, values in parts.items()}
    return {"radiology": (means["radiology_dice"] + means["radiology_jaccard"]) / 2, **means}


def pooled_intervals(
    counts: np.ndarray, resampling: Resampling, clusters: np.ndarray | None = None
) -> dict[str, Interval]:
    """The study's score of a split, with intervals over resamples of its cases.

    Args:
        counts: (cases, classes, 4), see `metrics.segmentation_counts`.
        resampling: how many resamples, and their seed; they are drawn as under protocol `fast`.
        clusters: (cases,) subjects, to draw whole subjects.
    """
    resampler = Resampler(len(counts), "fast", resampling.seed, clusters)
    blocks = [np.einsum("nb,nkc->bkc", weights, counts) for weights in resampler.blocks(resampling.resamples)]
    point, drawn = pooled_scores(counts.sum(0)), pooled_scores(np.concatenate(blocks))
    entries = {name: _entry(float(point[name]), drawn[name], len(counts)) for name in point}
    if resampler.count_units() == 1:
        return {name: without_interval(entry, ALONE) for name, entry in entries.items()}
    return entries


def _mean(values: np.ndarray) -> np.ndarray:
    known = np.isfinite(values)
    total = np.where(known, values, 0).sum(-1)
    return np.divide(total, known.sum(-1), out=np.full(np.shape(total), np.nan), where=known.any(-1))


def _entry(value: float, drawn: np.ndarray, cases: int) -> Interval:
    if np.isnan(value):
        empty: Interval = {"value": None, "mean": None, "low": None, "high": None, "cases": 0}
        return empty | {"reason": "no foreground class occurs"}
    low, high = bounds(drawn, "fast")
    return {"value": value, "mean": float(np.nanmean(drawn)), "low": low, "high": high, "cases": cases}
