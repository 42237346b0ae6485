"""Few-shot probing: a linear probe on a few subjects per class, drawn again and again."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from biovfm_hf.errors import UserError

from ..statistics.bootstrap import Resampler, choose_thresholds, resampled_metrics
from ..statistics.metrics import Scorer, reasons
from ..statistics.split import read_split
from .linear import Scores, probe_fast

if TYPE_CHECKING:
    from ..tasks import Split


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


def probe_few_shot(
    kind: str,
    outputs: int,
    features: dict[str, np.ndarray],
    splits: "dict[str, Split]",
    shots: int,
    draws: int,
    seed: int,
    resamples: int = 1000,
    progress: Callable[[int], object] = lambda _: None,
) -> tuple[dict[str, dict[str, Any]], dict[str, np.ndarray], list[int]]:
    """Draw training subjects `draws` times, probe by protocol `fast`, and score each draw on the whole test split.

    Regularisation and thresholds are chosen on as many validation subjects per class, so that no draw sees more
    labels than it says. Draw number i is the same for every model.

    Args:
        kind: the task's kind.
        outputs: classes, or labels.
        features: (N, D) of `train`, `val`, `test`.
        splits: with labels and subjects.
        shots: subjects per class.
        draws: how many.
        seed: of the draws.
        resamples: of the test cases (of its subjects, where these are known), the same for every draw, seed and model.
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
    found: dict[str, list[float]] = {}
    totals: dict[str, np.ndarray] = {}
    sizes = []
    labels = {name: split.labels for name, split in splits.items() if split.labels is not None}
    taken = np.zeros(len(labels["train"]))
    resampler = Resampler(len(labels["test"]), "fast", clusters=splits["test"].subjects)
    for number in range(draws):
        rng = np.random.default_rng([seed, shots, number])
        rows = {n: draw_subjects(labels[n], splits[n].subjects, shots, rng) for n in ("train", "val")}
        sizes.append(len(rows["train"]))
        taken[rows["train"]] += 1
        held = {name: labels[name][rows[name]] for name in rows}
        few = {name: features[name][rows[name]] for name in rows}
        scores = probe_fast(kind, outputs, {**few, "test": features["test"]}, held)
        point, drawn = _score_draw(kind, held["val"], scores, labels["test"], resampler, resamples)
        for name, value in point.items():
            found.setdefault(name, []).append(value)
        for name, values in (("test_scores", scores.test), *((f"case_{name}", drawn[name]) for name in drawn)):
            totals[name] = totals.get(name, np.zeros_like(values)) + values / draws
        progress(1)
    why = reasons(read_split(kind, labels["test"], scores.test))  # the same of every draw
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
        thresholds = choose_thresholds(kind, val_labels, scores.val, "fast")
    except UserError as error:
        raise UserError(f"few-shot: {error}") from error
    split = read_split(kind, labels, scores.test)
    scorer, undefined = Scorer(split, thresholds), reasons(split)
    values = scorer(np.ones((split.size, 1), np.float32))
    point = {name: np.nan if name in undefined else float(value[0]) for name, value in values.items()}
    return point, resampled_metrics(scorer, resampler, resamples)


def _spread(values: np.ndarray, reason: str | None) -> dict[str, Any]:
    if np.isnan(values).any():
        return {"value": None, "low": None, "high": None, "reason": reason or "undefined on this test split"}
    found = {"value": float(values.mean()), "low": None, "high": None, "sd": None, "draws": len(values)}
    if len(values) > 1:  # one draw alone has no range
        low, high = np.quantile(values, [0.025, 0.975])
        found |= {"low": float(low), "high": float(high), "sd": float(values.std(ddof=1))}
    return found
