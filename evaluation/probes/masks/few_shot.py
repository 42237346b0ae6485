"""Segmentation from a few subjects: a decoder for each draw, scored on the whole test split."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from tqdm import tqdm

from ...statistics.bootstrap import Resampler
from ...statistics.masks import COUNTS, OVERLAP_NOTE, STUDY_COUNTS, STUDY_NOTE, draw_metric, known_metrics
from ...tasks import Split
from ...tasks.samples import sample_rows
from ..draws import NOTE, SubjectDraws, draw_subjects, overlap, spread
from ..judging import subject_numbers
from ..probe import Answer, Trial
from .cases import StudyCounts, count_cases
from .frozen import fit_frozen
from .judging import SAMPLE_SIZE
from .problem import Segmentation, decide, images_of_cases
from .saved import Save, saving_draws
from .settings import MaskProbe
from .setup import Setup
from .study import fit_study

Rows = Mapping[str, np.ndarray]  # {split: image indices}
WITHOUT_SURFACES = "surface distances are not measured draw by draw"


def probe_few_shot_masks(probe: MaskProbe, plan: SubjectDraws, trial: Trial) -> Answer:
    """Train on many random draws of a few subjects, and report the mean over draws and their spread."""
    setup = Setup.of(probe, trial)
    draws = [_draw(setup, plan, number) for number in range(plan.count)]
    return _report(trial, _fitted(setup, draws, fit_frozen), draws, None)


def probe_study_few_shot(probe: MaskProbe, shots: int, trial: Trial) -> Answer:
    """Train on the images that the radiology study uses, evenly spaced over the training split; one draw."""
    setup = Setup.of(probe, trial)
    draws: list[Rows] = [{"train": study_rows(len(setup.everything.splits["train"].images), shots)}]
    answer = _report(trial, _fitted(setup, draws, lambda few: fit_study(few, join=False)), draws, setup.size)
    return answer._replace(primary="radiology")


def study_rows(count: int, shots: int) -> np.ndarray:
    """Indices of the study's training images: at even steps from the first, rounded half to even."""
    rows = np.arange(0, count, count / shots).round().astype(int)
    return rows[rows < count]


def _draw(setup: Setup, plan: SubjectDraws, number: int) -> Rows:
    """The images of the planned number of training and validation subjects."""
    rng = plan.generator(number)
    rows = {}
    for name in ("train", "val"):
        split = setup.everything.splits[name]
        cases = draw_subjects(np.zeros(split.num_cases, int), split.subjects, plan.shots, rng)
        rows[name] = images_of_cases(split, cases)
    return rows


def _fitted(setup: Setup, draws: list[Rows], fit: Callable[[Setup], Segmentation]) -> Iterator[Segmentation]:
    """Fit each draw's images, and score the test split."""
    label = setup.trial.label(setup.probe.record_name)
    for rows in tqdm(draws, desc=label, unit="draw", disable=None, leave=False):
        yield setup.whole(fit(setup.few(rows)))


def _report(trial: Trial, answers: Iterator[Segmentation], draws: list[Rows], study: int | None) -> Answer:
    """The record and arrays of several draws; `study` as in `judging.judge_masks`."""
    split, classes = trial.task.splits["test"], trial.task.num_outputs
    resampler = Resampler(split.num_cases, "fast", clusters=split.subjects)
    values: dict[str, list[np.ndarray]] = {}
    chosen: list[Segmentation] = []
    arrays: dict[str, np.ndarray] = {}
    with saving_draws(trial) as save_of:
        for number, answer in enumerate(answers, start=1):
            counted = _count(split, classes, answer, study, save_of(number))
            for metric in known_metrics(counted):
                drawn = draw_metric(metric, counted, resampler, trial.run.resamples)
                values.setdefault(metric.name, []).append(drawn)
            chosen.append(answer)
            arrays = arrays or {**counted, "sample_masks": _samples(split, answer)}
    points = {name: np.array([draw[0] for draw in rows]) for name, rows in values.items()}
    arrays |= {f"draw_{name}": drawn for name, drawn in points.items()}
    arrays |= {f"case_{name}": np.mean([draw[1:] for draw in rows], axis=0) for name, rows in values.items()}
    arrays["overlap"] = np.array(_overlap(trial.task.splits["train"], draws))
    entries = {name: spread(drawn, "no foreground class occurs") for name, drawn in points.items()}
    notes = [*trial.task.notes, OVERLAP_NOTE, STUDY_NOTE, WITHOUT_SURFACES, NOTE]
    arrays |= subject_numbers(split.subjects)
    first = chosen[0]
    choices = _choices(draws, chosen)
    return Answer(entries, arrays, choices, notes, trained=first.trained, parameters=first.parameters)


def _count(split: Split, classes: int, answer: Segmentation, study: int | None, save: Save) -> dict[str, np.ndarray]:
    if study is None:
        return {COUNTS: count_cases(split, classes, answer.predict, save=save)}
    counted = StudyCounts(split, classes, study)
    return {COUNTS: count_cases(split, classes, answer.predict, counted, save), STUDY_COUNTS: counted.counts}


def _samples(split: Split, answer: Segmentation) -> np.ndarray:
    """The predicted masks for pictures."""
    return np.stack([decide(scores, SAMPLE_SIZE) for scores in answer.predict(sample_rows(len(split.images)))])


def _overlap(split: Split, draws: list[Rows]) -> float:
    taken = np.zeros(len(split.images))
    for rows in draws:
        taken[rows["train"]] += 1
    return overlap(taken, len(draws))


def _choices(draws: list[Rows], answers: list[Segmentation]) -> dict[str, Any]:
    """The number of images in each draw, and the choices made for each draw."""
    sizes = [len(rows["train"]) for rows in draws]
    return {"train_images": [min(sizes), max(sizes)], "draws": [answer.chosen for answer in answers]}
