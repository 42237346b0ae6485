"""Runs methods over models and tasks: features once, probes, metrics with intervals, one record each, resumable."""

import hashlib
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from biovfm_hf.errors import UserError

from .bootstrap import choose_thresholds, intervals, mean_intervals, threshold_notes
from .embed import Augmentation, case_features, embed_features, embed_summaries, embed_tokens
from .encoders import SCRATCH, Encoder, load_encoder, split_label
from .metrics import dice, jaccard, notes, read_split
from .probes import finetune
from .probes.few_shot import probe_few_shot
from .probes.knn import probe_knn
from .probes.linear import Scores, probe_biovfm, probe_fast
from .probes.scratch import probe_scratch
from .probes.segment import UNET_BLOCKS, case_scores, probe_linear_decoder, probe_unet_decoder
from .processes import crew
from .results import Record, claimed, clean, merge_records, read_record, record_key, write_record
from .tasks import SEGMENTATION, SPLITS, Task

METHODS = ("linear", "knn", "fewshot", "lora", "bitfit", "finetune", "segment")
UNSTRATIFIED = ("fewshot", "segment")  # their intervals are over draws, and over cases without a class


@dataclass(frozen=True)
class Settings:
    """What a run of the suite does, apart from models and tasks. See `biovfm probe --help` for each."""

    method: str = "linear"
    protocol: str = "fast"
    seed: int = 0
    features: str | None = None
    views: int = 0
    epochs: int | None = None
    neighbours: int | None = None
    temperature: float = 0.07
    decoder: str = "linear"
    shots: int = 16
    draws: int = 20
    rate: float | None = None
    image_size: int | None = None
    batch_size: int = 64
    device: str = "cpu"
    precision: str = "fp32"
    compile: bool = False
    resamples: int = 1000
    stratify: bool = False

    @property
    def method_name(self) -> str:
        """What records call the method: with the shots or the decoder where these vary."""
        if self.method == "fewshot":
            return f"fewshot-{self.shots}"
        return "segment-unet" if self.method == "segment" and self.decoder == "unet" else self.method

    @property
    def tunes(self) -> bool:
        """Whether the encoder's weights are trained, so that no features are shared."""
        return self.method in finetune.RATES

    @property
    def tuning_batch(self) -> int:
        """Images per step of fine-tuning."""
        return min(self.batch_size, finetune.BATCH_SIZE)

    @property
    def preprocess(self) -> str:
        """Which preprocessing the encoder gets: the BioVFM authors normalise alike for every model."""
        return "half" if self.protocol == "biovfm" and self.method in ("linear", "segment") else "own"

    @property
    def chosen_features(self) -> str:
        """The feature vector that the method reads."""
        if self.method == "linear" and self.protocol == "biovfm":
            return "mean_raw"
        return self.features or ("class" if self.method == "knn" else "both")

    @property
    def thresholds(self) -> str:
        """The protocol by which decision thresholds are chosen.

        The authors' rule takes a validation score itself, above which a test score must be. Votes that all lie at 1.0
        are then never positive (MCC 0 beside AUC 1), and only for the linear probe is that theirs to repeat.
        """
        return self.protocol if self.method == "linear" else "fast"

    def recorded(self) -> dict[str, Any]:
        """The settings that change the result of this method; they are part of a record's identity."""
        by_method: dict[str, tuple[str, ...]] = {
            "linear": ("views", "epochs") if self.protocol == "biovfm" else (),
            "knn": ("neighbours", "temperature"),
            "fewshot": ("shots", "draws"),
            "segment": ("decoder", "image_size", "epochs", "rate"),
        }
        names = by_method.get(self.method, ("epochs", "rate"))
        kept = {name: getattr(self, name) for name in (*names, "precision") if getattr(self, name) is not None}
        if self.method not in by_method:
            kept["batch_size"] = self.tuning_batch
        if self.method in ("linear", "knn", "fewshot"):
            kept["features"] = self.chosen_features
        if self.protocol != self.thresholds and self.method not in UNSTRATIFIED:
            kept["thresholds"] = "midway"  # tells these records from those made before by the authors' rule
        if self.stratify and self.method not in UNSTRATIFIED:
            kept["stratify"] = True
        return kept


Job = tuple[str, Settings, Task]
Claim = Callable[[str], AbstractContextManager[bool]]  # of a record, by its key: whether this process is to make it


