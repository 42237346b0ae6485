"""Warns if patients seem to be in both train and test, by file names that look like patients' names."""

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .task import SPLITS

NAMED = 3
_LAST_PART = re.compile(r"[_\-. ]+[^_\-. ]*$")
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
