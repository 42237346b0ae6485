"""Locks between processes on files of a shared folder.

The system releases a lock when its process dies; forked children do not share it.
"""

import errno
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

_NO_LOCKS = (
    errno.ENOSYS,
    errno.ENOLCK,
    errno.EOPNOTSUPP,
)  # some network file systems have no locks; processes continue without


@contextmanager
def lock(path: Path, *, wait: bool = True, remove: bool = False) -> Iterator[bool]:
    """Hold the lock of `path` alone until the block ends; yields whether this process has it.

    Args:
        path: of the lock's file, which is made with its folder.
        wait: wait until the holder releases the lock or dies; otherwise the block runs with False.
        remove: remove the file at the end; processes waiting for it then lock a new one.

    Raises:
        OSError: the file cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = FileLock(path, timeout=-1 if wait else 0, fallback_to_soft=False)
    try:
        file.acquire()
    except Timeout:
        yield False
        return
    except (OSError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
            raise
        yield True
        return
    try:
        yield True
    finally:
        if remove:
            with suppress(PermissionError):  # Windows cannot remove open files
                path.unlink(missing_ok=True)
        file.release()


@contextmanager
def lock_alone(path: Path) -> Iterator[bool]:
    """Lock `path` exclusively if no process holds it, without waiting; yields whether this process has it."""
    with ExitStack() as stack:
        paths = [path, *sorted(path.parent.glob(f"{path.name}.*"))]
        yield all(stack.enter_context(lock(each, wait=False)) for each in paths)


@contextmanager
def lock_together(path: Path) -> Iterator[bool]:
    """Lock `path` shared if no process holds it exclusively, without waiting; yields whether this process has it."""
    mine = path.with_name(f"{path.name}.{secrets.token_hex(8)}")  # a file for each process
    with ExitStack() as stack:
        with lock(path, wait=False) as free:
            joined = free and stack.enter_context(lock(mine, wait=False, remove=True))
        yield joined
