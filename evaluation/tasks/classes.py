"""The classes of a user's own task: their order, their numbers, and the positive one of two."""

import re
from collections.abc import Collection, Sequence
from math import isfinite

import numpy as np

from biovfm_hf.errors import UserError
from biovfm_hf.nearest import did_you_mean

from ..statistics.kinds import MULTICLASS, MULTILABEL, ORDINAL
from .task import SPLITS, TaskRecord

MISSING = {"", "na", "n/a", "#n/a", "<na>", "nan", "null"}
FEW_CLASSES = 10  # so many classes are never too many: grades and digits
PER_NUMBER = 10
# Words that say that something is not there: such a class is not the positive one only because it sorts last.
NEGATIVE = re.compile(
    r"(healthy|normal|negative|false|benign|controls?|absent|none)|(no|non|not)([ _-].*)?", re.IGNORECASE
)


def is_missing(label: str) -> bool:
    """Whether a label is empty, or one of the words by which tables say that a value is missing."""
    return label.strip().casefold() in MISSING


def numbered(
    name: str, labels: Sequence[str], positive: str | None = None, subjects: np.ndarray | None = None
) -> tuple[list[str], np.ndarray]:
    """The classes in order, and the labels as their indices (N,), or as 0/1 (N, L) for several labels.

    Of two classes the second is `positive`.

    Args:
        name: the task, for messages.
        labels: (N,) labels as written; several are `a|b`.
        positive: the positive class of two.
        subjects: (N,) subject of each case, if known.

    Raises:
        UserError: the labels are measurements or names of cases, two of them are one word written differently, or none
            of two classes is `positive`.
    """
    parts = [[part.strip() for part in label.split("|") if part.strip()] for label in labels]
    classes = sorted({part for label in parts for part in label}, key=class_order)
    several = any("|" in label for label in labels)
    check_measured(name, classes, None if several else _units(labels, subjects))
    _check_spelling(name, classes)
    if not several:
        _check_names(name, classes, _units(labels, subjects))
        classes = _with_positive_last(name, classes, positive) if len(classes) == 2 else classes
    index = {label: number for number, label in enumerate(classes)}
    if not several:
        return classes, np.array([index[part] for label in parts for part in label], np.int64)
    numbers = np.zeros((len(labels), len(classes)), np.int64)
    for row, label in enumerate(parts):
        numbers[row, [index[part] for part in label]] = 1
    return classes, numbers


def _units(labels: Sequence[str], subjects: np.ndarray | None) -> int:
    """The number of cases, where all cases of a subject with one label count as one."""
    return len(labels) if subjects is None else len(set(zip(subjects.tolist(), labels, strict=True)))


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
    if record.positive is None or all(map(_is_number, record.classes)):
        return None
    return f"task {record.name}: the positive class is {record.positive}, not {record.classes[0]}"


def ordinal_kind(name: str, kind: str) -> str:
    """The kind of a task whose classes are ordered grades; with two grades it is a binary task."""
    if kind == MULTILABEL:
        raise UserError(f"task {name}: an ordinal target has one grade an image, this one has several labels")
    return ORDINAL if kind == MULTICLASS else kind


def told_order(record: TaskRecord) -> str | None:
    """A line that states the order of a task's grades if some are words; None if they are numbers or not ordered."""
    if record.kind != ORDINAL or all(map(_is_number, record.classes)):
        return None
    grades = ", ".join(record.classes)
    return (
        f"task {record.name}: the grades from low to high are {grades}; if that is wrong, begin each with its number "
        f"(0 {record.classes[0]})"
    )


def check_measured(name: str, labels: Collection[str], units: int | None = None) -> None:
    """Raise a UserError if labels are measurements: numbers not all of which are whole, or too many different ones.

    A count or an age has many values and few cases of each; grades and codes of classes have not. With fewer than
    `PER_NUMBER` cases of each number, a fifth of them for test holds one or two.

    Args:
        name: the task, for messages.
        labels: the different labels; words among numbers are left aside.
        units: number of subjects, or of cases; None judges only whether the numbers are whole.
    """
    numbers = sorted(filter(_is_number, labels), key=class_order)
    whole = all(class_order(label)[1] % 1 == 0 for label in numbers)
    many = units is not None and len(numbers) > FEW_CLASSES and units < PER_NUMBER * len(numbers)
    if many or (not whole and len(numbers) == len(labels)):
        raise UserError(
            f"task {name}: labels such as {numbers[0]} and {numbers[-1]} ({len(numbers)} different numbers) are "
            "measurements, a regression target, which no probe takes; make grades of them (0, 1, 2 ...) and give "
            "--target ordinal, or give classes"
        )


def many_numbers(classes: Sequence[str]) -> str | None:
    """A warning if whole numbers that make many classes may be measurements after all; None if not."""
    numbers = [label for label in classes if _is_number(label)]
    if len(numbers) <= 2 * FEW_CLASSES:
        return None
    return (
        f"{len(numbers)} different numbers are taken as classes; if they are measurements such as ages, their "
        "distances do not count, so make grades of them"
    )


def _check_names(name: str, classes: list[str], units: int) -> None:
    """Raise a UserError if classes are so many that train, val and test cannot each have a case of them."""
    if len(classes) > FEW_CLASSES and units < len(SPLITS) * len(classes):
        raise UserError(
            f"task {name}: {len(classes)} classes, such as {classes[0]} and {classes[-1]}, for {units} cases or "
            "subjects are their names or numbers rather than classes; name the column of labels with --label-column, "
            "or sort the images into folders of classes"
        )


def _check_spelling(name: str, classes: list[str]) -> None:
    """Raise a UserError if two classes are one word or number written differently."""
    seen: dict[str, str] = {}
    pairs = [(seen.setdefault(_plain(label), label), label) for label in classes]
    alike = [f"{first!r} and {other!r}" for first, other in pairs if first != other]
    if alike:
        raise UserError(
            f"task {name}: labels {', '.join(alike[:3])} differ only in capitals, spaces or zeros; write each class "
            "in one way"
        )


def _plain(label: str) -> str:
    """A label without what people write in different ways."""
    return str(class_order(label)[1]) if _is_number(label) else " ".join(label.casefold().split())


def check_learned(name: str, classes: Sequence[str], labels: np.ndarray, splits: np.ndarray) -> None:
    """Raise a UserError if no training case has some class; `labels` are (N,) indices, `splits` (N,) names."""
    lacking = np.setdiff1d(labels, labels[splits == "train"])
    if len(lacking):
        examples = [f"{classes[k]} ({(labels == k).sum()} elsewhere)" for k in lacking[:5]]
        more = f" and {len(lacking) - 5} more" if len(lacking) > 5 else ""
        raise UserError(
            f"task {name}: {len(lacking)} of {len(classes)} classes have no training case and cannot be learned: "
            f"{', '.join(examples)}{more}; give each some in train, or leave these classes out"
        )


def class_order(label: str) -> tuple[int, float, tuple[str | int, ...]]:
    """The place of a class among others: numbers by value, then words, in which digits count as numbers."""
    parts = tuple(int(part) if place % 2 else part for place, part in enumerate(re.split(r"(\d+)", label)))
    try:
        value = float(label.replace(",", "."))  # as spreadsheets of many countries write it
    except ValueError:
        return (1, 0.0, parts)
    return (0, value, parts) if isfinite(value) else (1, 0.0, parts)


def _is_number(label: str) -> bool:
    return class_order(label)[0] == 0
