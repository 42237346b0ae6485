"""Computes slopes, correlations, predictions and gaps from points and task properties."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np

from biovfm_hf.errors import UserError

from .correlation import Correlation, Prediction, correlate, predict_slopes
from .model_size import AXIS_LABELS, TOLERANCE, axis_values, named_axis
from .power_law import (
    LogitSlope,
    PowerLaw,
    PreferredForm,
    Saturating,
    choose_form,
    fit_logit,
    fit_power_law,
    fit_saturating,
)
from .published import Beside, beside
from .tables import Point, Study

UNTOLD = "unknown, as a file of slopes does not state it"


@dataclass(frozen=True)
class Fit:
    """The curves through one series' scores on one task (or on the mean over tasks).

    Attributes:
        x: sizes, ascending.
        y: scores in percent.
        law: the fitted power law.
        curve: the fitted saturating form, None with fewer than four sizes.
        choice: which of the two the data favour.
        logit: the slope of the score's logit, None if a score is 0 or 100.
    """

    x: np.ndarray
    y: np.ndarray
    law: PowerLaw
    curve: Saturating | None
    choice: PreferredForm
    logit: LogitSlope | None


@dataclass(frozen=True)
class Gap:
    """Score of one family minus that of another at one size on one task, in points of the metric."""

    family_a: str
    family_b: str
    x: float
    task: str
    gap: float


@dataclass
class ScalingAnalysis:
    """Everything that a study's files and figures show.

    Attributes:
        axis_label: label of the x axis.
        metric: the metric of the scores, "Score" if tasks have different ones.
        named_axis: which axis of named sizes x is (`model_size.named_axis`), "" if none or unknown.
        tasks: tasks in the order of the points file.
        fits: {series: {task: fit}} for series with at least two sizes.
        means: {series: fit} of the mean over the tasks that the series has at every size.
        mean_tasks: {series: those tasks}.
        references: {series: {task: (x, score)}} for series with one size, which are drawn but not fitted.
        slopes: {series: {task: a}}, fitted or read from the file.
        correlations: {series: {property: correlation}}.
        predictions: {series: prediction} from all properties together.
        properties: {property: {task: value}}.
        gaps: score differences between every two series at shared sizes and tasks.
        subsets: {family: {subset: {task: score}}} at the size where most subsets were trained.
        published: the paper's numbers for the same axis and tasks.
        notes: sentences that a reader of the results must know.
        seed: random seed of bootstrap and permutations.
    """

    axis_label: str = AXIS_LABELS["given"]
    metric: str = "AUC"
    named_axis: str = ""
    tasks: list[str] = field(default_factory=list)
    fits: dict[str, dict[str, Fit]] = field(default_factory=dict)
    means: dict[str, Fit] = field(default_factory=dict)
    mean_tasks: dict[str, list[str]] = field(default_factory=dict)
    references: dict[str, dict[str, tuple[float, float]]] = field(default_factory=dict)
    slopes: dict[str, dict[str, float]] = field(default_factory=dict)
    correlations: dict[str, dict[str, Correlation]] = field(default_factory=dict)
    predictions: dict[str, Prediction] = field(default_factory=dict)
    properties: dict[str, dict[str, float]] = field(default_factory=dict)
    gaps: list[Gap] = field(default_factory=list)
    subsets: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    published: Beside = field(default_factory=Beside)
    notes: list[str] = field(default_factory=list)
    seed: int = 0


def analyse_scaling(
    study: Study, properties: dict[str, dict[str, float]], axis: str = "given", seed: int = 0
) -> ScalingAnalysis:
    """Fit every series and task, and correlate the slopes with the properties.

    Args:
        study: points, or slopes that are already fitted.
        properties: {property: {task: value}}, may be empty.
        axis: one of `model_size.AXES`.
        seed: random seed of bootstrap and permutations.

    Raises:
        UserError: no series has two sizes, or the points have no place on the axis.
    """
    analysis = ScalingAnalysis(seed=seed)
    if study.points:
        _fit_points(analysis, study.points, axis, seed)
    else:
        analysis.slopes, analysis.axis_label = study.slopes, UNTOLD
        analysis.tasks = _unique(task for values_of in study.slopes.values() for task in values_of)
    spelled = {task.lower(): task for task in analysis.tasks}
    analysis.properties = {
        name: {spelled.get(task.lower(), task): value for task, value in values.items()}
        for name, values in properties.items()
    }
    _correlate(analysis, seed)
    described = [[task for task in slopes if all(task in values_of for values_of in analysis.properties.values())]
                 for slopes in analysis.slopes.values()] if analysis.properties else []  # fmt: skip
    bars = [next(iter(values_of.values())) for values_of in analysis.subsets.values()]
    means = analysis.mean_tasks.values()
    if analysis.metric == "AUC":
        analysis.published = beside(analysis.named_axis, analysis.axis_label, means, described, bars)
    return analysis


def _unique(items: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(items))


def _fit_points(analysis: ScalingAnalysis, points: list[Point], axis: str, seed: int) -> None:
    values, analysis.axis_label = axis_values(points, axis)
    analysis.named_axis = named_axis(points, axis)
    analysis.tasks = _unique(point.task for point in points)
    metrics = _unique(point.metric for point in points)
    if len(metrics) > 1:
        analysis.metric = "Score"
        analysis.notes.append(f"means over tasks mix {' and '.join(metrics)}; read the slopes of tasks")
    else:
        analysis.metric = metrics[0]
    grids: dict[str, dict[str, dict[float, Point]]] = {}
    for x, point in zip(values, points, strict=True):
        cell = grids.setdefault(point.series, {}).setdefault(point.task, {})
        if x in cell:
            label = analysis.axis_label.lower()
            raise UserError(f"{point.series} has two scores on {point.task} at {x:g} of {label}; "
                            "two sizes in the points count as one on this axis")  # fmt: skip
        cell[x] = point
    for series, grid in grids.items():
        _fit_series(analysis, series, grid, seed)
    if not analysis.fits:
        raise UserError("every family has one model size only; a slope needs two sizes, a tested one three")
    analysis.slopes = {
        series: {task: fit.law.a for task, fit in fits.items()} for series, fits in analysis.fits.items()
    }
    _note_sizes(analysis)
    analysis.gaps = _gaps(grids)
    analysis.subsets = _subsets(points)


def _fit_series(analysis: ScalingAnalysis, series: str, grid: dict[str, dict[float, Point]], seed: int) -> None:
    sizes = sorted({x for cell in grid.values() for x in cell})
    if len(sizes) == 1:
        analysis.references[series] = {
            task: (x, point.score) for task, cell in grid.items() for x, point in cell.items()
        }
        unscored = len(analysis.tasks) - len(grid)
        alone = f", but not among the means: it lacks {unscored} of {len(analysis.tasks)} tasks" if unscored else ""
        analysis.notes.append(f"{series}: one size only, so no slope; drawn as a reference{alone}")
        return
    fits, whole = {}, {}
    for task, cell in grid.items():
        lacking = [x for x in sizes if x not in cell]
        if lacking:
            analysis.notes.append(f"{series} lacks {task} at {', '.join(f'{x:.4g}' for x in lacking)}; "
                               "fitted on the other sizes, and left out of the mean curve")  # fmt: skip
        else:
            whole[task] = cell
        if len(cell) >= 2:
            fits[task] = _fit(np.array(sorted(cell)), [cell[x] for x in sorted(cell)], seed)
    if not fits:
        analysis.notes.append(f"{series}: no task was scored at two sizes, so no slope")
        return
    analysis.fits[series] = fits
    if whole:
        mean = np.array([[cell[x].score for x in sizes] for cell in whole.values()]).mean(axis=0)
        analysis.means[series] = _fit_curves(np.array(sizes), mean, None, seed)
        analysis.mean_tasks[series] = list(whole)
    if len(sizes) == 2:
        analysis.notes.append(f"{series}: two sizes give a slope without an interval")


def _fit(x: np.ndarray, points: list[Point], seed: int) -> Fit:
    y = np.array([point.score for point in points])
    errors = np.array([(point.high - point.low) / (2 * 1.959964) for point in points])
    return _fit_curves(x, y, None if np.isnan(errors).any() else errors, seed)


def _fit_curves(x: np.ndarray, y: np.ndarray, errors: np.ndarray | None, seed: int) -> Fit:
    law, curve = fit_power_law(x, y, errors, seed=seed), fit_saturating(x, y)
    return Fit(x, y, law, curve, choose_form(x, y, law, curve), fit_logit(x, y))


def _note_sizes(analysis: ScalingAnalysis) -> None:
    sizes = {len(fit.x) for fits in analysis.fits.values() for fit in fits.values()}
    if max(sizes) < 6:
        analysis.notes.append(f"at most {max(sizes)} sizes: a power law cannot be distinguished from saturation")


def _gaps(grids: dict[str, dict[str, dict[float, Point]]]) -> list[Gap]:
    """Gaps at shared sizes; sizes within 2 % count as the same, because objectives differ in a few parameters."""
    gaps = []
    for a, b in combinations(grids, 2):
        for task in (task for task in grids[a] if task in grids[b]):
            for x, point in sorted(grids[a][task].items()):
                near = _nearest(x, grids[b][task])
                if abs(near / x - 1) <= TOLERANCE:
                    gaps.append(Gap(a, b, x, task, point.score - grids[b][task][near].score))
    return gaps


def _nearest(x: float, sizes: Iterable[float]) -> float:
    """The size whose ratio to x is closest to 1."""
    return min(sizes, key=lambda size: abs(math.log(size / x)))


def _subsets(points: list[Point]) -> dict[str, dict[str, dict[str, float]]]:
    """Scores by pretraining data, at the size where a family has most subsets (the largest such size)."""
    families: dict[str, dict[str, dict[str, float]]] = {}
    for family in _unique(point.family for point in points if point.subset):
        rows = [point for point in points if point.family == family and point.subset]
        at = {x: _unique(p.subset for p in rows if p.params == x) for x in {p.params for p in rows}}
        best = max(at, key=lambda x: (len(at[x]), x))
        if len(at[best]) < 2:
            continue
        scores_of = {s: {p.task: p.score for p in rows if p.params == best and p.subset == s} for s in at[best]}
        shared = set.intersection(*[set(scores) for scores in scores_of.values()])
        families[family] = {s: {t: v for t, v in scores.items() if t in shared} for s, scores in scores_of.items()}
    return {family: scores_of for family, scores_of in families.items() if all(scores_of.values())}


def _correlate(analysis: ScalingAnalysis, seed: int) -> None:
    if not analysis.properties:
        return
    for series, slopes in analysis.slopes.items():
        described = {name: [t for t in slopes if t in values] for name, values in analysis.properties.items()}
        lacking = [task for task in slopes if not all(task in values_of for values_of in described.values())]
        if lacking:
            analysis.notes.append(f"{series}: no properties for {', '.join(lacking)}; left out of the correlations")
        analysis.correlations[series] = {
            name: correlate(_vector(analysis.properties[name], tasks), _vector(slopes, tasks), seed)
            for name, tasks in described.items()
        }
        shared = [task for task in slopes if task not in lacking]
        if len(shared) >= 5:
            table = np.array([[values[task] for values in analysis.properties.values()] for task in shared])
            analysis.predictions[series] = predict_slopes(table, _vector(slopes, shared), seed=seed)
    counts = {c.n for values_of in analysis.correlations.values() for c in values_of.values()}
    if counts and max(counts) < 3:
        analysis.notes.append("fewer than three tasks have properties; correlations are undefined")


def _vector(values: dict[str, float], tasks: list[str]) -> np.ndarray:
    return np.array([values[task] for task in tasks])
