"""The trust report of a scored test split: selective risk, conformal sets from validation, gaps between groups."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ...statistics.counts import predict
from ...statistics.kinds import BINARY, MULTILABEL
from ...statistics.split import ScoredSplit
from .calibration import group_calibration
from .conformal import METHODS, Calibration, coverage_range, measure_sets
from .groups import check_groups, disparities, group_aucs, group_rates, shifted_aucs
from .selective import risk_curve

COVERAGES = (0.5, 0.7, 0.8, 0.9, 1.0)
RISKS = (0.05, 0.1, 0.2)
SUM_TOLERANCE = 1e-3  # for the sum of a row of probabilities, which may be stored with few digits

Row = dict[str, Any]


@dataclass(frozen=True)
class Column:
    """One decision for each case: the classes as a whole, or one of several labels.

    Attributes:
        name: `classes`, or `label K`.
        probabilities: (n, C) probabilities.
        labels: (n,) true class indices.
        decisions: (n,) decided class indices.
        confidence: (n,) confidence of the decisions; larger is surer.
    """

    name: str
    probabilities: np.ndarray
    labels: np.ndarray
    decisions: np.ndarray
    confidence: np.ndarray


def columns(split: ScoredSplit) -> list[Column]:
    """The decisions of a split with thresholds: one column for the classes, or one for each 0/1 label.

    The confidence in a class is its probability. The confidence in a 0/1 label is the distance from its threshold.
    """
    decisions = predict(split)
    if split.task not in (BINARY, MULTILABEL):
        return [Column("classes", split.scores, split.labels, decisions, split.scores.max(axis=1))]
    assert split.thresholds is not None
    distances = np.abs(split.scores - split.thresholds)
    pairs = [np.stack([1 - scores, scores], axis=1) for scores in split.scores.T]
    return [
        Column(f"label {k}", pairs[k], split.labels[:, k], decisions[:, k], distances[:, k]) for k in range(len(pairs))
    ]


def selective_rows(split: ScoredSplit) -> list[Row]:
    """Selective risk of each column of a split with thresholds.

    Returns:
        Rows {"column", "error", "aurc", "e_aurc", "augrc", "risk_at_coverage", "coverage_at_risk"}.
    """
    rows = []
    for column in columns(split):
        curve = risk_curve(column.confidence, column.labels == column.decisions)
        rows.append({
            "column": column.name, "error": curve.error, "aurc": curve.aurc, "e_aurc": curve.excess_aurc,
            "augrc": curve.augrc, "risk_at_coverage": {str(share): curve.risk_at(share) for share in COVERAGES},
            "coverage_at_risk": {str(risk): curve.coverage_at(risk) for risk in RISKS},
        })  # fmt: skip
    return rows


def conformal_rows(
    val: ScoredSplit, test: ScoredSplit, coverage: float, seed: int = 0, groups: dict[str, np.ndarray] | None = None
) -> tuple[list[Row], list[str]]:
    """Sets of every method, calibrated on validation and measured on test; and notes.

    Args:
        val: validation split with thresholds.
        test: test split with thresholds.
        coverage: target coverage of the sets, between 0 and 1.
        seed: random seed of the randomised methods.
        groups: {column: (n,) the group of each test case}, for which the coverage is computed too.

    Returns:
        Rows {"column", "method", "promised", "expected_low", "expected_high", "as_expected", the keys of
        `measure_sets`, "groups": {column: {group: coverage, its interval, n}}}. If the scores are not probabilities
        there are no rows and a note says so.
    """
    if not all(_probabilities(column) for split in (val, test) for column in columns(split)):
        return [], ["no conformal sets: scores are not probabilities (0 to 1, with the sum 1 over classes)"]
    rows = [
        _conformal_row(calibrated, column, name, coverage, seed, groups or {})
        for calibrated, column in zip(columns(val), columns(test), strict=True)
        for name in METHODS
    ]
    note = "conformal sets are calibrated on the validation split; if it served other choices too, they may cover less"
    return rows, [note]


def _probabilities(column: Column) -> bool:
    values = column.probabilities
    return bool(values.min() >= 0 and values.max() <= 1 and np.abs(values.sum(axis=1) - 1).max() <= SUM_TOLERANCE)


def _conformal_row(
    val: Column, test: Column, method: str, coverage: float, seed: int, groups: dict[str, np.ndarray]
) -> Row:
    calibration = Calibration(val.probabilities, val.labels, seed)
    sets = METHODS[method].make(calibration, test.probabilities, coverage)
    measured = measure_sets(sets, test.labels)
    low, high = coverage_range(METHODS[method].shares(val.labels, test.labels, coverage))
    return {
        "column": test.name, "method": method, "promised": coverage, "expected_low": low, "expected_high": high,
        "as_expected": bool(low <= measured["coverage"] <= high), **measured,
        "groups": {name: _group_coverage(sets, test.labels, values) for name, values in groups.items()},
    }  # fmt: skip


def _group_coverage(sets: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> Row:
    groups = check_groups(groups, len(labels))
    measured = {name: measure_sets(sets[groups == name], labels[groups == name]) for name in np.unique(groups)}
    kept = ("coverage", "low", "high")
    return {str(name): {"n": int((groups == name).sum())} | {key: row[key] for key in kept}
            for name, row in measured.items()}  # fmt: skip


def group_rows(split: ScoredSplit, groups: dict[str, np.ndarray]) -> list[Row]:
    """Gaps between groups for every grouping, and every label or class of a split with thresholds.

    Args:
        split: split with thresholds.
        groups: {name of the grouping: (n,) the group of each case}.

    Returns:
        Rows {"by", "label", the keys of `group_aucs`, "rates", "disparities", "shifted", "calibration"}.
    """
    labels, decisions = split.columns, predict(split)
    if decisions.ndim == 1:
        decisions = (decisions[:, None] == np.arange(split.scores.shape[1])).astype(np.int64)
    rows = []
    for by, values in groups.items():
        for k in range(labels.shape[1]):
            rates = group_rates(labels[:, k], decisions[:, k], values)
            gaps = group_aucs(labels[:, k], split.scores[:, k], values, split.subjects)
            shifted = shifted_aucs(labels[:, k], split.scores[:, k], values)
            rows.append({"by": by, "label": k, **gaps, "rates": rates, "disparities": disparities(rates),
                         "shifted": shifted,
                         "calibration": group_calibration(labels[:, k], split.scores[:, k], values)})  # fmt: skip
    return rows


def group_lines(rows: list[Row]) -> list[str]:
    """Gaps as lines for the screen, one for each grouping and label."""
    lines = []
    for row in rows:
        head = f"by {row['by']}, label {row['label']}: "
        few = [f"{name} ({each['reason']})" for name, each in row["groups"].items() if "reason" in each]
        if "gap" in row:
            worst, best = (f"{row[end]} {row['groups'][row[end]]['auc']:.4f}" for end in ("worst", "best"))
            significant = sum(pair["p_holm"] < 0.05 for pair in row["pairs"])
            head += f"AUC worst {worst}, best {best}, gap {row['gap']:.4f} ({row['low']:.4f}, {row['high']:.4f}); "
            head += f"{significant} of {len(row['pairs'])} pairs differ significantly"
        else:
            head += row["reason"]
        slopes = {name: each["slope"] for name, each in row.get("calibration", {}).items() if name and "slope" in each}
        slope_texts = [f"{name} {s['value']:.2f} ({s['low']:.2f}, {s['high']:.2f})" for name, s in slopes.items()]
        head += f"; calibration slope {', '.join(slope_texts)}" if slope_texts else ""
        lines.append(head + (f"; no AUC of {', '.join(few)}" if few else ""))
    return lines


def trust_lines(trust: dict[str, Any]) -> list[str]:
    """Selective risk and sets as lines for the screen."""
    lines = ["", "selective risk     error     AURC   E-AURC    AUGRC   risk at 0.8 coverage"]
    for row in trust["selective"]:
        figures = [row[name] for name in ("error", "aurc", "e_aurc", "augrc")]
        shown = "".join(f"{figure:>9.4f}" for figure in figures)
        lines.append(f"{row['column']:<15}{shown}   {row['risk_at_coverage']['0.8']:.4f}")
    if trust["conformal"]:
        lines += ["", "conformal sets                 promised  measured   95 % interval      mean size  empty"]
    for row in trust["conformal"]:
        size = f"{row['mean_size']:>11.2f}{row['empty']:>7}"
        doubt = "" if row["as_expected"] else "  (outside the range expected by chance)"
        lines.append(f"{row['column']:<12}{row['method']:<19}{row['promised']:>8.2f}{row['coverage']:>10.4f}"
                     f"   {row['low']:.4f} to {row['high']:.4f}{size}{doubt}")  # fmt: skip
    return lines
