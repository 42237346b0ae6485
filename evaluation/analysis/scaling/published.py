"""Chooses those numbers of the BioVFM paper that are comparable with a study's."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from biovfm_hf.errors import UserError
from biovfm_hf.results.published import rows

from .model_size import PAPER_AXIS, axis_values, objective_of
from .tables import Point


def slopes() -> dict[str, dict[str, float]]:
    """Published exponents: {family: {task: a}}."""
    families: dict[str, dict[str, float]] = {}
    for row in rows("slopes"):
        families.setdefault(row["family"], {})[row["task"]] = float(row["slope"])
    return families


def mean_slopes() -> dict[str, float]:
    """Published exponents of the mean curves: {family: a}."""
    return {row["family"]: float(row["slope"]) for row in rows("mean_slopes")}


def mean_curves(axis: str = PAPER_AXIS) -> dict[str, list[tuple[float, float]]]:
    """Mean AUC over the twelve tasks by model size: {family: [(x, AUC in percent)]}.

    Args:
        axis: "published" (the printed x), "encoder", or "compute" in GFLOP per image. On "compute", families without a
            known objective are left out.
    """
    curves: dict[str, list[tuple[float, float]]] = {}
    for row in rows("mean_auc"):
        point = Point(row["family"], float(row["params_millions"]), row["task"], float(row["auc"]), size=row["size"])
        if axis == PAPER_AXIS:
            curves.setdefault(point.family, []).append((point.params, point.score))
        elif axis != "compute" or _has_objective(point.family):
            curves.setdefault(point.family, []).append((axis_values([point], axis)[0][0], point.score))
    return curves


def _has_objective(family: str) -> bool:
    try:
        return bool(objective_of(family))
    except UserError:
        return False


def correlations() -> dict[str, dict[str, float]]:
    """Published Pearson r of slope with property over the twelve tasks: {family: {property: r}}."""
    families: dict[str, dict[str, float]] = {}
    for row in rows("correlations"):
        families.setdefault(row["family"], {})[row["property"]] = float(row["pearson"])
    return families


def subsets(task: str) -> dict[str, dict[str, float]]:
    """Published AUC in percent by pretraining data, ViT-L: {family: {subset: AUC}}.

    Args:
        task: "mean of 12" or a task's name; the paper reports breastmnist.
    """
    families: dict[str, dict[str, float]] = {}
    for row in rows("subsets"):
        if row["task"] == task:
            families.setdefault(row["family"], {})[row["subset"]] = float(row["auc"])
    return families


def twelve() -> set[str]:
    """Names of the twelve tasks behind the paper's means and correlations."""
    return {row["task"] for row in rows("properties")}


def are_twelve(tasks: Collection[str]) -> bool:
    """Whether the tasks are those twelve, ignoring case."""
    return {task.lower() for task in tasks} == twelve()


@dataclass(frozen=True)
class Beside:
    """The published numbers with the same axis and tasks as a study's; see `published`.

    `notes` says what was left out, and why.
    """

    slopes: dict[str, dict[str, float]] = field(default_factory=dict)
    mean_slopes: dict[str, float] = field(default_factory=dict)
    mean_curves: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    correlations: dict[str, dict[str, float]] = field(default_factory=dict)
    subsets: dict[str, dict[str, float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def beside(
    axis: str, label: str, mean_tasks: Iterable[Collection[str]], slope_tasks: Iterable[Collection[str]],
    subset_tasks: Iterable[Collection[str]],
) -> Beside:  # fmt: skip
    """Choose the published numbers that are comparable with a study's.

    Args:
        axis: the axis of the study on which named sizes can be drawn (`model_size.named_axis`), "" for none.
        label: label of the study's x axis, for the notes.
        mean_tasks: the tasks of each mean curve.
        slope_tasks: the tasks of each series whose slopes are correlated with properties.
        subset_tasks: the tasks of each comparison of pretraining data.
    """
    mean_tasks, slope_tasks, subset_tasks = list(mean_tasks), list(slope_tasks), list(subset_tasks)
    same_x, same_means = axis == PAPER_AXIS, bool(mean_tasks) and all(map(are_twelve, mean_tasks))
    same_slopes = bool(slope_tasks) and all(map(are_twelve, slope_tasks))
    notes = []
    if not same_x:
        notes.append(f"published slopes and correlations are left out: they hold on the paper's axis only "
                     f"(--axis published), and x is {label}")  # fmt: skip
    elif slope_tasks and not same_slopes:
        notes.append("published correlations are left out: they are over the twelve MedMNIST tasks, yours over others")
    if mean_tasks and not same_means:
        notes.append("published means are left out: they are over the twelve MedMNIST tasks, yours over others")
    elif mean_tasks and not axis:
        notes.append(f"published mean curves are left out: the paper's sizes have no place on {label}; give sizes by "
                     "their names and --axis published or encoder")  # fmt: skip
    bars = _subsets_over(subset_tasks)
    if subset_tasks and not bars:
        notes.append("published data scaling is left out: it is over the twelve MedMNIST tasks, yours over others")
    return Beside(
        slopes() if same_x else {}, mean_slopes() if same_x and same_means else {},
        mean_curves(axis) if axis and same_means else {}, correlations() if same_x and same_slopes else {},
        bars, notes,
    )  # fmt: skip


def _subsets_over(tasks: list[Collection[str]]) -> dict[str, dict[str, float]]:
    if tasks and all(map(are_twelve, tasks)):
        return subsets("mean of 12")
    names = {task.lower() for each in tasks for task in each}
    return subsets(names.pop()) if len(names) == 1 else {}
