"""Tables as the text of a CSV file."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def csv_text(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> str:
    r"""A line with the columns' names, then a line for each row; cells without a value are empty.

    >>> csv_text([{"task": "busi", "auc": 0.9}, {"task": "a, b"}], ["task", "auc"])
    'task,auc\nbusi,0.9\n"a, b",\n'

    Raises:
        ValueError: a row has a value for no column.
    """
    stream = io.StringIO()
    writer = csv.DictWriter(stream, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()
