"""A task: a record that describes what it measures, and splits of images with labels or masks."""

from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from biovfm_hf.errors import UserError
from biovfm_hf.nearest import nearest
from biovfm_hf.reading.documents import read_yaml

from ..statistics import masks  # noqa: F401  (registers the metrics of masks)
from ..statistics.kinds import BINARY, DETECTION, MULTILABEL, SEGMENTATION, TASKS
from ..statistics.metrics import find_metric, metric_names
from .boxes import ImageBoxes
from .images import Images

KINDS = (*TASKS, SEGMENTATION, DETECTION)
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class TaskRecord:
    """The description of a task, from one YAML file in `records/`.

    Attributes include `kind`, one of `KINDS` (MedMNIST's names, `segmentation` and `detection`); `metric`, by which
    models are compared; `layout`, the reader of its files, and `options` for that reader; `splits`, where the splits
    come from; `classes`, names in the order of the labels (for segmentation the first is the background); and
    `modality`, that of its images, "" if not stated.
    """

    name: str
    title: str
    kind: str
    metric: str
    layout: str
    classes: tuple[str, ...]
    splits: str
    licence: str
    citation: str
    url: str = ""
    modality: str = ""
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def is_private(self) -> bool:
        """Whether its images are private, that is, no page documents their release."""
        return not self.url

    @property
    def positive(self) -> str | None:
        """The positive class of a binary task, which sensitivity, F1 and ROC are about; None for other kinds."""
        return self.classes[1] if self.kind == BINARY and len(self.classes) == 2 else None


@dataclass(frozen=True)
class Split:
    """Images of one split with their labels and attributes.

    Attributes:
        images: N_images images.
        labels: (N_cases,) int for one class per case, (N_cases, L) of 0/1 for multi-label tasks, None for segmentation
            and detection.
        masks: integer classes (H, W) of each image, for segmentation.
        boxes: boxes of each image, for detection.
        case_of_image: (N_images,) case of each image, if a case has several images (slices of one patient); None if
            each image is a case.
        subjects: (N_cases,) name of each case's subject; None if unknown.
        columns: {name: (N_cases,) text} of further attributes such as sex, age or site, to compare groups by; "" if
            unknown.
        spacing: (N_cases, 3) mm between slices, rows and columns of volumes; None if unknown.
        affine: (N_cases, 4, 4) from voxels (to the patient's right, front and head) to mm; None if unknown.
    """

    images: Images
    labels: np.ndarray | None = None
    masks: Images | None = None
    case_of_image: np.ndarray | None = None
    subjects: np.ndarray | None = None
    columns: dict[str, np.ndarray] = field(default_factory=dict)
    spacing: np.ndarray | None = None
    boxes: list[ImageBoxes] | None = None
    affine: np.ndarray | None = None

    @property
    def num_cases(self) -> int:
        """Number of cases, which are what metrics count."""
        if self.labels is not None:
            return len(self.labels)
        return len(self.images) if self.case_of_image is None else int(self.case_of_image.max()) + 1


class LeftOut(NamedTuple):
    """A line or file of a list that makes no case, and why.

    `where` names the line and the file. If the line is that of a patient with a `folder`, `anonymous` names the file
    by its number there instead.
    """

    where: str
    reason: str
    folder: Path | None = None
    anonymous: str = ""


@dataclass(frozen=True)
class Task:
    """A record with its splits, checked: labels fit the kind, and no subject is in two splits.

    `notes` say how the task was made. `warnings` say what may make its scores wrong; their examples name files and
    stay out of all records. `leaks` are those by which patients may be in both train and test. `left_out` has the
    lines and files of a list that make no case.
    """

    record: TaskRecord
    splits: dict[str, Split]
    notes: tuple[str, ...] = ()
    warnings: dict[str, str] = field(default_factory=dict)
    leaks: tuple[str, ...] = ()
    left_out: tuple[LeftOut, ...] = ()

    def __post_init__(self) -> None:
        for name in SPLITS:
            if name not in self.splits or len(self.splits[name].images) == 0:
                raise UserError(
                    f"task {self.record.name}: the {name} split has no image; give images for train and test (a list "
                    "or folder without val holds out a fifth of train)"
                )
            _check_split(self.record, name, self.splits[name])
        _check_subjects(self.record.name, self.splits)
        train = self.splits["train"].labels
        if train is not None and train.ndim == 1 and len(np.unique(train)) < 2:
            raise UserError(
                f"task {self.record.name}: every training case ({len(train):,} of them) has the same class; a probe "
                "needs two or more"
            )

    @property
    def name(self) -> str:
        """The record's name."""
        return self.record.name

    @property
    def num_outputs(self) -> int:
        """Scores per case: classes, or labels of a multi-label task (2 for a binary one)."""
        return len(self.record.classes)


