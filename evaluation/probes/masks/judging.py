"""Scores a network's predictions on the test images: metrics with intervals, notes, and samples for pictures."""

import numpy as np

from ...statistics.bootstrap import Resampling
from ...statistics.masks import (
    COUNTS,
    OVERLAP_NOTE,
    STUDY_COUNTS,
    STUDY_NOTE,
    SURFACE_VALUES,
    mask_intervals,
    segmentation_counts,
)
from ...tasks import Split
from ...tasks.samples import sample_rows
from ..judging import subject_numbers
from ..probe import Answer, Trial
from .cases import StudyCounts, whole_cases
from .problem import Segmentation, resize_mask
from .saved import Save, saving
from .surfaces import SurfaceRule, case_spacing

SAMPLE_SIZE = (128, 128)  # of the predicted masks in pictures


def judge_masks(trial: Trial, answer: Segmentation, rule: SurfaceRule, study: int | None = None) -> Answer:
    """Score the test cases with every metric of masks, and keep the arrays for comparisons and pictures.

    Args:
        trial: the probed encoder and task.
        answer: the network's scores and choices.
        rule: how surfaces are compared.
        study: image size at which the radiology study's score is counted; None for the masks' own size.
    """
    task, run = trial.task, trial.run
    split = task.splits["test"]
    with saving(trial) as save:
        arrays = measure_cases(split, task.num_outputs, answer, rule, study, save)
    resampling = Resampling("fast", run.resamples, run.seed)
    entries = mask_intervals(arrays, list(task.record.classes), resampling, split.subjects)
    notes = [*task.notes, OVERLAP_NOTE, _study_note(study), *rule.notes(split, arrays[SURFACE_VALUES])]
    arrays |= subject_numbers(split.subjects)
    return Answer(entries, arrays, answer.chosen, notes, trained=answer.trained, parameters=answer.parameters)


def measure_cases(
    split: Split,
    classes: int,
    answer: Segmentation,
    rule: SurfaceRule,
    study: int | None = None,
    save: Save = lambda case, decided: None,
) -> dict[str, np.ndarray]:
    """Counts and surface values of every test case, and the predicted masks for pictures.

    `save` receives all masks, case by case.
    """
    counted = None if study is None else StudyCounts(split, classes, study)
    counts, surfaces = [], []
    decisions: dict[int, np.ndarray] = {}
    samples = sample_rows(len(split.images))
    cases = whole_cases(split, classes, answer.predict, counted or (lambda *_: None))
    for case, (decided, truth) in enumerate(cases):
        save(case, decided)
        counts.append(segmentation_counts(decided, truth, classes))
        surfaces.append(rule.measure(decided, truth, classes, case_spacing(split, case, decided.ndim)))
        decisions |= _sampled(split.case_of_image, case, decided, samples)
    arrays = {COUNTS: np.stack(counts), SURFACE_VALUES: np.stack(surfaces)}
    arrays["sample_masks"] = np.stack([resize_mask(decisions[row], SAMPLE_SIZE) for row in samples])
    return arrays if counted is None else {**arrays, STUDY_COUNTS: counted.counts}


def _sampled(
    case_of_image: np.ndarray | None, case: int, decided: np.ndarray, samples: np.ndarray
) -> dict[int, np.ndarray]:
    """The decided masks of those images of a case that pictures show, by image index."""
    if case_of_image is None:
        return {case: decided} if case in samples else {}
    rows = np.flatnonzero(case_of_image == case)
    return {int(row): decided[place] for place, row in enumerate(rows) if row in samples}


def _study_note(study: int | None) -> str:
    return STUDY_NOTE if study is None else f"{STUDY_NOTE}; images and masks at {study} x {study} pixels"
