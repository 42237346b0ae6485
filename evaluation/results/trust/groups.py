"""Gaps between groups of people: by sex, age, site, or any other attribute of the test cases.

It gives the AUC of each group with DeLong's variance, the worst group, and differences with intervals. Groups are
independent samples, so the variance of a difference is the sum of their variances. The best and the worst group are
picked after seeing the results, so the interval of their difference is too narrow; base claims on the tests of all
pairs, corrected by Holm. A group with fewer than 10 positives or negatives gets no AUC, which would be mere noise.
"""

from itertools import combinations
from typing import Any

import numpy as np

from biovfm_hf.errors import UserError
from biovfm_hf.results.significance import holm

from ...statistics.significance import delong_shares

FEWEST = 10  # fewest positives, and negatives, of a group that gets an AUC
Z_95 = 1.959963984540054  # quantile of the standard normal distribution for 95 % intervals

Row = dict[str, Any]


def group_aucs(labels: np.ndarray, scores: np.ndarray, groups: np.ndarray, subjects: np.ndarray | None = None) -> Row:
    """AUC of one label in each group, the worst group, and the gaps.

    Args:
        labels: (n,) of 0/1.
        scores: (n,) larger means more likely.
        groups: (n,) the group of each case.
        subjects: (n,) subject of each case; the cases of a subject count together (Obuchowski 1997). None if each case
            is its own subject.

    Returns:
        {"groups": {name: {"n", "positives", "auc", "low", "high", "variance"}, or a "reason" instead of the last
        four}, "worst", "best", "gap", "low", "high", "pairs": [{"a", "b", "difference", "low", "high", "p",
        "p_holm"}]}; without the gap if fewer than two groups have an AUC.
    """
    groups = check_groups(groups, len(labels))
    rows = {str(name): _group_auc(labels, scores, groups == name, subjects) for name in np.unique(groups)}
    known = {name: row for name, row in rows.items() if "auc" in row}
    if len(known) < 2:
        return {"groups": rows, "reason": "fewer than two groups have an AUC to compare"}
    ranked = sorted(known, key=lambda name: known[name]["auc"])
    gap = _difference(known[ranked[-1]], known[ranked[0]])
    pairs = [{"a": a, "b": b, **_difference(known[a], known[b])} for a, b in combinations(known, 2)]
    for pair, adjusted in zip(pairs, holm([pair["p"] for pair in pairs]), strict=True):
        pair["p_holm"] = float(adjusted)
    return {"groups": rows, "worst": ranked[0], "best": ranked[-1], "gap": gap["difference"], "low": gap["low"],
            "high": gap["high"], "pairs": pairs}  # fmt: skip


def check_groups(groups: np.ndarray, cases: int) -> np.ndarray:
    """Groups (n,) as text, one for each case.

    Raises:
        UserError: the number of groups differs from the number of cases, or they are not a single column.
    """
    groups = np.asarray(groups)
    if groups.shape not in ((cases,), (cases, 1)):
        raise UserError(f"groups have shape {groups.shape} for {cases} cases; give one value for each")
    return groups.reshape(-1).astype(str)


def _group_auc(labels: np.ndarray, scores: np.ndarray, members: np.ndarray, subjects: np.ndarray | None) -> Row:
    labels, scores = labels[members], scores[members]
    positives = int(labels.sum())
    row: Row = {"n": len(labels), "positives": positives}
    if min(positives, len(labels) - positives) < FEWEST:
        few = f"{positives} positives and {len(labels) - positives} negatives; an AUC needs {FEWEST} of each"
        return {**row, "reason": few}
    aucs, shares = delong_shares(labels, scores)
    own = shares[0]
    if subjects is not None:
        own = np.bincount(np.unique(subjects[members], return_inverse=True)[1].reshape(-1), weights=own)
    auc, variance = float(aucs[0]), float((own**2).sum())
    half = Z_95 * variance**0.5
    low, high = (auc - half, auc + half) if variance > 0 else newcombe(auc, positives, len(labels) - positives)
    return {**row, "auc": auc, "low": max(low, 0.0), "high": min(high, 1.0), "variance": variance}