def _check_split(record: TaskRecord, name: str, split: Split) -> None:
    where = f"task {record.name}, {name} split"
    if record.kind == SEGMENTATION:
        if split.masks is None or len(split.masks) != len(split.images):
            raise UserError(f"{where}: every image needs a mask")
        return
    if record.kind == DETECTION:
        _check_boxes(where, record, split)
        return
    labels = split.labels
    if labels is None or not np.issubdtype(labels.dtype, np.integer):
        raise UserError(f"{where}: labels must be whole numbers")
    cases = len(split.images) if split.case_of_image is None else int(split.case_of_image.max()) + 1
    if len(labels) != cases:
        raise UserError(f"{where}: {len(labels)} labels for {cases} cases; the numbers must be equal")
    outputs = len(record.classes)
    if record.kind == MULTILABEL:
        if labels.ndim != 2 or labels.shape[1] != outputs or not np.isin(labels, (0, 1)).all():
            raise UserError(f"{where}: multi-label labels must be 0/1 of shape (N, {outputs}), not {labels.shape}")
    elif labels.ndim != 1 or labels.min() < 0 or labels.max() >= outputs:
        raise UserError(f"{where}: labels must be (N,) numbers 0..{outputs - 1}; shape {labels.shape} was given")


def _check_boxes(where: str, record: TaskRecord, split: Split) -> None:
    if split.boxes is None or len(split.boxes) != len(split.images):
        raise UserError(f"{where}: every image needs its boxes, if only none")
    labels = np.concatenate([each.things.labels for each in split.boxes])
    if not len(labels):
        raise UserError(f"{where}: no image has a box; nothing can be learned or scored")
    if labels.min() < 0 or labels.max() >= len(record.classes):
        raise UserError(f"{where}: a box is of class {labels.max()}; expected 0..{len(record.classes) - 1}")


def _check_subjects(task: str, splits: dict[str, Split]) -> None:
    seen: dict[str, str] = {}
    for name in SPLITS:
        subjects = splits[name].subjects
        for subject in () if subjects is None else np.unique(subjects):
            if subject in seen:
                raise UserError(
                    f"task {task}: subject {subject} is in both {seen[subject]} and {name}; "
                    "keep all images of a subject in one split"
                )
            seen[str(subject)] = name


def read_record(path: Path) -> TaskRecord:
    """Read one record file.

    Raises:
        UserError: the file is not a YAML mapping, a field is missing or unknown, or the kind or metric is unknown.
    """
    content = read_yaml(path)
    if reason := _misfit(content):
        raise UserError(f"{path} is not a task record: {reason}; see evaluation/tasks/records for examples")
    record = TaskRecord(**{**content, "classes": tuple(map(str, content["classes"]))})
    if record.kind not in KINDS:
        raise UserError(
            f"{path}: kind {record.kind!r} is none of {', '.join(KINDS)}{nearest(str(record.kind), KINDS)}"
        )
    if find_metric(record.metric) is None:
        hint = nearest(str(record.metric), metric_names()) or f"; there are: {', '.join(metric_names())}"
        raise UserError(f"{path}: no metric {record.metric!r}{hint}")
    return record


def _misfit(content: dict[str, Any]) -> str:
    """What keeps the mapping of a file from being a task record; empty if nothing does."""
    known = {item.name: item for item in fields(TaskRecord)}
    if unknown := next((key for key in content if key not in known), None):
        return f"unknown key {unknown!r}{nearest(str(unknown), known)}"
    required = [name for name, item in known.items() if item.default is MISSING and item.default_factory is MISSING]
    if lacking := next((name for name in required if name not in content), None):
        return f"the key {lacking!r} is missing"
    if not isinstance(content["classes"], list):
        return "classes is not a list of names"
    return "" if isinstance(content.get("options", {}), dict) else "options is not a mapping"
