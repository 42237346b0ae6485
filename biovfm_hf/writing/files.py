"""Atomic writing of files and folders: to a temporary name beside the target, then moved into place."""

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from glob import escape
from pathlib import Path

from ..errors import UserError


@contextmanager
def atomic_path(target: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `target` for a file or folder, and move it onto `target` when the block succeeds.

    A file is synced to disk first. A folder replaces an existing folder of the same name. On an exception
    (Ctrl-C included) the temporary is removed and `target` stays as it was. A SIGKILL may leave a `.NAME.tmp-PID`, or
    between the two renames of a replaced folder a `.NAME.old-PID`; no reader takes these for the target. The next
    write of this folder removes what was replaced. A write that fails, and `remove_leftovers`, give it its name back.
    """
    target = Path(target).absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.tmp-{os.getpid()}")
    old = target.with_name(f".{target.name}.old-{os.getpid()}")
    _remove(temporary)
    try:
        yield temporary
        _open_weights(temporary, target)
        if temporary.is_dir():
            if target.exists():
                target.rename(old)
            temporary.rename(target)
            for replaced in _replaced(target):
                _remove(replaced)
        else:
            if temporary.is_file():
                with temporary.open("rb") as written:
                    os.fsync(written.fileno())
            temporary.replace(target)
    except BaseException as error:
        for replaced in _replaced(target):
            _restore(replaced, target)
        _remove(temporary)
        if isinstance(error, OSError) and error.filename in (None, str(temporary)):
            error.filename = str(target)  # a failed write names no file
        raise


def _open_weights(temporary: Path, target: Path) -> None:
    """Give weights the permissions that the umask allows: safetensors makes them readable by their owner only."""
    whole = temporary.is_file() and target.suffix == ".safetensors"
    weights = [temporary] if whole else list(temporary.rglob("*.safetensors"))
    if not weights:
        return
    example = target.with_name(f".{target.name}.mode-{os.getpid()}")
    example.touch()
    mode = stat.S_IMODE(example.stat().st_mode)
    example.unlink()
    for file in weights:
        file.chmod(mode)


def write_text(target: str | Path, text: str) -> None:
    """Write `text` (UTF-8) to `target` atomically."""
    with atomic_path(target) as temporary:
        temporary.write_text(text, encoding="utf-8")


def check_writable(target: Path, folder: bool = False) -> None:
    """Refuse an output that cannot be written, before work is done for it.

    Args:
        target: the file or folder to write; folders above it may be missing.
        folder: whether it is a folder.

    Raises:
        UserError: it or one above it is a file where a folder is needed, or may not be written to.
    """
    target = Path(target).expanduser().absolute()
    places = [target, *target.parents] if folder else target.parents
    place = next(place for place in places if place.exists())
    reason = "Permission denied" if place.is_dir() else "Not a directory"
    if not (place.is_dir() and os.access(place, os.W_OK | os.X_OK)):
        raise UserError(f"cannot write to {target}: {place}: {reason}; choose another --out")


def linked(source: Path, target: Path) -> None:
    """Give the file a second name, which costs nothing; copy it if the file system has no hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def remove_leftovers(folder: Path) -> None:
    """Remove temporaries that a killed `atomic_path` left in `folder` and below; no other process may write there."""
    for path in list(folder.rglob(".*.tmp-*")):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    for old in list(folder.rglob(".*.old-*")):
        _restore(old, old.with_name(old.name[1:].rpartition(".old-")[0]))
        shutil.rmtree(old, ignore_errors=True)


def remove_dead(target: Path) -> None:
    """Remove temporaries of `target` whose process does not run on this machine.

    Other machines that share the folder may write there, too: their write fails then. So it is for files that can be
    made again.
    """
    for path in target.parent.glob(f".{escape(target.name)}.tmp-*"):
        process = path.name.rpartition("-")[2]
        if process.isdecimal() and not _runs(int(process)):
            _remove(path)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def is_disk_full(error: BaseException) -> bool:
    """Whether writing failed for lack of space or quota."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def _replaced(target: Path) -> list[Path]:
    """Earlier folders of this name, put aside by this process or by one that was killed before it removed them."""
    return list(target.parent.glob(f".{escape(target.name)}.old-*"))


def _restore(old: Path, target: Path) -> None:
    """Give a folder its name back if the new one that was to replace it has not come."""
    if old.exists() and not target.exists():
        old.rename(target)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
