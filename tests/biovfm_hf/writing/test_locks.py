"""Locks on files: exclusive, shared, waited for, and released by a process that dies."""

import errno
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
from filelock import FileLock

from biovfm_hf.writing.locks import lock, lock_alone, lock_together


def in_another_process(action) -> bool:
    """What `action` answers in a forked process."""
    child = os.fork()
    if child == 0:
        os._exit(int(action()))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1


def is_free(path: Path) -> bool:
    def take() -> bool:
        with lock(path, wait=False) as mine:
            return mine

    return in_another_process(take)


def test_one_process_at_a_time_has_it(tmp_path):
    path = tmp_path / "new" / ".lock"
    with lock(path) as mine:
        assert mine and not is_free(path)
    assert is_free(path)


@pytest.mark.parametrize("remove", [False, True])
def test_who_waits_gets_it_next(tmp_path, remove):
    path = tmp_path / ".lock"
    with lock(path, remove=remove):
        child = os.fork()
        if child == 0:
            with lock(path) as mine:
                os._exit(int(mine))
        time.sleep(0.2)
        assert os.waitpid(child, os.WNOHANG) == (0, 0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1


def test_removing_leaves_no_file(tmp_path):
    with lock(tmp_path / ".claim", remove=True):
        assert (tmp_path / ".claim").exists()
    assert not list(tmp_path.iterdir())


def test_a_killed_process_gives_it_up_though_its_children_live(tmp_path):
    path, ready = tmp_path / ".lock", tmp_path / "ready"
    child = os.fork()
    if child == 0:
        with lock(path):
            grandchild = os.fork()
            if grandchild:
                ready.write_text(str(grandchild))
            time.sleep(60)
            os._exit(0)
    while not ready.exists() or not ready.read_text():
        time.sleep(0.01)
    assert not is_free(path)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    grandchild = int(ready.read_text())
    os.kill(grandchild, 0)  # it lives
    try:
        assert is_free(path)
    finally:
        os.kill(grandchild, signal.SIGKILL)


def test_members_hold_together_and_nobody_alone(tmp_path):
    path = tmp_path / ".lock"

    def joins() -> bool:
        with lock_together(path) as mine:
            return mine

    def has_alone() -> bool:
        with lock_alone(path) as mine:
            return mine

    with lock_together(path) as mine:
        assert mine
        assert in_another_process(joins)
        assert not in_another_process(has_alone)
    with lock_alone(path) as mine:
        assert mine
        assert not in_another_process(joins)
        assert not in_another_process(has_alone)
    assert in_another_process(has_alone)


def test_members_that_come_at_the_same_time_all_get_it(tmp_path):
    """Processes that begin together, as the jobs of an array do, are not refused for each other."""
    path, start = tmp_path / ".lock", multiprocessing.get_context("fork").Barrier(40)

    def joins() -> int:
        start.wait()
        with lock_together(path) as mine:
            start.wait()  # all are in it at once
            return int(mine)

    children = []
    for _ in range(40):
        children.append(os.fork())
        if children[-1] == 0:
            os._exit(joins())
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [1] * 40
    with lock_alone(path) as mine:
        assert mine
    assert sorted(file.name for file in tmp_path.iterdir()) == [".lock", ".lock.alone"]


def test_what_dead_members_left_does_not_hold_it(tmp_path):
    path = tmp_path / ".lock"

    def dies() -> bool:
        with lock_together(path) as mine:
            os._exit(int(mine))

    assert in_another_process(dies) and len(list(tmp_path.iterdir())) == 2
    with lock_alone(path) as mine:
        assert mine
    assert sorted(file.name for file in tmp_path.iterdir()) == [".lock", ".lock.alone"]


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS])
def test_without_locks_every_process_continues(tmp_path, monkeypatch, number):
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(FileLock, "acquire", refuse)
    with lock(tmp_path / ".lock", wait=False) as mine:
        assert mine


def test_a_folder_that_cannot_be_written_is_reported(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError), lock(tmp_path / "file" / ".lock"):
        pass
