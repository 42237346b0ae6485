"""Calibration of probabilities within groups: equal AUCs with unequal prevalence still give unequal decisions.

Slope and intercept are Cox's (1958), from a logistic regression of the label on the logit of its score. A slope below
1 means that scores are too extreme, an intercept above 0 that they are too low.
"""

from typing import Any

import numpy as np

from ...statistics.counts import ECE_BINS
from .groups import FEWEST, Z_95, check_groups

STEPS = 50
CLIP = 1e-6  # scores are clipped to this distance from 0 and 1, so that their logits are finite

Row = dict[str, Any]


def group_calibration(labels: np.ndarray, scores: np.ndarray, groups: np.ndarray) -> dict[str, Row]:
    """How well calibrated the scores of one label are, in each group and over all (under the name "").

    Args:
        labels: (n,) of 0/1.
        scores: (n,) in 0..1.
        groups: (n,) the group of each case.

    Returns:
        {group: {"n", "prevalence", "mean_score", "ece", "slope", "intercept"}}. The ECE uses 15 bins of equal mass
        with at least 10 cases each. Slope and intercept are {"value", "low", "high"}; a "reason" replaces them if
        there are fewer than 10 positives or negatives, or if the scores separate the two. Empty if the scores are not
        probabilities.
    """
    if scores.min(initial=0) < 0 or scores.max(initial=0) > 1:
        return {}
    groups = check_groups(groups, len(labels))
    members = {"": np.ones(len(labels), bool)} | {str(name): groups == name for name in np.unique(groups)}
    return {name: _calibration(labels[rows], scores[rows]) for name, rows in members.items()}


def _calibration(labels: np.ndarray, scores: np.ndarray) -> Row:
    positives = int(labels.sum())
    row: Row = {"n": len(labels), "prevalence": float(labels.mean()), "mean_score": float(scores.mean()),
                "ece": expected_error(labels, scores)}  # fmt: skip
    if min(positives, len(labels) - positives) < FEWEST:
        few = f"{positives} positives and {len(labels) - positives} negatives; a slope needs {FEWEST} of each"
        return {**row, "reason": few}
    fit = cox(labels, scores)
    return {**row, **fit} if fit else {**row, "reason": "the scores separate all positives from all negatives"}


def expected_error(labels: np.ndarray, scores: np.ndarray) -> float:
    """Expected calibration error over at most 15 bins of equal mass, each with 10 or more cases."""
    order = np.argsort(scores, kind="stable")
    bins = np.array_split(order, min(ECE_BINS, max(len(order) // FEWEST, 1)))
    return float(sum(abs(float((labels[rows] - scores[rows]).sum())) for rows in bins) / max(len(labels), 1))


def cox(labels: np.ndarray, scores: np.ndarray) -> Row | None:
    """Calibration slope and intercept with Wald's 95 % intervals; None if the likelihood has no maximum."""
    clipped = np.clip(scores.astype(np.float64), CLIP, 1 - CLIP)
    design = np.column_stack([np.ones(len(clipped)), np.log(clipped / (1 - clipped))])
    weights = np.array([0.0, 1.0])
    for _ in range(STEPS):
        fitted = 1 / (1 + np.exp(-np.clip(design @ weights, -500, 500)))
        information = design.T @ (design * (fitted * (1 - fitted))[:, None])
        if np.linalg.cond(information) > 1e12:
            return None
        step = np.linalg.solve(information, design.T @ (labels - fitted))
        weights = weights + np.clip(step, -2, 2)
        if np.abs(step).max() < 1e-10:
            errors = np.sqrt(np.diag(np.linalg.inv(information)))
            return {name: {"value": float(value), "low": float(value - Z_95 * error),
                           "high": float(value + Z_95 * error)}
                    for name, value, error in zip(("intercept", "slope"), weights, errors, strict=True)}  # fmt: skip
    return None
