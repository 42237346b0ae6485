"""Ids of an image dataset's rows, as features files and selections use them."""

from typing import Any


def row_ids(table: Any) -> list[str]:
    """The id of each row of a `datasets` table: PATH[:VIEW][:INDEX] by those columns, else its number."""
    if "path" not in table.features:
        return [str(number) for number in range(len(table))]
    parts = [table[name] for name in ("path", "view", "index") if name in table.features]
    return [":".join(str(part) for part in row if part is not None) for row in zip(*parts, strict=True)]