def run_suite(models: list[str], tasks: list[Task], runs: list[Settings], out: Path, cache: Path) -> list[Record]:
    """Make every record that is missing in `out`, and return all records there.

    A failure of one model on one task does not stop the others; it is raised at the end. Processes that work on one
    folder share its records out, each taking the next that nobody is at. A record is made whole by one process, also
    where it takes fine-tuning: so it comes out the same on any number of them, and the failure of one stops no other.
    Processes that were started together embed the images of a task together, and then do the rest each for itself.

    Args:
        models: names as `encoders.load_encoder` takes them.
        tasks: opened tasks.
        runs: one per method and seed; each applies to the tasks that it suits.
        out: the results folder.
        cache: the features' folder.

    Raises:
        UserError: two models share a label, or what went wrong with some records after the others were made.
    """
    labels = [split_label(model)[0] for model in models]
    for label in labels:
        if labels.count(label) > 1:
            raise UserError(f"two models are called {label}; tell them apart: --model NAME1=... --model NAME2=...")
    for model in models[1:]:  # what cannot be loaded is told now, and not after hours of work on the models before it
        load_encoder(model)
    jobs = [(model, run, task) for model in models for run in runs for task in tasks if suits(task, run)]
    team, failures = crew(), []
    if team.size > 1:
        failures += _run_jobs([job for job in jobs if not job[1].tunes], out, cache)[0]
    shared = [job for job in jobs if team.size == 1 or job[1].tunes]
    told, busy = _run_jobs(shared, out, cache, partial(claimed, out, wait=False))
    failures += told + _run_jobs(busy, out, cache, partial(claimed, out, wait=True))[0]
    team.wait()
    records = merge_records(out)
    if failures:
        raise UserError(f"{len(failures)} of the records could not be made, the first because: {failures[0]}")
    return records


def unclaimed(_key: str) -> AbstractContextManager[bool]:
    """No claim at all: a record that processes make together, or one that nobody else would make."""
    return nullcontext(True)


def _run_jobs(jobs: list[Job], out: Path, cache: Path, claim: Claim = unclaimed) -> tuple[list[str], list[Job]]:
    """Make the records of jobs that can be claimed. Returns what went wrong, and the jobs that others are at."""
    failures, busy = [], []
    loaded: dict[tuple[str, str], Encoder] = {}
    for model, settings, task in jobs:
        wanted = (model, settings.preprocess)
        if wanted not in loaded:
            loaded = {key: encoder for key, encoder in loaded.items() if key[0] == model}
            how = (settings.device, settings.preprocess, settings.compile, settings.precision)
            loaded[wanted] = load_encoder(model, *how)
        encoder = loaded[wanted]
        try:
            if make_record(encoder, task, settings, out, cache, claim) is None:
                busy.append((model, settings, task))
        except (UserError, RuntimeError) as error:  # torch raises the latter, out of memory say
            if not isinstance(error, UserError):
                traceback.print_exception(error)
            failures.append(f"{encoder.name} on {task.name} by {settings.method_name}: {error}")
            _say(f"error: {failures[-1]}", sys.stderr)
    return failures, busy


def suits(task: Task, settings: Settings) -> bool:
    """Whether the method applies to the task: `segment` to segmentation tasks, every other to the rest."""
    return (task.record.kind == SEGMENTATION) == (settings.method == "segment")


def make_record(
    encoder: Encoder, task: Task, settings: Settings, out: Path, cache: Path, claim: Claim = unclaimed
) -> Record | None:
    """Probe one model on one task by one method, unless its record is there.

    Returns:
        The record, or None where the claim is another process'.

    Raises:
        UserError: the method does not apply to the task, or something it needs is missing or broken.
    """
    if not suits(task, settings):
        raise UserError(
            f"task {task.name} is of kind {task.record.kind}; method {settings.method} does not apply to it"
        )
    identity = identify(encoder, task, settings)
    with claim(record_key(identity)) as mine:
        if not mine:
            return None
        known = read_record(out, identity)
        if claim is unclaimed:  # the others wait for this process' share of the images, or it for theirs
            known = crew().agree(known)
        if known is not None:
            _say(f"have  {encoder.name}  {task.name}  {settings.method_name}")
            return known
        check_validation(task, settings)
        begun = time.perf_counter()
        made, scores = METHOD_RUNNERS[settings.method](encoder, task, settings, cache)
        record = {
            **identity,
            "kind": task.record.kind,
            "primary": task.record.metric,
            "classes": list(task.record.classes),
            **made,
            "n_train": task.splits["train"].num_cases,
            "n_test": task.splits["test"].num_cases,
            "seconds": round(time.perf_counter() - begun, 3),
            "licence": task.record.licence,
            "software": software(),
        }
        write_record(out, record_key(identity), record, scores)
    _say(f"done  {encoder.name}  {task.name}  {settings.method_name}  {headline(record)}")
    return clean(record)


def _say(line: str, stream: TextIO | None = None) -> None:
    """Print a line at once and in one piece: of processes with one pipe, another's came between print's two writes."""
    print(f"{line}\n", end="", file=stream, flush=True)


def check_validation(task: Task, settings: Settings) -> None:
    """Raise a UserError before the work where validation holds one class only, so that no threshold can be chosen."""
    labels = task.splits["val"].labels
    if labels is not None:
        choose_thresholds(task.record.kind, labels, np.zeros((len(labels), task.num_outputs)), settings.thresholds)


