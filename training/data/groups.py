"""Groups of images by the values of a column, for filters and weights."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from biovfm_hf.errors import UserError
from biovfm_hf.nearest import did_you_mean

NONE_LEFT = "no image is left by data.modality and data.source together"


def name_of(value: Any, names: Sequence[str] | None) -> str:
    """A cell of a column of groups as text, null as ""; class labels are numbers of `names`, and -1 for none."""
    if value is None or (names and value < 0):
        return ""
    return str(names[value] if names else value)


def group_rows(values: NDArray[Any]) -> dict[str, NDArray[np.int64]]:
    """Row numbers by value."""
    names, which = np.unique(values, return_inverse=True)
    return {str(name): np.flatnonzero(which == number) for number, name in enumerate(names)}


def check_filter(column: str, values: Sequence[str], present: Sequence[str]) -> None:
    """Refuse to filter by values that no image has.

    Raises:
        UserError: names the value, and the nearest existing one.
    """
    for name in values:
        if name not in present:
            raise UserError(f"no image has {column} {name!r}{did_you_mean(name, present)}")
