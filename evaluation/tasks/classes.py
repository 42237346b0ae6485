"""The classes of a user's own task: their order, their numbers, and the positive one of two."""

import re

import numpy as np

from biovfm_hf.errors import UserError
from biovfm_hf.nearest import did_you_mean

from ..statistics.kinds import MULTICLASS, MULTILABEL, ORDINAL
from .task import TaskRecord

# Words that say that something is not there: such a class is not the positive one only because it sorts last.
NEGATIVE = re.compile(
    r"(healthy|normal|negative|false|benign|controls?|absent|none)|(no|non|not)([ _-].*)?", re.IGNORECASE
)


def numbered(name: str, labels: list[str], positive: str | None = None) -> tuple[list[str], np.ndarray]:
    """The classes in order, and the labels as their indices (N,), or as 0/1 (N, L) for several labels.

    Of two classes the second is `positive`.
    """
    parts = [[part for part in label.split("|") if part] for label in labels]
    classes = sorted({part for label in parts for part in label}, key=class_order)
    _check_classes(name, classes)
    several = any("|" in label for label in labels)
    if not several and len(classes) == 2:
        classes = _with_positive_last(name, classes, positive)
    index = {label: number for number, label in enumerate(classes)}
    if not several:
        return classes, np.array([index[label] for label in labels], np.int64)
    numbers = np.zeros((len(labels), len(classes)), np.int64)
    for row, label in enumerate(parts):
        numbers[row, [index[part] for part in label]] = 1
    return classes, numbers


def _with_positive_last(name: str, classes: list[str], positive: str | None) -> list[str]:
    """Two sorted classes with the positive one second: the given one, or the one that is no plainly negative word."""
    if positive is not None and positive not in classes:
        raise UserError(f"task {name}: no class {positive!r} to be positive{did_you_mean(positive, classes)}")
    first, last = classes
    if positive is None and NEGATIVE.fullmatch(last) and not NEGATIVE.fullmatch(first):
        positive = first
    return [last, first] if positive == first else classes


def told_positive(record: TaskRecord) -> str | None:
    """A line that names the positive class, for a binary task whose labels are words; None if they are numbers."""
    if record.positive is None or all(class_order(label)[0] == 0 for label in record.classes):
        return None
    return f"task {record.name}: the positive class is {record.positive}, not {record.classes[0]}"


def ordinal_kind(name: str, kind: str) -> str:
    """The kind of a task whose classes are ordered grades; with two grades it is a binary task."""
    if kind == MULTILABEL:
        raise UserError(f"task {name}: an ordinal target has one grade an image, this one has several labels")
    return ORDINAL if kind == MULTICLASS else kind


def _check_classes(name: str, classes: list[str]) -> None:
    """Raise a UserError if the labels are measurements, that is numbers that are not all whole."""
    numbers = [class_order(label) for label in classes]
    if all(kind == 0 for kind, _, _ in numbers) and any(value % 1 != 0 for _, value, _ in numbers):
        raise UserError(
            f"task {name}: labels such as {classes[0]} and {classes[-1]} are measurements, a regression target, which "
            "no probe takes; make grades of them (0, 1, 2 ...) and give --target ordinal, or give classes"
        )


def class_order(label: str) -> tuple[int, float, str]:
    """The place of a class among others: numbers first, by value, then words."""
    try:
        return (0, float(label.replace(",", ".")), label)  # as spreadsheets of many countries write it
    except ValueError:
        return (1, 0.0, label)
