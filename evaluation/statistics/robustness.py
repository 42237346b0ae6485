"""How often a model is wrong on corrupted images: the errors of MedMNIST-C (Di Salvo et al. 2024, section 3).

An error is 1 - balanced accuracy at the thresholds chosen on clean validation images. The balanced error BE of a
corruption is the mean error over its severities, divided by that of AlexNet. The relative balanced error rBE first
subtracts from both the error without corruption. For a set, BE and rBE are means over its corruptions. rBE means
little where AlexNet's own error hardly rises, because its denominator is then near 0 or negative; such corruptions
are named.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .bootstrap import Resampling, bounds
from .metrics import METRICS, Scorer, Weighted
from .split import ScoredSplit

FIGURES = ("error", "added_error", "be", "rbe")  # of a corruption, and of all; the last two beside a baseline
SMALL_RISE = 0.01  # rise of AlexNet's error below which rBE is not reliable


@dataclass(frozen=True)
class Baseline:
    """The errors of the model that others are compared with: without corruption, and the mean for each corruption."""

    clean: float
    errors: dict[str, float] = field(default_factory=dict)


def robustness(
    clean: ScoredSplit, corrupted: dict[str, list[ScoredSplit]], baseline: Baseline | None, resampling: Resampling
) -> dict[str, Any]:
    """Errors, BE and rBE of every corruption and of all together, with 95 % intervals.

    Clean and corrupted images show the same cases, so each resample draws the same cases for all of them.

    Args:
        clean: the test split without corruption, with thresholds.
        corrupted: for each corruption, the split at each severity, with the same cases and thresholds.
        baseline: another model's errors; None leaves out BE and rBE.
        resampling: how intervals are made.

    Returns:
        {"clean_error", "error" (mean over corruptions), "added_error" (that minus the clean error), "be", "rbe": each
        {"value", "low", "high"}, "worst": the corruption with the highest error, "corruptions": {name: {"errors" and
        "aucs" by severity, "error", "added_error", "be", "rbe", and "rise", the denominator of rBE}}, "notes"}.
    """
    scorers = {name: [Scorer(split) for split in splits] for name, splits in corrupted.items()}
    whole = np.ones((clean.size, 1), np.float32)
    points = _figures(Scorer(clean), scorers, baseline, whole)
    blocks = resampling.of(clean).blocks(resampling.resamples)
    drawn = [_figures(Scorer(clean), scorers, baseline, weights) for weights in blocks]
    entries = {
        key: _entry(points[key][0], np.concatenate([each[key] for each in drawn]), resampling) for key in points
    }
    named: dict[str, dict[str, Any]] = {}
    for name, each in scorers.items():
        named[name] = {
            "errors": [float(_error(scorer, whole)[0]) for scorer in each],
            "aucs": [_auc(scorer, whole) for scorer in each],
            **{what: entries[what, name] for what in FIGURES if (what, name) in entries},
        }
        if baseline:
            named[name]["rise"] = baseline.errors[name] - baseline.clean
    whole_set = {what: entries[what, ""] for what in ("clean_error", *FIGURES) if (what, "") in entries}
    worst = max(named, key=lambda name: named[name]["error"]["value"])
    return {**whole_set, "worst": worst, "corruptions": named, "notes": _notes(named)}


def _figures(
    clean: Scorer, corrupted: dict[str, list[Scorer]], baseline: Baseline | None, weights: np.ndarray
) -> dict[tuple[str, str], np.ndarray]:
    """{(what, corruption or ""): (B,)} under weights (n, B)."""
    first = _error(clean, weights)
    figures = {("clean_error", ""): first}
    for name, scorers in corrupted.items():
        error = np.mean([_error(scorer, weights) for scorer in scorers], axis=0)
        figures["error", name], figures["added_error", name] = error, error - first
        if baseline:
            figures["be", name] = error / baseline.errors[name]
            figures["rbe", name] = (error - first) / (baseline.errors[name] - baseline.clean)
    for what in FIGURES if baseline else FIGURES[:2]:
        figures[what, ""] = np.mean([figures[what, name] for name in corrupted], axis=0)
    return figures


def _error(scorer: Scorer, weights: np.ndarray) -> np.ndarray:
    """1 - balanced accuracy (B,); with several labels, their mean."""
    return 1 - Weighted(scorer, weights).decided["balanced_accuracy"]


def _auc(scorer: Scorer, weights: np.ndarray) -> float | None:
    auc = float(METRICS["auc"].value(Weighted(scorer, weights))[0])
    return None if np.isnan(auc) else auc


def _entry(point: float, drawn: np.ndarray, resampling: Resampling) -> dict[str, float | None]:
    low, high = bounds(drawn, resampling.protocol)
    ends = {name: None if np.isnan(end) else end for name, end in (("low", low), ("high", high))}
    return {"value": float(point), **ends}


def _notes(named: dict[str, dict[str, Any]]) -> list[str]:
    """Notes on corruptions whose rBE means little, with the rBE of a set without them."""
    small = [name for name, row in named.items() if row.get("rise", 1.0) < SMALL_RISE]
    if not small:
        return []
    firm = [row["rbe"]["value"] for name, row in named.items() if name not in small]
    without = f"; without them rBE is {np.mean(firm):.3f}" if firm else ""
    return [
        f"AlexNet's error rises by less than {SMALL_RISE} under {', '.join(small)}, so their rBE says little{without}"
    ]
