"""Random draws of a few training subjects for few-shot probes."""

from dataclasses import dataclass
from typing import Any

import numpy as np

NOTE = "values are means over draws of training subjects; intervals hold 95 % of the draws"


@dataclass(frozen=True)
class SubjectDraws:
    """`count` draws of `shots` subjects per class from `seed`; all draws share the `resamples` of the test cases."""

    shots: int
    count: int
    seed: int
    resamples: int = 1000

    def generator(self, number: int) -> np.random.Generator:
        """The random generator of draw `number`, the same for every model."""
        return np.random.default_rng([self.seed, self.shots, number])


def draw_subjects(labels: np.ndarray, subjects: np.ndarray | None, shots: int, rng: np.random.Generator) -> np.ndarray:
    """Rows of `shots` random subjects per class, with all their cases.

    A class (or positive label of a multi-label task) with fewer subjects gives all of them. Without subjects, each
    case counts as a subject.

    Args:
        labels: (N,) class indices or (N, L) of 0/1.
        subjects: (N,) names or None.
        shots: subjects per class.
        rng: random generator.

    Returns:
        Sorted row indices.
    """
    people = np.arange(len(labels)) if subjects is None else np.unique(subjects, return_inverse=True)[1]
    columns = labels if labels.ndim == 2 else labels[:, None] == np.unique(labels)
    chosen: set[int] = set()
    for column in columns.T:
        having = np.unique(people[column.astype(bool)])
        chosen.update(rng.permutation(having)[:shots].tolist())
    return np.flatnonzero(np.isin(people, list(chosen)))


def overlap(taken: np.ndarray, draws: int) -> float:
    """The average share of a draw's training cases that another draw has too.

    Args:
        taken: (N,) number of draws that contain each case.
        draws: number of draws.
    """
    return float((taken * (taken - 1)).sum() / (max(draws - 1, 1) * taken.sum()))


def spread(values: np.ndarray, reason: str | None = None) -> dict[str, Any]:
    """A record's entry for a metric with values (draws,): their mean, the range of 95 % of them, and their SD.

    It has a `reason` instead of a value if a draw leaves the metric undefined (NaN).
    """
    if np.isnan(values).any():
        return {"value": None, "low": None, "high": None, "reason": reason or "undefined on this test split"}
    entry = {"value": float(values.mean()), "low": None, "high": None, "sd": None, "draws": len(values)}
    if len(values) > 1:  # one draw alone has no range
        low, high = np.quantile(values, [0.025, 0.975])
        entry |= {"low": float(low), "high": float(high), "sd": float(values.std(ddof=1))}
    return entry
