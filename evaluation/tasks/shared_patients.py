"""Warns if patients seem to be in both train and test: by names of files, or by names that differ only in writing."""

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .task import SPLITS

NAMED = 3
_LAST_PART = re.compile(r"[_\-. ]+[^_\-. ]*$")
_ZEROS = re.compile(r"(?<!\d)0+(?=\d)")
_DECIMAL = re.compile(r"(?<=\d)\.0+$")
_NUMBERED = re.compile(r"\d{2,}|[A-Za-z]\d")


def warnings_without_subjects(files: Sequence[Path], splits: np.ndarray, listed: bool) -> dict[str, str]:
    """Warnings for a task that does not state the subjects of its images.

    Args:
        files: (N,) image files.
        splits: (N,) the split of each file.
        listed: whether the task is a list, which could have a column of subjects.

    Returns:
        A warning for a list that nothing keeps patients apart; and a warning if several splits have names that look
        like the same patient's, with examples that stay on the user's screen.
    """
    remedy = "name the column of patients with --subject-column" if listed else "use a CSV list with a subject column"
    warnings = {}
    if listed:
        warnings[
            "no subject column: images of one patient can be in train and test, which makes scores too good and "
            f"intervals too narrow; {remedy}"
        ] = ""
    folders = listed and len({file.parent for file in files}) > 1  # otherwise folders of classes, or one folder
    if spread := spread_names(files, splits, folders):
        examples = [f"{name} in {', '.join(parts)}" for name, parts in list(spread.items())[:NAMED]]
        more = [f"and {len(spread) - NAMED} more"] if len(spread) > NAMED else []
        text = f"{len(spread)} beginnings of file names look like patients and are in test and another split; {remedy}"
        warnings[text] = "; ".join(examples + more)
    return warnings


def warnings_of_subjects(subjects: np.ndarray, splits: np.ndarray) -> dict[str, str]:
    """A warning if subjects in test and in another split differ only in how they are written, with examples.

    `P001` and `p001`, or `001`, `1` and `1.0` after a spreadsheet has rewritten them, can be one patient.

    Args:
        subjects: (N,) subject of each case.
        splits: (N,) the split of each case.
    """
    written: dict[str, dict[str, str]] = defaultdict(dict)
    for subject, split in zip(subjects.tolist(), splits.tolist(), strict=True):
        written[_plain(subject)][subject] = split
    spread = [names for names in written.values() if "test" in names.values() and len(set(names.values())) > 1]
    if not spread:
        return {}
    examples = [" and ".join(f"{name} in {split}" for name, split in names.items()) for names in spread[:NAMED]]
    more = [f"and {len(spread) - NAMED} more"] if len(spread) > NAMED else []
    text = (
        f"{len(spread)} subjects in test and another split differ only in capitals or zeros; if they are the same, "
        "scores are too good, so write each subject in one way"
    )
    return {text: "; ".join(examples + more)}


def _plain(subject: str) -> str:
    """A subject's name without capitals, zeros before a number, and `.0` behind it."""
    return _ZEROS.sub("", _DECIMAL.sub("", subject.casefold()))


def spread_names(files: Sequence[Path], splits: np.ndarray, folders: bool) -> dict[str, list[str]]:
    """Names that look like a patient's and occur in test and in another split, each with its splits.

    A name is the file's name without its last part (`P07` of `P07_slice3.png`), or with `folders` the name of the
    file's folder, if it contains a number.
    """
    grouped: dict[str, set[str]] = defaultdict(set)
    for file, split in zip(files, splits.tolist(), strict=True):
        for name in _patient_like(file, folders):
            grouped[name].add(split)
    return {
        name: [split for split in SPLITS if split in of]
        for name, of in sorted(grouped.items())
        if "test" in of and len(of) > 1
    }


def _patient_like(file: Path, folders: bool) -> list[str]:
    stem = file.name.partition(".")[0]
    names = [_LAST_PART.sub("", stem)] if _LAST_PART.search(stem) else []
    names += [file.parent.name] if folders else []
    return [name for name in dict.fromkeys(names) if _NUMBERED.search(name)]
