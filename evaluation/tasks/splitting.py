"""Splits sets that come without splits, by systematic sampling of subjects; the same files give the same splits."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

Item = TypeVar("Item")


def systematic_split(
    subjects: np.ndarray, strata: np.ndarray | None = None, test: float = 0.2, val: float = 0.2
) -> np.ndarray:
    """Assign each case to `train`, `val` or `test` by its subject: every n-th subject in sorted order.

    Args:
        subjects: (N,) names; all cases of a subject get the same split.
        strata: (N,) integer classes; subjects are sorted by the class of their first case, then by name, so that each
            split gets its share of each class. None sorts by name only.
        test: share of the subjects for test.
        val: share of all subjects for validation.

    Returns:
        (N,) array of split names. With three or more subjects, no split is empty.
    """
    subjects = np.asarray(subjects).astype(str)
    unique, first, inverse = np.unique(subjects, return_index=True, return_inverse=True)
    order = np.arange(len(unique)) if strata is None else np.lexsort((unique, np.asarray(strata)[first]))
    split = np.full(len(unique), "train", dtype="<U5")
    split[order[_every(len(order), test)]] = "test"
    rest = order[split[order] == "train"]
    split[rest[_every(len(rest), val / max(1.0 - test, 1e-9))]] = "val"
    return split[inverse]


def hold_out(items: Sequence[Item], subjects: Sequence[str], val: float) -> tuple[list[Item], list[Item]]:
    """Divide a training list that comes without validation into (train, val); val gets the share `val` of subjects."""
    split = systematic_split(np.array(subjects), test=0.0, val=val)
    train, held_out = (
        [item for item, name in zip(items, split, strict=True) if name == part] for part in ("train", "val")
    )
    return train, held_out


def _every(count: int, fraction: float) -> np.ndarray:
    """Evenly spaced positions, about `fraction * count` of them; at least one if `fraction` is above 0."""
    if fraction <= 0 or count == 0:
        return np.zeros(0, int)
    taken = min(max(round(fraction * count), 1), count)
    return ((np.arange(taken) + 0.5) * count / taken).astype(int)
