"""Applies a record to a path: the kind of item, whether it is training data, and its subject."""

import csv
import gzip
import io
import json
import os
import zlib
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from biovfm_hf.decoding.files import IMAGE_SUFFIXES

from ..limits import ARCHIVES
from .case_lists import case_rows
from .globs import Pattern, compile_glob, compile_regex, ending_of_glob
from .source import NOT_ESTABLISHED, ItemRule, Source, TableRule, anatomies

MAX_TABLE_DEPTH = 4
MAX_TABLE_BYTES = 4 << 30  # unpacked
SMALL_TABLE_BYTES, MAX_EXPANSION = 64 << 20, 100  # a list may unpack to this much, plus this many times its size
MAX_LINE = 16 << 20  # characters
NOT_TRAINING = "not in the training part"
UNNAMED = "no pattern of the record matches this file"
HIDDEN_FILE, HIDDEN_FOLDER = "a hidden file", "a hidden folder"


class Selection:
    """The rules of one record; its tables are read from the raw folder once."""

    def __init__(self, source: Source, folder: Path) -> None:
        self._source, self._folder = source, folder
        self._rules = [(compile_glob(rule.pattern), rule) for rule in source.items]
        self._labels = [(compile_regex(label.path), label) for label in source.labels]
        self._globs = [(compile_glob(rule.pattern), rule.reason) for rule in source.exclude if rule.pattern]
        self._listed = [(_Table(rule.table, folder), rule.reason) for rule in source.exclude if rule.table]
        self._list_problem = next((table.problem for table, _ in self._listed if table.problem), None)
        self._train = _train(source, folder)
        self._always = source.train == "all" and not self._list_problem  # whether every path is in the training part
        self.subject = _subject(source, folder)
        """Maps a path to the source's own identifier of its patient, study or volume."""
        self.subjects = _subjects(source, self.subject)
        """The same for many paths."""
        self._anatomy = _Table(source.anatomy, folder) if source.anatomy else None
        self._constant: dict[int, tuple[str | None, str | None]] = {}  # by rule, labels that do not depend on the path

    def rule(self, path: str) -> ItemRule | None:
        """The first item rule that matches `path` (below the source's folder)."""
        for glob, rule in self._rules:
            if glob.fullmatch(path):
                return rule
        return None

    def judged(self, path: str) -> tuple[ItemRule | None, str | None]:
        """The first item rule that matches `path`, and why the path is still left out (None if it is not)."""
        reason = self.excluded(path) if self._globs or self._listed else None
        if reason is None and not self._always:
            reason = self.outside_training(path)
        for glob, rule in self._rules:
            if glob.fullmatch(path):
                return rule, reason
        return None, reason

    def takes_all(self, paths: list[str], endings: set[str]) -> ItemRule | None:
        """The item rule that takes all of `paths` as training data with the same labels; None if that is unknown.

        The paths are files of one folder, whose names have these endings.

        Asking about many paths at a time takes a third of the time of `judged` and `labels`.
        """
        if not self._rules or not self._always or self._labels or self._anatomy is not None or self._listed:
            return None
        glob, rule = self._rules[0]
        asked = paths[:1] if endings == {ending_of_glob(rule.pattern)} else paths  # the first then stands for all
        if all(map(glob.fullmatch, asked)) and not any(any(map(other.fullmatch, paths)) for other, _ in self._globs):
            return rule
        return None

    def excluded(self, path: str) -> str | None:
        """The reason of the exclude rule that matches `path`, None if none does."""
        for glob, reason in self._globs:
            if glob.fullmatch(path):
                return reason
        for table, reason in self._listed:
            if table.answer(path) is not None:
                return reason
        return None

    def outside_training(self, path: str) -> str | None:
        """Why `path` is not training data, None if it is. If an exclusion list is missing, none is known to be."""
        return self._train(path) or self._list_problem

    def labels(self, path: str, rule: ItemRule) -> tuple[str | None, str | None]:
        """Modality and anatomy: by the first label that has them, else by the item rule, else the source's only one.

        A table of anatomies takes precedence if it knows the word.
        """
        known = self._constant.get(id(rule))
        if known is not None:
            return known
        modality, anatomy = rule.modality or self._source.modality, rule.anatomy
        if self._labels:
            labels = [label for expression, label in self._labels if expression.search(path)]
            modality = next((label.modality for label in labels if label.modality), modality)
            anatomy = next((label.anatomy for label in labels if label.anatomy), anatomy)
        if self._anatomy is not None:
            anatomy = anatomies().get((self._anatomy.answer(path) or "").casefold(), anatomy)
        if anatomy is None and len(self._source.anatomies) == 1:
            anatomy = self._source.anatomies[0]
        if not self._labels and self._anatomy is None:
            self._constant[id(rule)] = modality, anatomy
        return modality, anatomy


