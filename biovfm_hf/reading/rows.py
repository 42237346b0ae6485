"""Ids of an image dataset's rows, as features files and selections use them, and the rows that pretraining uses."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError, one_line
from .groups import NONE_LEFT, check_filter, column_values


def row_ids(table: Any) -> list[str]:
    """The id of each row of a `datasets` table: PATH[:VIEW][:INDEX] from these columns; without a path, its number."""
    if "path" not in table.features:
        return [str(number) for number in range(len(table))]
    parts = [table[name] for name in ("path", "view", "index") if name in table.features]
    return [":".join(str(part) for part in row if part is not None) for row in zip(*parts, strict=True)]


def kept_rows(table: Any, filters: dict[str, list[str]], selection: str | None) -> NDArray[np.int64] | None:
    """The rows of a `datasets` table that pretraining uses; None if it uses all.

    Args:
        table: the table.
        filters: column -> the values to keep (`data.modality`, `data.source`).
        selection: path of a list of ids (`data.selection`).

    Raises:
        UserError: a value or id does not exist, a column or the list cannot be read, or no row is left.
    """
    keep = np.ones(len(table), dtype=bool)
    for column, chosen in filters.items():
        values = column_values(table, column)
        check_filter(column, chosen, [str(name) for name in np.unique(values)])
        keep &= np.isin(values, chosen)
    if not keep.any():
        raise UserError(NONE_LEFT)
    if selection:
        ids = row_ids(table)
        keep &= np.isin(ids, read_selection(selection, ids))
        if not keep.any():
            raise UserError(NONE_LEFT)
    return None if keep.all() else np.flatnonzero(keep)


def read_selection(path: str, ids: Sequence[str]) -> list[str]:
    """The ids of a selection, one per line, all of which must exist.

    Raises:
        UserError: the file cannot be read, or names an image that is not there.
    """
    try:
        chosen = Path(path).expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise UserError(
            f"data.selection {path} cannot be read ({one_line(error)}); biovfm curate writes one"
        ) from error
    there = set(ids)
    lacking = [name for name in chosen if name not in there]
    if lacking:
        raise UserError(
            f"data.selection {path}: {len(lacking)} of {len(chosen)} images are not in the data, the first is "
            f"{lacking[0]}; give the config and split that were embedded"
        )
    return chosen
