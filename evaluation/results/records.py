"""Result records on disk: one file each, merged into results.json under a lock, so processes can share a folder."""

import contextlib
import hashlib
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from biovfm_hf.errors import UserError
from biovfm_hf.reading.documents import read_json
from biovfm_hf.results.record import Record
from biovfm_hf.writing.files import atomic_path, write_text
from biovfm_hf.writing.locks import lock

from ..statistics.split import ScoredSplit, read_split

Row = dict[str, Any]  # a record as the results file holds it; over several seeds joined, `seed` is a list
REMEDY = "remove it and run the same command again"

# Fields that name a record, and its data. A record of changed weights or data replaces the one of its name.
NAMING = ("model", "task", "method", "protocol", "seed", "settings")
MEASURED_ON = ("revision", "data")
RESAMPLES = 1000  # of records that do not say how many their intervals rest on, as older ones did not


def record_key(identity: dict[str, Any]) -> str:
    """A readable, unique file stem from the fields that name a record."""
    digest = hashlib.blake2b(
        json.dumps({name: identity[name] for name in NAMING}, sort_keys=True).encode(), digest_size=5
    ).hexdigest()
    parts = [str(identity[name]) for name in ("model", "task", "method")]
    stem = "__".join("".join(c if c.isalnum() or c in "-." else "-" for c in word)[-40:] for word in parts)
    return f"{stem}__{digest}"


def read_record(out: Path, identity: dict[str, Any]) -> Row | None:
    """The finished record of these weights, data and resamples, or None. It counts only with its scores beside it.

    Raises:
        UserError: the file is there but is no record.
    """
    key = record_key(identity)
    path = out / "records" / f"{key}.json"
    if not path.is_file() or not (out / "scores" / f"{key}.npz").is_file():
        return None
    record = _read(path)
    same = all(getattr(record, name) == identity[name] for name in MEASURED_ON)
    return record.to_json() if same and (record.resamples or RESAMPLES) == identity["resamples"] else None


def measured_otherwise(out: Path, identity: dict[str, Any]) -> bool:
    """Whether there are records of this model on this task, by whatever method, of other weights or data.

    Raises:
        UserError: one of the files is no record.
    """
    model, task, *_ = record_key(identity).split("__")
    records = map(_read, (out / "records").glob(f"{model}__{task}__*"))
    return any(getattr(record, name) != identity[name] for record in records for name in MEASURED_ON)


def _read(path: Path) -> Record:
    """A record file, read again only where it has changed: results.json is made of all of them, again and again."""
    about = path.stat()
    return _read_version(path, about.st_mtime_ns, about.st_size, about.st_ino)


@lru_cache(maxsize=4096)
def _read_version(path: Path, *version: int) -> Record:
    return Record.read(read_json(path, REMEDY), str(path), REMEDY)


def write_record(out: Path, key: str, row: Row, scores: dict[str, np.ndarray]) -> None:
    """Write the scores, then the record, then results.json from all records."""
    with atomic_path(out / "scores" / f"{key}.npz") as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, allow_pickle=False, **scores)
    path = out / "records" / f"{key}.json"
    record = Record.read(clean({**row, "scores": f"scores/{key}.npz"}), str(path), REMEDY)
    write_text(path, json.dumps(record.to_json(), indent=1) + "\n")
    merge_records(out)


def merge_records(out: Path) -> list[Row]:
    """Rewrite results.json from every record file, one process at a time. Returns the records, in a stable order."""
    with locked(out):
        records = [_read(path) for path in sorted((out / "records").glob("*.json")) if path.name[0] != "."]
        records.sort(key=lambda r: [_natural(value) for value in (r.method, r.task, r.model, r.seed)])
        rows = [record.to_json() for record in records]
        write_text(out / "results.json", "[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n")  # a record a line
    return rows


def _natural(value: Any) -> str:
    """A sort key that puts fewshot-4 before fewshot-16."""
    return re.sub(r"\d+", lambda digits: digits.group().zfill(12), str(value))


def read_scores(out: Path, record: Row) -> dict[str, np.ndarray]:
    """The score arrays beside a record.

    Raises:
        UserError: the file is missing or broken.
    """
    path = out / record["scores"]
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, BadZipFile, zlib.error) as error:
        raise UserError(
            f"{path} cannot be read ({error}); remove its record and run the same command again"
        ) from error


def stored_split(record: Row, arrays: dict[str, np.ndarray]) -> ScoredSplit:
    """The test split of a classification record, from the arrays beside it."""
    split = read_split(record["kind"], arrays["test_labels"], arrays["test_scores"])
    split = replace(split, subjects=arrays.get("test_subjects"), strata=arrays.get("test_strata"))
    return split.decided_at(arrays["thresholds"]) if "thresholds" in arrays else split


def grouped(records: Iterable[Row], names: Sequence[str]) -> list[list[Row]]:
    """The records (or rows of comparisons.json) that agree in all of these fields together, in order of appearance."""
    groups: dict[str, list[Row]] = {}
    for record in records:
        groups.setdefault(json.dumps([record.get(name) for name in names], sort_keys=True), []).append(record)
    return list(groups.values())


@contextlib.contextmanager
def locked(out: Path) -> Iterator[None]:
    """Hold the folder's lock, waiting for it; the system releases it if the process dies."""
    with lock(out / ".lock"):
        yield


@contextlib.contextmanager
def claimed(out: Path, key: str, wait: bool) -> Iterator[bool]:
    """Claim the making of a record, so that no two processes make it: whether this process has it now.

    Args:
        out: the results folder.
        key: of the record.
        wait: until another process that has the claim gives it up, by finishing or by dying.
    """
    with lock(out / "records" / f".{key}.claim", wait=wait, remove=True) as mine:
        yield mine


def clean(value: Any) -> Any:
    """Numbers and arrays as plain JSON values: whole and floating numbers, lists; NaN and infinity as None."""
    if isinstance(value, dict):
        return {str(key): clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [clean(item) for item in value]
    if isinstance(value, np.ndarray):
        return clean(value.tolist())
    if isinstance(value, np.generic):
        return clean(value.item())
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
