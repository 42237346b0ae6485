"""What each method does with an encoder and a task: probe, thresholds on validation, metrics with intervals."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..encoders.embed import Augmentation, case_features, embed_features, embed_summaries, embed_tokens
from ..encoders.load import SCRATCH, Encoder
from ..statistics.bootstrap import choose_thresholds, interval_notes, intervals, mean_intervals, threshold_notes
from ..statistics.metrics import dice, jaccard, notes
from ..statistics.split import read_split
from ..tasks import SPLITS, Task
from . import finetune
from .few_shot import probe_few_shot
from .knn import probe_knn
from .linear import Scores, probe_biovfm, probe_fast
from .scratch import probe_scratch
from .segment import UNET_BLOCKS, case_scores, decide, probe_linear_decoder, probe_unet_decoder
from .settings import Settings

SAMPLES = 4  # test images that pictures show
Made = tuple[dict[str, Any], dict[str, np.ndarray]]


def task_features(encoder: Encoder, task: Task, settings: Settings, cache: Path) -> dict[str, np.ndarray]:
    """The feature vectors (N_cases, D) that the method reads, of every split."""
    found = {}
    for name in SPLITS:
        split = task.splits[name]
        label = f"{encoder.name} {task.name} {name}"
        held = embed_features(encoder, split.images, cache, settings.chosen_features, settings.batch_size, label)
        found[name] = case_features(held, split.case_of_image)
    return found


def task_labels(task: Task) -> dict[str, np.ndarray]:
    """Labels of every split of a classification task."""
    return {name: split.labels for name, split in task.splits.items() if split.labels is not None}


def run_linear(encoder: Encoder, task: Task, settings: Settings, cache: Path) -> Made:
    """Linear probe by either protocol."""
    features, labels = task_features(encoder, task, settings, cache), task_labels(task)
    kind, outputs = task.record.kind, task.num_outputs
    if settings.protocol == "fast":
        return judge(task, settings, probe_fast(kind, outputs, features, labels))
    split = task.splits["train"]
    views = []
    for view in range(settings.views):
        label = f"{encoder.name} {task.name} train, augmented view {view + 1} of {settings.views}"
        augmentation = Augmentation(view, settings.seed)
        stored = embed_summaries(encoder, split.images, cache, augmentation, settings.batch_size, label)
        views.append(case_features(stored["mean_raw"], split.case_of_image))
    epochs = settings.epochs or 100
    return judge(task, settings, probe_biovfm(kind, outputs, features, labels, views, epochs, settings.seed))


def run_knn(encoder: Encoder, task: Task, settings: Settings, cache: Path) -> Made:
    """Nearest neighbours."""
    features, labels = task_features(encoder, task, settings, cache), task_labels(task)
    return judge(
        task,
        settings,
        probe_knn(task.record.kind, task.num_outputs, features, labels, settings.neighbours, settings.temperature),
    )


def judge(task: Task, settings: Settings, scores: Scores) -> Made:
    """Thresholds on validation, metrics with intervals on test: what a record says, and the arrays beside it."""
    kind, labels = task.record.kind, task_labels(task)
    thresholds = choose_thresholds(kind, labels["val"], scores.val, settings.thresholds)
    subjects = task.splits["test"].subjects if settings.protocol == "fast" else None
    strata, said = test_strata(labels["test"], subjects) if settings.stratify else (None, [])
    found = intervals(
        kind,
        labels["test"],
        scores.test,
        thresholds,
        n=settings.resamples,
        protocol=settings.protocol,
        clusters=subjects,
        stratify=strata,
        seed=settings.seed,
        extra=True,
    )
    said += [*task.notes, *absence_notes(task), *notes(read_split(kind, labels["test"], scores.test))]
    said += [*threshold_notes(kind, labels["val"], scores.val), *interval_notes(found, settings.resamples)]
    made = {**split_metrics(found), "thresholds": thresholds.tolist(), "chosen": scores.chosen, "notes": said}
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
    return made, arrays


def test_strata(labels: np.ndarray, subjects: np.ndarray | None) -> tuple[np.ndarray | None, list[str]]:
    """The class (N,) of each test case, whose counts resamples are to keep, or None; and a note that says which."""
    if labels.ndim == 2:
        return None, ["resamples are not stratified: cases with several labels have no one class"]
    if subjects is not None and any(len(set(labels[subjects == subject])) > 1 for subject in np.unique(subjects)):
        return None, ["resamples are not stratified: some subjects have cases of several classes"]
    return labels, ["resamples keep the class counts of the test split"]


def absence_notes(task: Task) -> list[str]:
    """In words, the classes or labels that training or validation hold no case of."""
    said = []
    for name, what in (("train", "cannot be learned"), ("val", "has no part in what is chosen")):
        labels = task_labels(task)[name]
        there = labels.any(axis=0) if labels.ndim == 2 else np.isin(np.arange(task.num_outputs), labels)
        said += [f"{name}: no case of {task.record.classes[k]}, which {what}" for k in np.flatnonzero(~there)]
    return said


def subject_numbers(subjects: np.ndarray | None) -> dict[str, np.ndarray]:
    """The array `test_subjects` (N,) where subjects are known.

    As numbers, so that no name or record number of a source gets into a results folder.
    """
    return {} if subjects is None else {"test_subjects": np.unique(subjects, return_inverse=True)[1].reshape(-1)}


def split_metrics(found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Metrics that have a value, and the reasons of those that are undefined."""
    return {
        "metrics": {name: entry for name, entry in found.items() if entry["value"] is not None},
        "undefined": {name: entry["reason"] for name, entry in found.items() if entry["value"] is None},
    }


