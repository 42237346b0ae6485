"""What follows from a probe's scores: thresholds on validation, metrics with intervals, and notes."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..statistics import pooled
from ..statistics.bootstrap import (
    Resampling,
    choose_thresholds,
    interval_notes,
    intervals,
    mean_intervals,
    threshold_notes,
)
from ..statistics.detection import group_boxes, judge_boxes
from ..statistics.metrics import OVERLAPS, case_scores
from ..statistics.metrics import notes as split_notes
from ..statistics.split import read_split
from ..tasks import Task
from ..tasks.boxes import truth_rows
from ..tasks.samples import sample_rows
from .masks import Segmentation, decide
from .probe import Answer, Scores, Trial
from .surfaces import SurfaceRule, measure_cases, surface_intervals

if TYPE_CHECKING:
    from .detect import Detections

SAMPLE_SIZE = (128, 128)  # of the predicted masks that pictures show


def judge(trial: Trial, scores: Scores) -> Answer:
    """Thresholds on validation, metrics with intervals on test: what a record says, and the arrays beside it."""
    task, run = trial.task, trial.run
    kind, labels = task.record.kind, trial.labels()
    val = read_split(kind, labels["val"], scores.val, "val")
    thresholds = choose_thresholds(val, run.probe.thresholds)
    subjects = task.splits["test"].subjects if run.protocol == "fast" else None
    strata, notes = test_strata(labels["test"], subjects) if run.stratify else (None, [])
    test = replace(read_split(kind, labels["test"], scores.test), subjects=subjects, strata=strata)
    entries = intervals(test.decided_at(thresholds), Resampling(run.protocol, run.resamples, run.seed), extra=True)
    notes += [*task.notes, *absence_notes(task), *split_notes(test)]
    notes += [*threshold_notes(val), *interval_notes(entries, run.resamples)]
    record = {**split_metrics(entries), "thresholds": thresholds.tolist(), "chosen": scores.chosen, "notes": notes}
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
    return Answer(record, arrays, scores.trained, scores.parameters)


def test_strata(labels: np.ndarray, subjects: np.ndarray | None) -> tuple[np.ndarray | None, list[str]]:
    """The class (N,) of each test case, whose counts resamples are to keep, or None; and a note that says which."""
    if labels.ndim == 2:
        return None, ["resamples are not stratified: cases with several labels have no one class"]
    if subjects is not None and any(len(set(labels[subjects == subject])) > 1 for subject in np.unique(subjects)):
        return None, ["resamples are not stratified: some subjects have cases of several classes"]
    return labels, ["resamples keep the class counts of the test split"]


def absence_notes(task: Task) -> list[str]:
    """In words, the classes or labels that training or validation hold no case of."""
    notes = []
    for name, what in (("train", "cannot be learned"), ("val", "has no part in what is chosen")):
        labels = task.splits[name].labels
        assert labels is not None
        there = labels.any(axis=0) if labels.ndim == 2 else np.isin(np.arange(task.num_outputs), labels)
        notes += [f"{name}: no case of {task.record.classes[k]}, which {what}" for k in np.flatnonzero(~there)]
    return notes


def subject_numbers(subjects: np.ndarray | None) -> dict[str, np.ndarray]:
    """The array `test_subjects` (N,) where subjects are known.

    As numbers, so that no name or record number of a source gets into a results folder.
    """
    return {} if subjects is None else {"test_subjects": np.unique(subjects, return_inverse=True)[1].reshape(-1)}


def split_metrics(entries: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Metrics that have a value, and the reasons of those that are undefined."""
    return {
        "metrics": {name: entry for name, entry in entries.items() if entry["value"] is not None},
        "undefined": {name: entry["reason"] for name, entry in entries.items() if entry["value"] is None},
    }


def judge_detection(trial: Trial, found: "Detections") -> Answer:
    """COCO's figures of boxes, and what each class reaches; the truth and the detections are kept as tables."""
    task, run = trial.task, trial.run
    split = task.splits["test"]
    truth = truth_rows(split.boxes or [])
    classes = group_boxes(truth, found.rows, len(split.images), task.num_outputs)
    judged = judge_boxes(dict(zip(task.record.classes, classes, strict=True)), run.resamples, run.seed, split.subjects)
    notes = [*task.notes, *judged["notes"]]
    record = {
        **split_metrics(judged["metrics"]),
        "by_class": judged["classes"],
        "chosen": found.chosen,
        "notes": notes,
    }
    arrays = {
        "test_truth": truth, "test_detections": found.rows, "test_images": np.arange(len(split.images)),
        **subject_numbers(split.subjects),
    }  # fmt: skip
    return Answer(record, arrays, found.trained, found.parameters)


def judge_segmentation(trial: Trial, probed: Segmentation, rule: SurfaceRule) -> Answer:
    """Dice and Jaccard per case, their means with intervals, and each class' mean; the radiology study's own score
    over all pixels; and distances between surfaces by `rule`.
    """
    task, run, counts = trial.task, trial.run, probed.counts
    subjects = task.splits["test"].subjects
    resampling = Resampling("fast", run.resamples, run.seed)
    found: dict[str, dict[str, Any]] = {}
    for name, metric in OVERLAPS.items():
        per_class = metric.value(counts)
        columns = np.column_stack([case_scores(per_class), per_class[:, 1:]])
        names = [name, *(f"{name}_{label}" for label in task.record.classes[1:])]
        entries = mean_intervals(columns, resampling, subjects)
        found.update(dict(zip(names, entries, strict=True)) if len(names) > 2 else {name: entries[0]})
    surfaces = measure_cases(task, probed.predict, rule)
    distances, told = surface_intervals(task, surfaces, rule, resampling)
    found |= pooled.pooled_intervals(counts, resampling, subjects) | distances
    record = {**split_metrics(found), "chosen": probed.chosen, "notes": [*task.notes, pooled.NOTE, *told]}
    samples = probed.predict(sample_rows(len(task.splits["test"].images)))
    masks = np.stack([decide(scores, SAMPLE_SIZE) for scores in samples])
    arrays = {"test_counts": counts, "test_surfaces": surfaces, **subject_numbers(subjects), "sample_masks": masks}
    return Answer(record, arrays, probed.trained, probed.parameters)