def identify(encoder: Encoder, task: Task, settings: Settings) -> dict[str, Any]:
    """What tells a record from every other: what names it, and what it is measured on."""
    return {
        "model": encoder.name,
        "revision": encoder.revision,
        "task": task.name,
        "data": task_digest(task),
        "method": settings.method_name,
        "protocol": settings.protocol,
        "seed": settings.seed,
        "settings": settings.recorded(),
    }


def software() -> dict[str, str]:
    """Versions of this package and of those that results depend on most; of a bare checkout there is none."""
    found = {}
    for name in ("biovfm-hf", "torch", "transformers"):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def task_digest(task: Task) -> str:
    """A short digest of all images, masks and labels of a task, so that changed data gives a new record."""
    digest = hashlib.blake2b(digest_size=6)
    for name in SPLITS:
        split = task.splits[name]
        digest.update(split.images.fingerprint().encode())
        digest.update(b"" if split.labels is None else split.labels.tobytes())
        digest.update(b"" if split.masks is None else split.masks.fingerprint().encode())
    return digest.hexdigest()


def headline(record: Record) -> str:
    """The primary metric of a record with its interval, for the screen."""
    name = record["primary"]
    entry = record["metrics"].get(name)
    if entry is None:
        return f"{name} undefined: {record['undefined'].get(name, 'see the record')}"
    if entry.get("low") is None or entry.get("high") is None:
        return f"{name} {entry['value']:.4f}"
    return f"{name} {entry['value']:.4f} ({entry['low']:.4f}, {entry['high']:.4f})"


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
    said += [*threshold_notes(kind, labels["val"], scores.val), *resample_notes(found, settings.resamples)]
    made = {**split_metrics(found), "thresholds": thresholds.tolist(), "chosen": scores.chosen, "notes": said}
    arrays = {
        "test_labels": labels["test"].reshape(len(labels["test"]), -1),
        "test_scores": scores.test.astype(np.float32),
        "val_labels": labels["val"].reshape(len(labels["val"]), -1),
        "val_scores": scores.val.astype(np.float32),
        "thresholds": thresholds,
    }
    if subjects is not None:
        arrays["test_subjects"] = subject_numbers(subjects)
    if strata is not None:
        arrays["test_strata"] = strata
    return made, arrays


def test_strata(labels: np.ndarray, subjects: np.ndarray | None) -> tuple[np.ndarray | None, list[str]]:
    """The class (N,) of each test case as what resamples keep the counts of, or None; and the words for it."""
    if labels.ndim == 2:
        return None, ["resamples are not stratified: cases with several labels have no one class"]
    if subjects is not None and any(len(set(labels[subjects == subject])) > 1 for subject in np.unique(subjects)):
        return None, ["resamples are not stratified: some subjects have cases of several classes"]
    return labels, ["resamples keep the class counts of the test split"]


def resample_notes(found: dict[str, dict[str, Any]], resamples: int) -> list[str]:
    """In words, the metrics whose intervals rest on fewer than 95 % of the resamples."""
    lacking = {name: entry.get("undefined_resamples", 0) for name, entry in found.items()}
    names = [name for name, count in lacking.items() if count > 0.05 * resamples]
    if not names:
        return []
    most = max(lacking.values())
    return [f"intervals of {', '.join(names)} leave out up to {most} of {resamples} resamples, which lack a class"]


def absence_notes(task: Task) -> list[str]:
    """In words, the classes or labels that training or validation hold no case of."""
    said = []
    for name, what in (("train", "cannot be learned"), ("val", "has no part in what is chosen")):
        labels = task_labels(task)[name]
        there = labels.any(axis=0) if labels.ndim == 2 else np.isin(np.arange(task.num_outputs), labels)
        said += [f"{name}: no case of {task.record.classes[k]}, which {what}" for k in np.flatnonzero(~there)]
    return said


def subject_numbers(subjects: np.ndarray) -> np.ndarray:
    """Subjects as numbers (N,), so that no name or record number of a source gets into a results folder."""
    return np.unique(subjects, return_inverse=True)[1].reshape(-1)


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
    arrays = {"test_counts": counts}
    if subjects is not None:
        arrays["test_subjects"] = subject_numbers(subjects)
    return made, arrays


SAMPLES = 4


def sample_rows(count: int) -> np.ndarray:
    """Numbers of the test images that pictures show: evenly spaced."""
    return np.unique(np.linspace(0, count - 1, min(SAMPLES, count)).round().astype(int))


def _sample_masks(task: Task, predict: Callable[[np.ndarray], Any]) -> np.ndarray:
    """Predicted masks (n, 128, 128) of the images that pictures show."""
    from .probes.segment import decide

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
        "values are means over draws of training subjects; intervals hold 95 % of the draws",
    ]
    chosen = {"train_cases": [min(sizes), max(sizes)]}
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