def looks_like_image(name: str) -> bool:
    """Whether a file that no rule matches could be an input, by its name."""
    lower = name.lower()
    return lower.removesuffix(".gz").endswith(IMAGE_SUFFIXES) or lower.endswith(ARCHIVES)


def _train(source: Source, folder: Path) -> Callable[[str], str | None]:
    rule = source.train
    if rule == "all":
        return lambda path: None
    if rule is None:
        return lambda path: f"the training part of {source.id} is {NOT_ESTABLISHED}"
    if isinstance(rule, str):
        expression = compile_regex(rule.removeprefix("path:"))
        return lambda path: None if expression.search(path) else NOT_TRAINING
    table = _Table(rule, folder)
    if table.problem:
        return lambda path: table.problem
    return lambda path: None if table.answer(path) is not None else NOT_TRAINING


def _subject(source: Source, folder: Path) -> Callable[[str], str | None]:
    rule = source.subject
    if rule is None:
        return lambda path: None
    if isinstance(rule, TableRule):
        return _Table(rule, folder).answer
    expression = compile_regex(rule)
    return partial(expression.joined_groups, joint="-")


def _subjects(source: Source, subject: Callable[[str], str | None]) -> Callable[[list[str]], list[str | None]]:
    rule = source.subject
    if rule is None:
        return lambda paths: [None] * len(paths)
    if isinstance(rule, TableRule):
        return lambda paths: list(map(subject, paths))
    return partial(compile_regex(rule).joined_groups_of_all, joint="-")


class TableError(ValueError):
    """Why a list cannot be used, without repeating its content."""


class _Table:
    """Key -> answer of one table rule; a rule without an answer column answers "" for every listed key."""

    def __init__(self, rule: TableRule, folder: Path) -> None:
        self._key = _key_expression(rule.key)
        self._keeps_suffix = rule.key != "stem"  # the pattern of "stem" drops it
        self._answers: dict[str, str] = {}
        self.problem: str | None = None
        files = find_tables(folder, rule.table)
        if not files:
            self.problem = f"the list {rule.table} is not in the raw folder, so the training part is unknown"
        for file in files:
            try:
                self._read(file, rule)
            except TableError as error:
                self.problem = f"the list {rule.table} cannot be read ({error})"
            except (OSError, ValueError, csv.Error, EOFError, zlib.error, RecursionError) as error:
                # a library's message may quote a patient's name
                self.problem = f"the list {rule.table} cannot be read ({type(error).__name__})"

    def _read(self, file: Path, rule: TableRule) -> None:
        if file.stat().st_size > MAX_TABLE_BYTES:
            raise TableError(f"more than {MAX_TABLE_BYTES >> 30} GiB")
        value = compile_regex(rule.value) if rule.value else None
        for number, row in enumerate(table_rows(file, rule)):
            if any(str(row.get(column, "")).strip() != required for column, required in rule.where):
                continue
            cell = str(number) if rule.match == "#" else str(row.get(rule.match or "", "") or "").strip()
            key = value.joined_groups(cell) if value else cell
            answer = str(row.get(rule.column, "") or "").strip() if rule.column else ""
            if key and (answer or not rule.column):
                self._answers[key] = answer

    def answer(self, path: str) -> str | None:
        """The table's answer for a file; for NAME.dcm also its answer for NAME, as DICOM files are often stored."""
        answer = self._listed(path)
        if answer is None and self._keeps_suffix and path.endswith(".dcm"):
            answer = self._listed(path.removesuffix(".dcm"))
        return answer

    def _listed(self, path: str) -> str | None:
        key = self._key.joined_groups(path)
        return None if key is None else self._answers.get(key)