def run_segment(encoder: Encoder, task: Task, settings: Settings, cache: Path) -> Made:
    """Segmentation with a frozen encoder, scored per case (image, or volume) and averaged over cases."""
    size = settings.image_size or encoder.size
    if encoder.revision.startswith(SCRATCH):
        return run_scratch(encoder, task, settings, size)
    blocks = UNET_BLOCKS if settings.decoder == "unet" else 0
    stores = {
        name: embed_tokens(
            encoder,
            split.images,
            cache,
            size,
            blocks,
            min(settings.batch_size, 16),
            f"{encoder.name} {task.name} {name}",
        )
        for name, split in task.splits.items()
    }
    if settings.decoder == "unet":
        probed = probe_unet_decoder(
            task.num_outputs,
            stores,
            task.splits,
            settings.epochs,
            settings.rate or 1e-3,
            settings.seed,
            settings.device,
        )
    else:
        probed = probe_linear_decoder(task.num_outputs, stores, task.splits, settings.seed)
    made, arrays = judge_segmentation(task, settings, probed.counts, probed.chosen)
    arrays["sample_masks"] = _sample_masks(task, probed.predict)
    return made, arrays


def run_scratch(encoder: Encoder, task: Task, settings: Settings, size: int) -> Made:
    """A segmentation network trained from scratch: a baseline."""
    probed = probe_scratch(
        encoder.revision.removeprefix(SCRATCH),
        task.num_outputs,
        task.splits,
        size,
        settings.epochs,
        settings.rate or 1e-3,
        settings.seed,
        settings.device,
    )
    made, arrays = judge_segmentation(task, settings, probed.counts, probed.chosen)
    return made, {**arrays, "sample_masks": _sample_masks(task, probed.predict)}


def judge_segmentation(task: Task, settings: Settings, counts: np.ndarray, chosen: dict[str, Any]) -> Made:
    """Dice and Jaccard per case, their means with intervals, and each class' mean."""
    subjects = task.splits["test"].subjects
    found: dict[str, dict[str, Any]] = {}
    for name, per_class in (("dice", dice(counts)), ("jaccard", jaccard(counts))):
        columns = np.column_stack([case_scores(per_class), per_class[:, 1:]])
        names = [name, *(f"{name}_{label}" for label in task.record.classes[1:])]
        entries = mean_intervals(columns, settings.resamples, settings.seed, subjects)
        found.update(dict(zip(names, entries, strict=True)) if len(names) > 2 else {name: entries[0]})
    made = {**split_metrics(found), "chosen": chosen, "notes": list(task.notes)}
    return made, {"test_counts": counts, **subject_numbers(subjects)}


def sample_rows(count: int) -> np.ndarray:
    """Numbers of the test images that pictures show: evenly spaced."""
    return np.unique(np.linspace(0, count - 1, min(SAMPLES, count)).round().astype(int))


def _sample_masks(task: Task, predict: Callable[[np.ndarray], Any]) -> np.ndarray:
    """Predicted masks (n, 128, 128) of the images that pictures show."""
    return np.stack([decide(scores, (128, 128)) for scores in predict(sample_rows(len(task.splits["test"].images)))])


def run_few_shot(encoder: Encoder, task: Task, settings: Settings, cache: Path) -> Made:
    """Linear probes on a few subjects per class, repeated."""
    from tqdm import tqdm

    features = task_features(encoder, task, settings, cache)
    what = f"{encoder.name} {task.name} {settings.method_name}"
    with tqdm(total=settings.draws, desc=what, unit="draw", disable=None, leave=False) as bar:
        found, arrays, sizes = probe_few_shot(
            task.record.kind,
            task.num_outputs,
            features,
            task.splits,
            settings.shots,
            settings.draws,
            settings.seed,
            settings.resamples,
            bar.update,
        )
    said = [
        *task.notes,
        *absence_notes(task),
        *notes(read_split(task.record.kind, task_labels(task)["test"], arrays["test_scores"])),
        "values are means over draws of training subjects; intervals hold 95 % of the draws",
    ]
    chosen = {"train_cases": [min(sizes), max(sizes)]}
    arrays |= subject_numbers(task.splits["test"].subjects)
    return {**split_metrics(found), "chosen": chosen, "notes": said}, arrays


def run_finetune(encoder: Encoder, task: Task, settings: Settings, cache: Path) -> Made:
    """Fine-tuning of all weights, biases or low-rank updates; nothing is cached."""
    rate = settings.rate or finetune.RATES[settings.method]
    plan = finetune.Plan(
        settings.method, settings.epochs or finetune.EPOCHS, rate, settings.tuning_batch, settings.seed
    )
    return judge(task, settings, finetune.probe_finetune(encoder, task, plan))


METHOD_RUNNERS: dict[str, Callable[[Encoder, Task, Settings, Path], Made]] = {
    "linear": run_linear,
    "knn": run_knn,
    "segment": run_segment,
    "fewshot": run_few_shot,
    "lora": run_finetune,
    "bitfit": run_finetune,
    "finetune": run_finetune,
}
