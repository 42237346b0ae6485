"""Linear heads on a few subjects per class, draw by draw."""

from collections.abc import Callable
from typing import Any

import numpy as np

from biovfm_hf.errors import UserError

from ...statistics.bootstrap import Resampler, resampled_metrics
from ...statistics.metrics import Scorer
from ...statistics.split import checked_split
from ...statistics.thresholds import choose_thresholds
from ...statistics.undefined import reasons
from ..draws import SubjectDraws, draw_subjects, overlap, spread
from ..probe import Problem, Scores
from .logistic import probe_fast


def probe_few_shot(
    problem: Problem,
    subjects: dict[str, np.ndarray | None],
    plan: SubjectDraws,
    progress: Callable[[int], object] = lambda _: None,
) -> tuple[dict[str, dict[str, Any]], dict[str, np.ndarray], list[int]]:
    """Draw training subjects repeatedly, probe by protocol `fast`, and score each draw on the whole test split.

    Regularisation and thresholds are chosen on equally many validation subjects per class, so that no draw sees more
    labels than it states. Draw number i is the same for every model.

    Args:
        problem: features and labels, including those of `test`.
        subjects: {split: (N,) subjects}, None if each case is its own subject.
        plan: the draws. Resamples are of the test split's subjects, if known.
        progress: called with 1 after each draw.

    Returns:
        Two dictionaries. The first is {metric: {"value": mean over draws, "low", "high": their 2.5 and 97.5
        percentiles, "sd"}}. The second has the arrays to keep: `draw_<metric>` (draws,), the metric of every draw;
        `case_<metric>` (resamples,), its mean over draws on each resample of the test cases; the mean probabilities;
        `overlap` (see `draws.overlap`); and the number of training cases of each draw.

    Raises:
        UserError: the validation split has only one class.
    """
    features, labels, draws = problem.features, problem.labels, plan.count
    points: dict[str, list[float]] = {}
    totals: dict[str, np.ndarray] = {}
    sizes = []
    taken = np.zeros(len(labels["train"]))
    resampler = Resampler(len(labels["test"]), "fast", clusters=subjects["test"])
    for number in range(draws):
        rng = plan.generator(number)
        rows = {n: draw_subjects(labels[n], subjects[n], plan.shots, rng) for n in ("train", "val")}
        sizes.append(len(rows["train"]))
        taken[rows["train"]] += 1
        few_labels = {name: labels[name][rows[name]] for name in rows}
        few = {name: features[name][rows[name]] for name in rows}
        scores = probe_fast(Problem(problem.kind, problem.outputs, {**few, "test": features["test"]}, few_labels))
        point, drawn = _score_draw(problem.kind, few_labels["val"], scores, labels["test"], resampler, plan.resamples)
        for name, value in point.items():
            points.setdefault(name, []).append(value)
        for name, values in (("test_scores", scores.test), *((f"case_{name}", drawn[name]) for name in drawn)):
            totals[name] = totals.get(name, np.zeros_like(values)) + values / draws
        progress(1)
    why = reasons(checked_split(problem.kind, labels["test"], scores.test))  # the same of every draw
    entries = {name: spread(np.array(values), why.get(name)) for name, values in points.items()}
    arrays = {f"draw_{name}": np.array(values) for name, values in points.items()}
    arrays["test_labels"] = labels["test"].reshape(len(labels["test"]), -1)
    arrays["overlap"] = np.array(overlap(taken, draws))
    return entries, {**arrays, **totals}, sizes


def _score_draw(
    kind: str, val_labels: np.ndarray, scores: Scores, labels: np.ndarray, resampler: Resampler, resamples: int
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """The metrics of one draw on the test split and on each resample of it, NaN if undefined."""
    try:
        thresholds = choose_thresholds(checked_split(kind, val_labels, scores.val, "val"), "fast")
    except UserError as error:
        raise UserError(f"few-shot: {error}") from error
    split = checked_split(kind, labels, scores.test).decided_at(thresholds)
    scorer, undefined = Scorer(split), reasons(split)
    values = scorer(np.ones((split.size, 1), np.float32))
    point = {name: np.nan if name in undefined else float(value[0]) for name, value in values.items()}
    return point, resampled_metrics(scorer, resampler, resamples)
