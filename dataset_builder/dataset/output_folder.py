"""The folder that a build writes: nobody else's files are in it, and one build at a time is."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from biovfm_hf.errors import UserError
from biovfm_hf.writing.locks import lock_alone, lock_together

from ..plan.plan import WORK


def check_output(out: Path, raw: Path, source_folders: list[str]) -> None:
    """Refuse a folder in which a build would meet files that are not its own, to list, replace or remove them.

    Args:
        out: the dataset folder; it may be missing, empty but for hidden files, or hold a build.
        raw: the folder of the sources.
        source_folders: the sources' folders below `raw`.

    Raises:
        UserError: why not.
    """
    inside, around = out.resolve(), raw.resolve()
    if around.is_relative_to(inside):
        raise UserError(f"--out {out}: holds the raw folder {raw}; choose a folder beside it")
    for folder in source_folders:
        if inside.is_relative_to((around / folder).resolve()):  # which may be a link to another disk
            raise UserError(f"--out {out}: lies in the source folder {raw / folder}; choose one outside of it")
    existing = next(path for path in (out, *out.parents) if path.exists())
    if not existing.is_dir():
        raise UserError(f"--out {out}: {existing} is a file; give a folder")
    if out.is_dir() and not (out / WORK / "plan.json").is_file():
        foreign = sorted(path.name for path in out.iterdir() if not path.name.startswith("."))
        if foreign:
            raise UserError(f"--out {out}: holds {foreign[0]} but no build; choose a new or empty folder")


@contextmanager
def hold(out: Path, shared: bool) -> Iterator[None]:
    """Hold the folder, until the block ends or the process dies.

    Args:
        out: the dataset folder.
        shared: with other jobs of an array, which write different shards; else alone.

    Raises:
        UserError: another build is at work there.
    """
    path = out / WORK / ".lock"
    with lock_together(path) if shared else lock_alone(path) as mine:
        if not mine:
            raise UserError(f"{out}: another build is at work there; wait until it ends")
        yield
