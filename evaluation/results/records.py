"""Result records on disk: one file each, merged into results.json under a lock, so processes can share a folder."""

import contextlib
import hashlib
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import lru_cache
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar
from zipfile import BadZipFile

import numpy as np

from biovfm_hf.errors import UserError
from biovfm_hf.reading.documents import read_json
from biovfm_hf.results.record import Record
from biovfm_hf.writing.files import atomic_path, write_text
from biovfm_hf.writing.locks import lock

from ..statistics.split import ScoredSplit, checked_split

Item = TypeVar("Item")
REMEDY = "remove it and run the same command again"

# Fields that name a record, and its data. A record of changed weights or data replaces the record with its name.
NAMING = ("model", "task", "method", "protocol", "seed", "settings")
MEASURED_ON = attrgetter("revision", "data")


def record_key(identity: Record) -> str:
    """A readable, unique file stem from the fields that name a record."""
    digest = hashlib.blake2b(
        json.dumps({name: getattr(identity, name) for name in NAMING}, sort_keys=True).encode(), digest_size=5
    ).hexdigest()
    parts = [identity.model, identity.task, identity.method]
    stem = "__".join("".join(c if c.isalnum() or c in "-." else "-" for c in word)[-40:] for word in parts)
    return f"{stem}__{digest}"


def finished_record(out: Path, identity: Record) -> Record | None:
    """The finished record with these weights, data and resamples, or None. It counts only if its scores exist.

    Raises:
        UserError: the file exists but is not a record.
    """
    key = record_key(identity)
    path = out / "records" / f"{key}.json"
    if not path.is_file() or not (out / "scores" / f"{key}.npz").is_file():
        return None
    record = _read(path)
    same = MEASURED_ON(record) == MEASURED_ON(identity)
    return record if same and record.resamples == identity.resamples else None


def measured_otherwise(out: Path, identity: Record) -> bool:
    """Whether this model has records on this task, by any method, with other weights or data.

    Raises:
        UserError: one of the files is not a record.
    """
    model, task, *_ = record_key(identity).split("__")
    records = map(_read, (out / "records").glob(f"{model}__{task}__*"))
    return any(MEASURED_ON(record) != MEASURED_ON(identity) for record in records)


def _read(path: Path) -> Record:
    """A record file, read again only if it has changed, because results.json is made from all of them many times."""
    about = path.stat()
    return _read_version(path, about.st_mtime_ns, about.st_size, about.st_ino)


@lru_cache(maxsize=4096)
def _read_version(path: Path, *version: int) -> Record:
    return Record.read(read_json(path, REMEDY), str(path), REMEDY)


def write_record(out: Path, record: Record, scores: dict[str, np.ndarray]) -> Record:
    """Write the scores, then the record, then results.json from all records. Returns the record as written."""
    key = record_key(record)
    with atomic_path(out / "scores" / f"{key}.npz") as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, allow_pickle=False, **scores)
    path = out / "records" / f"{key}.json"
    record = Record.read(clean(replace(record, scores=f"scores/{key}.npz").to_json()), str(path), REMEDY)
    write_text(path, json.dumps(record.to_json(), indent=1) + "\n")
    merge_records(out)
    return record


def merge_records(out: Path) -> list[Record]:
    """Rewrite results.json from every record file, one process at a time. Returns the records, in a stable order."""
    with locked(out):
        records = [_read(path) for path in sorted((out / "records").glob("*.json")) if path.name[0] != "."]
        records.sort(key=lambda r: [_natural(value) for value in (r.method, r.task, r.model, r.seed)])
        lines = [json.dumps(record.to_json()) for record in records]
        write_text(out / "results.json", "[\n" + ",\n".join(lines) + "\n]\n")
    return records


def _natural(value: Any) -> str:
    """A sort key that puts fewshot-4 before fewshot-16."""
    return re.sub(r"\d+", lambda digits: digits.group().zfill(12), str(value))


def read_scores(out: Path, record: Record) -> dict[str, np.ndarray]:
    """The score arrays stored beside a record.

    Raises:
        UserError: the file is missing or broken.
    """
    path = out / record.scores
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, BadZipFile, zlib.error) as error:
        raise UserError(
            f"{path} cannot be read ({error}); remove its record and run the same command again"
        ) from error


def stored_split(record: Record, arrays: dict[str, np.ndarray]) -> ScoredSplit:
    """The test split of a classification record, from the arrays beside it."""
    split = checked_split(record.kind, arrays["test_labels"], arrays["test_scores"])
    split = replace(split, subjects=arrays.get("test_subjects"), strata=arrays.get("test_strata"))
    return split.decided_at(arrays["thresholds"]) if "thresholds" in arrays else split


def grouped(items: Iterable[Item], key: Callable[[Item], Any]) -> list[list[Item]]:
    """Group records (or rows of comparisons.json) by a key of JSON values, in order of appearance."""
    groups: dict[str, list[Item]] = {}
    for item in items:
        groups.setdefault(json.dumps(key(item), sort_keys=True), []).append(item)
    return list(groups.values())


@contextlib.contextmanager
def locked(out: Path) -> Iterator[None]:
    """Hold the folder's lock, and wait for it if necessary; the system releases it if the process dies."""
    with lock(out / ".lock"):
        yield


@contextlib.contextmanager
def claimed(out: Path, key: str, wait: bool) -> Iterator[bool]:
    """Claim a record, so that no two processes make it. Yields whether this process has the claim.

    Args:
        out: the results folder.
        key: key of the record.
        wait: wait until the process with the claim gives it up, by finishing or by dying.
    """
    with lock(out / "records" / f".{key}.claim", wait=wait, remove=True) as mine:
        yield mine


def clean(value: Any) -> Any:
    """Numbers and arrays as plain JSON values: integers, floats and lists; NaN and infinity become None."""
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
