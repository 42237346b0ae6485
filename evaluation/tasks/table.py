"""A CSV file of a user's: its rows, and its columns by their given or their usual names."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from biovfm_hf.errors import UserError
from biovfm_hf.nearest import did_you_mean

LABEL_COLUMNS = ("label", "labels", "class", "target")
DELIMITERS = ",;\t"  # spreadsheets write semicolons where the comma is in numbers


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
        return content.decode("utf-8-sig")
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing; check its name") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UserError(
            f"{path}, line {line}: not UTF-8, perhaps Latin-1; save the list from the spreadsheet as CSV UTF-8, or "
            "convert it (iconv -f latin1 -t utf-8)"
        ) from error


class Table:
    """A CSV file, separated by what its first line has most of: its column names, its rows with their line numbers."""

    def __init__(self, path: Path) -> None:
        self.path = path
        stream = io.StringIO(_text(path), newline="")
        head = stream.readline()
        stream.seek(0)
        reader = csv.DictReader(stream, delimiter=max(DELIMITERS, key=head.count))
        try:
            self.rows = [(reader.line_num, row) for row in reader]
        except csv.Error as error:
            raise UserError(
                f"{path}, line {reader.line_num}: not a line of a CSV file ({error}); correct it"
            ) from error
        if not self.rows:
            raise UserError(f"{path}: the first line must name the columns, such as image,label, and rows follow")
        self.names = [name for name in self.rows[0][1] if name is not None]
        for number, row in self.rows:
            if None in row or None in row.values():
                raise UserError(f"{path}, line {number}: as many fields as columns are needed ({len(self.names)})")

    def column(self, given: str | None, usual: Iterable[str], what: str) -> str | None:
        """The column with the given name, or the first of the usual names that exists; None if there is none."""
        if given is None:
            return next((name for name in usual if name in self.names), None)
        if given not in self.names:
            raise UserError(f"{self.path}: no column {given!r} ({what}-column){did_you_mean(given, self.names)}")
        return given

    def labels(self, given: Sequence[str]) -> tuple[str, ...]:
        """The columns of labels: the given ones, or one with a usual name."""
        named = [self.column(name, (), "label") for name in given] or [self.column(None, LABEL_COLUMNS, "label")]
        if None in named:
            raise UserError(
                f"{self.path}: no column of labels (label; there are {', '.join(self.names)}); name it with "
                "--label-column"
            )
        return tuple(name for name in named if name is not None)
