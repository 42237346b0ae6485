"""Few-shot probing: a linear probe on a few subjects per class, drawn again and again."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from biovfm_hf.errors import UserError
from biovfm_hf.options import option

from ..statistics.bootstrap import Resampler, choose_thresholds, resampled_metrics
from ..statistics.metrics import Scorer, reasons
from ..statistics.metrics import notes as split_notes
from ..statistics.split import read_split
from .judging import absence_notes, split_metrics, subject_numbers
from .linear import probe_fast
from .probe import Answer, Probe, Problem, Scores, Trial, features_setting, register

if TYPE_CHECKING:
    pass

NOTE = "values are means over draws of training subjects; intervals hold 95 % of the draws"


def draw_subjects(labels: np.ndarray, subjects: np.ndarray | None, shots: int, rng: np.random.Generator) -> np.ndarray:
    """Rows of `shots` random subjects per class, with all their cases.

    A class (a positive label, of a multi-label task) with fewer subjects gives all it has. Without subjects each
    case is its own.

    Args:
        labels: (N,) classes or (N, L) of 0/1.
        subjects: (N,) names or None.
        shots: subjects per class.
        rng: what draws.

    Returns:
        Sorted row numbers.
    """
    people = np.arange(len(labels)) if subjects is None else np.unique(subjects, return_inverse=True)[1]
    columns = labels if labels.ndim == 2 else labels[:, None] == np.unique(labels)
    chosen: set[int] = set()
    for column in columns.T:
        having = np.unique(people[column.astype(bool)])
        chosen.update(rng.permutation(having)[:shots].tolist())
    return np.flatnonzero(np.isin(people, list(chosen)))


@register
@dataclass(frozen=True)
class FewShot(Probe):
    """Linear probes on a few subjects per class, drawn again and again."""

    name = "fewshot"
    title = "linear probes on a few subjects per class"
    stratifies = False  # its intervals are over draws
    features: str = features_setting("both")
    shots: int = option(16, "few-shot: training subjects per class", least=1, commas=True, metavar="N,...")
    draws: int = option(20, "few-shot: how many draws", least=1)

    @property
    def record_name(self) -> str:
        """With the shots, by which its results are read."""
        return f"fewshot-{self.shots}"

    def run(self, trial: Trial) -> Answer:
        """Probe every draw and report their mean and spread."""
        from tqdm import tqdm

        task, run = trial.task, trial.run
        plan = Draws(self.shots, self.draws, run.seed, run.resamples)
        problem = trial.problem(self.features)
        subjects = {name: split.subjects for name, split in task.splits.items()}
        with tqdm(total=self.draws, desc=trial.label(self.record_name), unit="draw", disable=None, leave=False) as bar:
            metrics, arrays, sizes = probe_few_shot(problem, subjects, plan, bar.update)
        test = read_split(task.record.kind, trial.labels()["test"], arrays["test_scores"])
        notes = [*task.notes, *absence_notes(task), *split_notes(test), NOTE]
        chosen = {"train_cases": [min(sizes), max(sizes)]}
        arrays |= subject_numbers(task.splits["test"].subjects)
        record = {**split_metrics(metrics), "chosen": chosen, "notes": notes}
        return Answer(record, arrays, problem.linear_weights)


@dataclass(frozen=True)
class Draws:
    """`count` draws of `shots` subjects per class from `seed`; `resamples` of the test cases, alike for every draw."""

    shots: int
    count: int
    seed: int
    resamples: int = 1000


def probe_few_shot(
    problem: Problem,
    subjects: dict[str, np.ndarray | None],
    plan: Draws,
    progress: Callable[[int], object] = lambda _: None,
) -> tuple[dict[str, dict[str, Any]], dict[str, np.ndarray], list[int]]:
    """Draw training subjects again and again, probe by protocol `fast`, score each draw on the whole test split.

    Regularisation and thresholds are chosen on as many validation subjects per class, so that no draw sees more
    labels than it says. Draw number i is the same for every model.

    Args:
        problem: features and labels, also of `test`.
        subjects: (N,) of each split, None where each case is its own.
        plan: how to draw. Resamples are of the test split's subjects, where these are known.
        progress: called with 1 after each draw.

    Returns:
        ({metric: {"value": mean over draws, "low", "high": their 2.5 and 97.5 percentiles, "sd"}},
        arrays to keep: the metrics of every draw `draw_<metric>` (draws,), their mean over draws on each resample of
        the test cases `case_<metric>` (resamples,), the mean probabilities, and `overlap`, the share of a draw's
        training cases that another draw has too, in the mean,
        how many training cases each draw had).

    Raises:
        UserError: validation holds one class only.
    """
    features, labels, draws = problem.features, problem.labels, plan.count
    found: dict[str, list[float]] = {}
    totals: dict[str, np.ndarray] = {}
    sizes = []
    taken = np.zeros(len(labels["train"]))
    resampler = Resampler(len(labels["test"]), "fast", clusters=subjects["test"])
    for number in range(draws):
        rng = np.random.default_rng([plan.seed, plan.shots, number])
        rows = {n: draw_subjects(labels[n], subjects[n], plan.shots, rng) for n in ("train", "val")}
        sizes.append(len(rows["train"]))
        taken[rows["train"]] += 1
        held = {name: labels[name][rows[name]] for name in rows}
        few = {name: features[name][rows[name]] for name in rows}
        scores = probe_fast(Problem(problem.kind, problem.outputs, {**few, "test": features["test"]}, held))
        point, drawn = _score_draw(problem.kind, held["val"], scores, labels["test"], resampler, plan.resamples)
        for name, value in point.items():
            found.setdefault(name, []).append(value)
        for name, values in (("test_scores", scores.test), *((f"case_{name}", drawn[name]) for name in drawn)):
            totals[name] = totals.get(name, np.zeros_like(values)) + values / draws
        progress(1)
    why = reasons(read_split(problem.kind, labels["test"], scores.test))  # the same of every draw
    entries = {name: _spread(np.array(values), why.get(name)) for name, values in found.items()}
    arrays = {f"draw_{name}": np.array(values) for name, values in found.items()}
    arrays["test_labels"] = labels["test"].reshape(len(labels["test"]), -1)
    arrays["overlap"] = (taken * (taken - 1)).sum() / (max(draws - 1, 1) * np.sum(sizes))
    return entries, {**arrays, **totals}, sizes


def _score_draw(
    kind: str, val_labels: np.ndarray, scores: Scores, labels: np.ndarray, resampler: Resampler, resamples: int
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """The metrics of one draw on the test split, NaN where undefined, and on each resample of it."""
    try:
        thresholds = choose_thresholds(read_split(kind, val_labels, scores.val, "val"), "fast")
    except UserError as error:
        raise UserError(f"few-shot: {error}") from error
    split = read_split(kind, labels, scores.test).decided_at(thresholds)
    scorer, undefined = Scorer(split), reasons(split)
    values = scorer(np.ones((split.size, 1), np.float32))
    point = {name: np.nan if name in undefined else float(value[0]) for name, value in values.items()}
    return point, resampled_metrics(scorer, resampler, resamples)


def _spread(values: np.ndarray, reason: str | None) -> dict[str, Any]:
    if np.isnan(values).any():
        return {"value": None, "low": None, "high": None, "reason": reason or "undefined on this test split"}
    rows = {"value": float(values.mean()), "low": None, "high": None, "sd": None, "draws": len(values)}
    if len(values) > 1:  # one draw alone has no range
        low, high = np.quantile(values, [0.025, 0.975])
        rows |= {"low": float(low), "high": float(high), "sd": float(values.std(ddof=1))}
    return rows
