"""Protects the output folder of a build: no foreign files in it, and one build at a time."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from biovfm_hf.errors import UserError
from biovfm_hf.writing.locks import lock_alone, lock_together

from ..plan.plan import WORK


def check_output(out: Path, raw: Path, source_folders: list[str]) -> None:
    """Refuse a folder with foreign files, which a build might list, replace or remove.

    Args:
        out: the dataset folder; it may be missing, empty but for hidden files, or hold a build.
        raw: the folder of the sources.
        source_folders: the sources' folders below `raw`.

    Raises:
        UserError: states why a build cannot be written there.
    """
    target, sources = _resolved(out), _resolved(raw)
    if sources.is_relative_to(target):
        raise UserError(f"--out {out}: holds the raw folder {raw}; choose a folder beside it")
    for folder in source_folders:
        if target.is_relative_to(_resolved(sources / folder)):  # it may be a link to another disk
            raise UserError(f"--out {out}: lies in the source folder {raw / folder}; choose one outside of it")
    if out.is_symlink() and not out.exists():
        raise UserError(f"--out {out}: a link that leads nowhere; remove it, or choose another folder")
    existing = next(path for path in (out, *out.parents) if path.exists())
    if not existing.is_dir():
        raise UserError(f"--out {out}: {existing} is a file; give a folder")
    if out.is_dir() and not (out / WORK / "plan.json").is_file():
        foreign = sorted(path.name for path in out.iterdir() if not path.name.startswith("."))
        if foreign:
            raise UserError(f"--out {out}: contains {foreign[0]} but no build; choose a new or empty folder")


def _resolved(folder: Path) -> Path:
    return Path(os.path.realpath(folder))  # `Path.resolve` raises RuntimeError for a link to itself


@contextmanager
def hold(out: Path, shared: bool) -> Iterator[None]:
    """Lock the folder until the block ends or the process dies.

    Args:
        out: the dataset folder.
        shared: with other jobs of an array, which write different shards; else alone.

    Raises:
        UserError: another build is running there.
    """
    path = out / WORK / ".lock"
    with lock_together(path) if shared else lock_alone(path) as locked:
        if not locked:
            raise UserError(f"{out}: another build is running there; wait until it ends")
        yield
