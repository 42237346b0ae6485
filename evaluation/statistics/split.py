"""Labels and scores of one split, checked and brought to a common shape before any metric is computed."""

from dataclasses import dataclass, replace

import numpy as np

from biovfm_hf.errors import UserError

from .kinds import BINARY, MULTILABEL, TASKS


@dataclass(frozen=True)
class ScoredSplit:
    """Checked labels and scores of one split.

    Attributes:
        task: one of `kinds.TASKS`.
        labels: int64; (n,) for multi-class and ordinal tasks, (n, L) of 0/1 otherwise (L = 1 for binary tasks).
        scores: float64; (n, C) for multi-class and ordinal tasks, (n, L) otherwise; larger means more likely.
        thresholds: (L,) a label is positive if its score is above its threshold; multi-class tasks take the highest
            score.
        subjects: (n,) subject of each sample, so that whole subjects are resampled; None if each sample is its own.
        strata: (n,) groups whose sizes resamples keep, such as the labels; None for no strata.
    """

    task: str
    labels: np.ndarray
    scores: np.ndarray
    thresholds: np.ndarray | None = None
    subjects: np.ndarray | None = None
    strata: np.ndarray | None = None

    @property
    def size(self) -> int:
        """Number of samples."""
        return len(self.labels)

    def decided_at(self, thresholds: np.ndarray) -> "ScoredSplit":
        """The same split with decision thresholds (L,) from `thresholds.choose_thresholds`.

        Raises:
            UserError: the number of thresholds differs from the number of labels.
        """
        thresholds = np.asarray(thresholds, dtype=np.float64).reshape(-1)
        if self.task in (BINARY, MULTILABEL) and thresholds.size != self.scores.shape[1]:
            raise UserError(f"{thresholds.size} thresholds for {self.scores.shape[1]} labels; give one per label")
        return replace(self, thresholds=thresholds)

    @property
    def columns(self) -> np.ndarray:
        """Labels as one 0/1 column per score column: (n, L), or (n, C) one-hot for multi-class tasks."""
        if self.task in (BINARY, MULTILABEL):
            return self.labels
        return (self.labels[:, None] == np.arange(self.scores.shape[1])).astype(np.int64)


def checked_split(task: str, labels: np.ndarray, scores: np.ndarray, name: str = "test") -> ScoredSplit:
    """Check labels and scores of one split and bring them to one shape.

    Args:
        task: kind of task by MedMNIST's name, one of `kinds.TASKS`.
        labels: (n,) or (n, 1) class indices; (n, L) of 0/1 for multi-label tasks.
        scores: (n, C) per class; (n,), (n, 1) or (n, 2) for binary tasks (the last column is the positive class);
            (n, L) for multi-label tasks. Finite; probabilities are needed by `brier` and `ece` only.
        name: name of the split in messages.

    Raises:
        UserError: the task is unknown, shapes do not fit, values are not finite, or labels are not class indices.
    """
    if task not in TASKS:
        raise UserError(f"unknown task {task!r}; choose one of: {'; '.join(TASKS)}")
    labels = whole_labels(labels, f"{name}_labels")
    scores = _numeric(scores, f"{name}_scores").astype(np.float64)
    if len(labels) != len(scores):
        raise UserError(
            f"{name}_labels has {len(labels)} rows but {name}_scores has {len(scores)}; give one per sample"
        )
    if len(labels) == 0:
        raise UserError(f"{name}_labels is empty; a split needs at least one sample")
    if task == MULTILABEL:
        return _multilabel_split(labels, scores, name)
    labels = _flat(labels, name)
    if task == BINARY:
        return _binary_split(labels, scores, name)
    return _multiclass_split(task, labels, scores, name)


def whole_labels(array: np.ndarray, name: str) -> np.ndarray:
    """Labels (n,) or (n, L) as int64.

    Raises:
        UserError: they are not numbers, not finite or not whole; the message calls them `name`.
    """
    labels = _numeric(array, name)
    if not np.array_equal(labels, np.floor(labels)):
        raise UserError(f"{name} holds fractions; labels are whole numbers")
    return labels.astype(np.int64)


def _numeric(array: np.ndarray, name: str) -> np.ndarray:
    array = np.asarray(array)
    if array.dtype.kind not in "biuf":
        raise UserError(f"{name} is of type {array.dtype}; give numbers")
    if array.ndim not in (1, 2):
        raise UserError(f"{name} has shape {array.shape}; give (samples,) or (samples, columns)")
    finite = np.isfinite(array)
    if not finite.all():
        row = int(np.argwhere(~finite)[0][0])
        raise UserError(f"{name} holds {int((~finite).sum())} values that are not finite (first in row {row}); "
                        "find out where they come from before scoring them")  # fmt: skip
    return array


def _flat(labels: np.ndarray, name: str) -> np.ndarray:
    if labels.ndim == 2 and labels.shape[1] != 1:
        raise UserError(f"{name}_labels has shape {labels.shape}; this task needs one class index per sample: (n,)")
    return labels.reshape(-1)


def _multilabel_split(labels: np.ndarray, scores: np.ndarray, name: str) -> ScoredSplit:
    if labels.ndim != 2 or labels.shape != scores.shape:
        raise UserError(f"{name}_labels {labels.shape} and {name}_scores {scores.shape} differ; "
                        "a multi-label task needs both as (samples, labels)")  # fmt: skip
    _check_range(labels, 2, name)
    return ScoredSplit(MULTILABEL, labels, scores)


def _binary_split(labels: np.ndarray, scores: np.ndarray, name: str) -> ScoredSplit:
    if scores.ndim == 2 and scores.shape[1] not in (1, 2):
        raise UserError(f"{name}_scores has {scores.shape[1]} columns; a binary task has 1 or 2")
    _check_range(labels, 2, name)
    positive = scores if scores.ndim == 1 else scores[:, -1]
    return ScoredSplit(BINARY, labels[:, None], np.ascontiguousarray(positive)[:, None])


def _multiclass_split(task: str, labels: np.ndarray, scores: np.ndarray, name: str) -> ScoredSplit:
    if scores.ndim != 2 or scores.shape[1] < 2:
        raise UserError(f"{name}_scores has shape {scores.shape}; this task needs one column per class: (samples, C)")
    _check_range(labels, scores.shape[1], name)
    return ScoredSplit(task, labels, scores)


def _check_range(labels: np.ndarray, classes: int, name: str) -> None:
    if labels.min() < 0 or labels.max() >= classes:
        raise UserError(f"{name}_labels runs from {labels.min()} to {labels.max()}; "
                        f"with these scores labels are 0 to {classes - 1}")  # fmt: skip
