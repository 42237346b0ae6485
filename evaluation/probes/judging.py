"""Judges a probe's scores: thresholds on validation, metrics with intervals, and notes."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..statistics.bootstrap import Resampling, interval_notes, intervals
from ..statistics.detection import group_boxes, judge_boxes
from ..statistics.split import checked_split
from ..statistics.thresholds import choose_thresholds, threshold_notes
from ..statistics.undefined import notes as split_notes
from ..tasks import Task
from ..tasks.boxes import truth_rows
from .probe import Answer, Problem, Scores, Trial

NAMED = 8  # classes that a note names
LEAST_SPREAD = 1e-3  # of patch tokens, trained or not, it was .3 to .7; of untrained class tokens below 1e-4


def judge(trial: Trial, scores: Scores) -> Answer:
    """Choose thresholds on validation and compute metrics with intervals on test, for a record and its arrays."""
    task, run = trial.task, trial.run
    kind, labels = task.record.kind, trial.labels()
    val = checked_split(kind, labels["val"], scores.val, "val")
    thresholds = choose_thresholds(val, run.probe.thresholds)
    subjects = task.splits["test"].subjects if run.draws_as == "fast" else None
    strata, notes = test_strata(labels["test"], subjects) if run.stratify else (None, [])
    test = replace(checked_split(kind, labels["test"], scores.test), subjects=subjects, strata=strata)
    entries = intervals(test.decided_at(thresholds), Resampling(run.draws_as, run.resamples, run.seed), extra=True)
    notes += [*task.notes, *absence_notes(task), *split_notes(test)]
    notes += [*threshold_notes(val), *interval_notes(entries, run.resamples)]
    arrays = {
        "test_labels": labels["test"].reshape(len(labels["test"]), -1),
        "test_scores": scores.test.astype(np.float32),
        "val_labels": labels["val"].reshape(len(labels["val"]), -1),
        "val_scores": scores.val.astype(np.float32),
        "thresholds": thresholds,
    }
    arrays |= subject_numbers(subjects)
    if strata is not None:
        arrays["test_strata"] = strata
    return Answer(
        entries, arrays, scores.chosen, notes, thresholds.tolist(),
        trained=scores.trained, parameters=scores.parameters,
    )  # fmt: skip


def test_strata(labels: np.ndarray, subjects: np.ndarray | None) -> tuple[np.ndarray | None, list[str]]:
    """The class (N,) of each test case, whose counts resamples keep, or None; and a note that says which applies."""
    if labels.ndim == 2:
        return None, ["resamples are not stratified: cases with several labels have no one class"]
    if subjects is not None and any(len(set(labels[subjects == subject])) > 1 for subject in np.unique(subjects)):
        return None, ["resamples are not stratified: some subjects have cases of several classes"]
    return labels, ["resamples keep the class counts of the test split"]


def absence_notes(task: Task) -> list[str]:
    """Notes on classes or labels without a case in training or validation."""
    notes = []
    for name, what in (("train", "cannot be learned"), ("val", "has no part in what is chosen")):
        labels = task.splits[name].labels
        assert labels is not None
        there = labels.any(axis=0) if labels.ndim == 2 else np.isin(np.arange(task.num_outputs), labels)
        if lacking := [task.record.classes[k] for k in np.flatnonzero(~there)]:
            more = f" and {len(lacking) - NAMED} more" if len(lacking) > NAMED else ""
            notes.append(f"{name}: no case of {', '.join(lacking[:NAMED])}{more}, which {what}")
    return notes


def feature_warnings(problem: Problem) -> tuple[str, ...]:
    """A warning if a model gives nearly the same features for every image."""
    if problem.spread >= LEAST_SPREAD:
        return ()
    return (
        f"the model's features hardly differ between images (by {problem.spread:.0e} of their length), as a class "
        "token does that was not trained; --features mean reads the patch tokens instead",
    )


def subject_numbers(subjects: np.ndarray | None) -> dict[str, np.ndarray]:
    """The array `test_subjects` (N,) if subjects are known.

    Subjects become numbers, so that no name or record number from a source gets into a results folder.
    """
    return {} if subjects is None else {"test_subjects": np.unique(subjects, return_inverse=True)[1].reshape(-1)}


@dataclass(frozen=True)
class Detections:
    """Detections in the test images, with the choices that were made and weights as in `probe.Answer`.

    `rows` (n, 7) are in the form of `statistics.detection.group_boxes`.
    """

    rows: np.ndarray
    chosen: dict[str, Any]
    trained: int
    parameters: int | None = None


def judge_detection(trial: Trial, detections: Detections) -> Answer:
    """COCO's figures for boxes, in all and for each class; truth and detections are kept as tables."""
    task, run = trial.task, trial.run
    split = task.splits["test"]
    truth = truth_rows(split.boxes or [])
    classes = group_boxes(truth, detections.rows, len(split.images), task.num_outputs)
    judged = judge_boxes(dict(zip(task.record.classes, classes, strict=True)), run.resamples, run.seed, split.subjects)
    notes = [*task.notes, *judged["notes"]]
    arrays = {
        "test_truth": truth, "test_detections": detections.rows, "test_images": np.arange(len(split.images)),
        **subject_numbers(split.subjects),
    }  # fmt: skip
    return Answer(
        judged["metrics"], arrays, detections.chosen, notes, further={"by_class": judged["classes"]},
        trained=detections.trained, parameters=detections.parameters,
    )  # fmt: skip
