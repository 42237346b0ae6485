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
    """Lock `path` exclusively if no process has it; yields whether this process has it.

    Waits for no holder, only while another process looks who holds it.
    """
    with ExitStack() as stack:
        with lock(path):
            free = all(map(_is_free, path.parent.glob(f"{path.name}.*")))
            mine = free and stack.enter_context(lock(_alone(path), wait=False))
        yield mine


@contextmanager
def lock_together(path: Path) -> Iterator[bool]:
    """Lock `path` shared if no process holds it exclusively; waits as `lock_alone`, and yields the same."""
    own = path.with_name(f"{path.name}.{secrets.token_hex(8)}")  # a file for each process
    with ExitStack() as stack:
        with lock(path):
            mine = _is_free(_alone(path)) and stack.enter_context(lock(own, wait=False, remove=True))
        yield mine


def _alone(path: Path) -> Path:
    """The file that the process locks that has `path` alone. All hold `path` itself only while they look around."""
    return path.with_name(f"{path.name}.alone")


def _is_free(path: Path) -> bool:
    """Whether no process holds the lock of `path`; the file, perhaps of a process that died, is removed then."""
    with lock(path, wait=False, remove=True) as free:
        return free
