"""An analysis as the rows of its tables, and its summary."""

import math
from typing import Any

import numpy as np

from biovfm_hf.results.significance import holm

from .analysis import Fit, ScalingAnalysis
from .tables import MEAN

SLOPE_COLUMNS = (
    "family", "task", "a", "low", "high", "se", "boot_low", "boot_high", "case_se", "b", "b_low", "b_high", "r2",
    "sizes", "form", "aicc_power_law", "aicc_saturating", "limit", "limit_low", "limit_high", "rate",
    "logit_a", "logit_low", "logit_high", "published",
)  # fmt: skip
CORRELATION_COLUMNS = (
    "family", "property", "n", "pearson", "low", "high", "p", "p_holm", "spearman", "spearman_low", "spearman_high",
    "spearman_p",
)  # fmt: skip


def predicted_tasks(analysis: ScalingAnalysis, series: str) -> list[str]:
    """The tasks of `analysis.predictions[series]`, in the same order."""
    return [t for t in analysis.slopes[series] if all(t in values for values in analysis.properties.values())]


def slope_rows(analysis: ScalingAnalysis) -> list[dict[str, Any]]:
    """Rows of slopes.csv: one for each series and task, and one for each mean curve.

    `published` is the paper's slope if x is the paper's axis; for the mean curve also if the tasks are the same.
    """
    printed, printed_means = analysis.published.slopes, analysis.published.mean_slopes
    rows: list[dict[str, Any]] = []
    for series, slopes in analysis.slopes.items():
        for task, a in slopes.items():
            beside = printed.get(series, {}).get(task.lower())
            fit = analysis.fits.get(series, {}).get(task)
            rows.append(
                {"family": series, "task": task, "a": a, "published": beside, **(_fit_row(fit) if fit else {})}
            )
        if series in analysis.means:
            mean = analysis.means[series]
            rows.append({"family": series, "task": MEAN, "published": printed_means.get(series), **_fit_row(mean)})
    return rows


def _fit_row(fit: Fit) -> dict[str, Any]:
    law = fit.law
    row: dict[str, Any] = {
        "a": law.a, "low": law.a_low, "high": law.a_high, "se": law.a_se, "boot_low": law.boot_low,
        "boot_high": law.boot_high, "case_se": law.case_se, "b": law.b, "b_low": law.b_low, "b_high": law.b_high,
        "r2": law.r2, "sizes": law.sizes, "form": fit.choice.preferred,
        "aicc_power_law": fit.choice.aicc_power_law, "aicc_saturating": fit.choice.aicc_saturating,
    }  # fmt: skip
    if fit.logit:
        row |= {"logit_a": fit.logit.a, "logit_low": fit.logit.low, "logit_high": fit.logit.high}
    if fit.curve:
        row |= {"limit": fit.curve.limit, "limit_low": fit.curve.limit_low, "limit_high": fit.curve.limit_high,
                "rate": fit.curve.rate}  # fmt: skip
    return row


def correlation_rows(analysis: ScalingAnalysis) -> list[dict[str, Any]]:
    """Rows of correlations.csv; `p_holm` is corrected over all rows."""
    pairs = [
        (series, name, c) for series, coefficients in analysis.correlations.items() for name, c in coefficients.items()
    ]
    adjusted = holm(np.array([c.p for _, _, c in pairs]))
    return [{"family": series, "property": name, "n": c.n, "pearson": c.pearson, "low": c.low, "high": c.high,
             "p": c.p, "p_holm": float(p), "spearman": c.spearman, "spearman_low": c.spearman_low,
             "spearman_high": c.spearman_high, "spearman_p": c.spearman_p}
            for (series, name, c), p in zip(pairs, adjusted, strict=True)]  # fmt: skip


def prediction_rows(analysis: ScalingAnalysis) -> list[dict[str, Any]]:
    """Rows of predictions.csv: each task's slope predicted from the other tasks."""
    rows = []
    for series, prediction in analysis.predictions.items():
        for i, task in enumerate(predicted_tasks(analysis, series)):
            rows.append({"family": series, "task": task, "slope": analysis.slopes[series][task],
                         "predicted": float(prediction.predicted[i]),
                         "mean_of_others": float(prediction.baseline[i])})  # fmt: skip
    return rows


def summary(analysis: ScalingAnalysis) -> dict[str, Any]:
    """The contents of summary.json; undefined numbers are null."""
    return {
        "slopes": {s: {t: _finite(a) for t, a in values_of.items()} for s, values_of in analysis.slopes.items()},
        "mean_slopes": {series: _finite(fit.law.a) for series, fit in analysis.means.items()},
        "mean_slope_intervals": {
            s: [_finite(fit.law.a_low), _finite(fit.law.a_high)] for s, fit in analysis.means.items()
        },
        "correlations": {
            series: {name: _finite(c.pearson) for name, c in coefficients.items()}
            for series, coefficients in analysis.correlations.items()
        },
        "prediction": {
            s: {"skill": _finite(p.skill), "low": _finite(p.low), "high": _finite(p.high), "rmse": p.rmse,
                "baseline_rmse": p.baseline_rmse, "statement": p.statement}
            for s, p in analysis.predictions.items()
        },
        "form": {s: fit.choice.statement for s, fit in analysis.means.items()},
        "axis": analysis.axis_label,
        "metric": analysis.metric,
        "notes": analysis.notes,
    }  # fmt: skip


def _finite(value: float) -> float | None:
    return None if math.isnan(value) or math.isinf(value) else float(value)