def _key_expression(key: str) -> Pattern:
    shortcuts = {"name": r"([^/]+)$", "stem": r"([^/]+?)(?:\.[^/.]+)?(?:#.*)?$"}
    return compile_regex(shortcuts.get(key, key))


def table_rows(file: Path, rule: TableRule) -> Iterator[dict[str, Any]]:
    """Rows of a CSV (plain or .gz), of JSON lines, of a list file (its words under the column ""), or of RP3D's JSON.

    Raises:
        TableError: a column that the rule names is missing, or the list is too large.
        Exception: what csv, json or gzip raise on damaged data.
    """
    if rule.format == "rp3d":
        yield from case_rows(file)
        return
    with _lines(file) as lines:
        if rule.format == "list":
            yield from ({"": line.split()[0]} for line in lines if line.strip())
            return
        if rule.format == "jsonl":
            names: set[str] = set()
            for row in map(json.loads, lines):
                if isinstance(row, dict):
                    names |= row.keys()
                    yield row
            if not names:
                raise TableError("no row")
            _check_columns(rule, names)
            return
        reader = csv.DictReader(lines, delimiter=rule.delimiter)
        _check_columns(rule, reader.fieldnames or ())
        yield from reader


def _check_columns(rule: TableRule, names: Collection[str]) -> None:
    columns = [rule.match if rule.match != "#" else None, rule.column, *(name for name, _ in rule.where)]
    missing = [name for name in columns if name and name not in names]
    if missing:
        raise TableError(f"no column {missing[0]!r}")


@contextmanager
def _lines(file: Path) -> Iterator[Iterator[str]]:
    """The lines of a text file, plain or gzip, with bounds on a line and on all unpacked bytes."""
    most = min(MAX_TABLE_BYTES, SMALL_TABLE_BYTES + MAX_EXPANSION * file.stat().st_size)
    with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as opened:
        yield _bounded(io.TextIOWrapper(opened, encoding="utf-8-sig", errors="replace", newline=""), most)


def _bounded(text: io.TextIOWrapper, most: int) -> Iterator[str]:
    left = most
    while line := text.readline(MAX_LINE + 1):
        left -= len(line)
        if len(line) > MAX_LINE:
            raise TableError(f"a line of more than {MAX_LINE >> 20} MiB")
        if left < 0:
            raise TableError(f"unpacks to more than {most >> 20} MiB")
        yield line


def find_tables(folder: Path, pattern: str) -> list[Path]:
    """Regular files below `folder` (no links, at most 4 folders deep) whose path matches the glob, sorted."""
    glob = compile_glob(pattern)
    tables, level = [], [folder]
    for _ in range(MAX_TABLE_DEPTH + 1):
        below = []
        for directory in level:
            try:
                with os.scandir(directory) as entries:
                    for entry in entries:
                        if entry.is_dir(follow_symlinks=False):
                            below.append(Path(entry.path))
                        elif glob.fullmatch(Path(entry.path).relative_to(folder).as_posix()) and entry.is_file(
                            follow_symlinks=False
                        ):
                            tables.append(Path(entry.path))
            except OSError:
                continue
        level = below
    return sorted(tables)
