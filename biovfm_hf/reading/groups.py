"""Groups of images by the values of a column, for filters, weights and counts."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from ..nearest import did_you_mean

NONE_LEFT = "no image is left by data.modality and data.source together"


def name_of(value: Any, names: Sequence[str] | None) -> str:
    """A cell of a column of groups as text, "" for null; a class label is the number of one of `names`, -1 of none."""
    if value is None or (names and value < 0):
        return ""
    return str(names[value] if names else value)


def group_rows(values: NDArray[Any]) -> dict[str, NDArray[np.int64]]:
    """Row numbers by value."""
    names, which = np.unique(values, return_inverse=True)
    return {str(name): np.flatnonzero(which == number) for number, name in enumerate(names)}


def column_values(table: Any, column: str) -> NDArray[Any]:
    """A text column of a `datasets` table, nulls as "".

    Raises:
        UserError: there is no such column.
    """
    if column not in table.column_names:
        raise UserError(f"the data has no column {column!r}{did_you_mean(column, table.column_names)}")
    names = getattr(table.features[column], "names", None)
    return np.array([name_of(value, names) for value in table[column]])


def check_filter(column: str, values: Sequence[str], present: Sequence[str]) -> None:
    """Refuse to filter by values that no image has.

    Raises:
        UserError: names the value, and the nearest existing one.
    """
    for name in values:
        if name not in present:
            raise UserError(f"no image has {column} {name!r}{did_you_mean(name, present)}")