def newcombe(auc: float, positives: int, negatives: int) -> tuple[float, float]:
    """Newcombe's (2006, method 5) interval for an AUC of 0 or 1, for which DeLong's variance is 0."""
    from scipy.optimize import brentq

    mean = (positives + negatives) / 2

    def beyond(value: float) -> float:
        spread = 1 + (mean - 1) * ((1 - value) / (2 - value) + value / (1 + value))
        return (auc - value) ** 2 - Z_95**2 * value * (1 - value) * spread / (positives * negatives)

    low = brentq(beyond, 1e-12, auc - 1e-12) if auc > 0 and beyond(1e-12) > 0 > beyond(auc - 1e-12) else 0.0
    high = brentq(beyond, auc + 1e-12, 1 - 1e-12) if auc < 1 and beyond(auc + 1e-12) < 0 < beyond(1 - 1e-12) else 1.0
    return float(low), float(high)


def _difference(a: Row, b: Row) -> Row:
    """Difference of two independent AUCs; the squared distances of their ends add up (Zou & Donner 2008)."""
    from scipy.stats import norm

    difference = a["auc"] - b["auc"]
    below_a, above_b = _reach(a, "low"), _reach(b, "high")
    above_a, below_b = _reach(a, "high"), _reach(b, "low")
    low, high = difference - np.hypot(below_a, above_b), difference + np.hypot(above_a, below_b)
    half = (high - difference) if difference < 0 else (difference - low)
    p = float(2 * norm.sf(abs(difference) / (half / Z_95))) if half > 0 else float(difference == 0)
    return {"difference": difference, "low": float(low), "high": float(high), "p": p}


def _reach(row: Row, end: str) -> float:
    """Distance of an end from the AUC, from the variance if there is one, because ends are clipped at 0 and 1."""
    return Z_95 * row["variance"] ** 0.5 if row["variance"] > 0 else abs(row["auc"] - row[end])


def group_rates(labels: np.ndarray, decisions: np.ndarray, groups: np.ndarray) -> dict[str, Row]:
    """Rates of one label's decisions in each group and over all (under the name ""), None if undefined.

    Args:
        labels: (n,) of 0/1.
        decisions: (n,) of 0/1.
        groups: (n,) the group of each case.

    Returns:
        {group: {"tpr": sensitivity, "fpr": 1 - specificity, "selection_rate": share of positive decisions, "accuracy",
        "balanced_accuracy"}}
    """
    groups = check_groups(groups, len(labels))
    members = {"": np.ones(len(labels), bool)} | {str(name): groups == name for name in np.unique(groups)}
    return {name: _rates(labels[rows] == 1, decisions[rows] == 1) for name, rows in members.items()}


def _rates(labels: np.ndarray, decisions: np.ndarray) -> Row:
    tpr = float(decisions[labels].mean()) if labels.any() else None
    fpr = float(decisions[~labels].mean()) if not labels.all() else None
    balanced = (tpr + 1 - fpr) / 2 if tpr is not None and fpr is not None else None
    return {"tpr": tpr, "fpr": fpr, "selection_rate": float(decisions.mean()),
            "accuracy": float((labels == decisions).mean()), "balanced_accuracy": balanced}  # fmt: skip


def disparities(rates: dict[str, Row]) -> dict[str, Row]:
    """Differences between the groups of `group_rates`, by fairlearn's names.

    Returns:
        {rate: {"difference": largest minus smallest, "difference_to_overall": largest distance from the rate over all,
        "ratio": smallest over largest}}; rates that fewer than two groups define are left out. The demographic parity
        difference is that of `selection_rate`; the equalised odds difference is the larger of those of `tpr` and
        `fpr`.
    """
    gaps: dict[str, Row] = {}
    for name, overall in rates[""].items():
        values = [row[name] for group, row in rates.items() if group and row[name] is not None]
        if len(values) < 2:
            continue
        gaps[name] = {
            "difference": max(values) - min(values),
            "difference_to_overall": max(abs(value - overall) for value in values),
            "ratio": min(values) / max(values) if max(values) > 0 else 1.0,
        }
    return gaps


def shifted_aucs(labels: np.ndarray, scores: np.ndarray, groups: np.ndarray) -> dict[str, dict[str, float | None]]:
    """AUCs across a group's border (Borkan et al. 2019), which show shifts of scores that the group's own AUC hides.

    Returns:
        {group: {"bpsn": AUC of the others' positives against its negatives, "bnsp": AUC of its positives against the
        others' negatives}}, None if there are fewer than `FEWEST` of either.
    """
    groups = check_groups(groups, len(labels))
    aucs = {}
    for name in np.unique(groups):
        inside = groups == name
        chosen = {"bpsn": np.where(labels == 1, ~inside, inside), "bnsp": np.where(labels == 1, inside, ~inside)}
        rows = {key: _group_auc(labels, scores, members, None) for key, members in chosen.items()}
        aucs[str(name)] = {key: row.get("auc") for key, row in rows.items()}
    return aucs
