"""Files that are moved into place, and the permissions of weights among them."""

import errno
import os
import signal
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from biovfm_hf.writing.files import atomic_path, remove_dead, remove_leftovers


@pytest.fixture(params=[0o022, 0o077, 0o002])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
def test_weights_are_readable_as_the_umask_has_it(tmp_path, umask):
    tensors = {"a": np.zeros(3, np.float32)}
    with atomic_path(tmp_path / "model") as folder:
        folder.mkdir()
        save_file(tensors, folder / "model.safetensors")
        (folder / "config.json").write_text("{}")
    with atomic_path(tmp_path / "one.safetensors") as file:
        save_file(tensors, file)
    expected = 0o666 & ~umask
    assert mode(tmp_path / "model" / "model.safetensors") == mode(tmp_path / "one.safetensors") == expected
    assert mode(tmp_path / "model" / "config.json") == expected
    assert {path.name for path in tmp_path.iterdir()} == {"model", "one.safetensors"}


@pytest.mark.parametrize("filename", [None, "temporary", "elsewhere"])
def test_a_failing_write_names_its_target(tmp_path, filename):
    """The system's error names no file if a write fails, for instance on a full disk."""
    with pytest.raises(OSError) as raised, atomic_path(tmp_path / "a.json") as temporary:
        named = str(temporary) if filename == "temporary" else filename
        raise OSError(errno.ENOSPC, "No space left on device", named)
    assert raised.value.filename == ("elsewhere" if filename == "elsewhere" else str(tmp_path / "a.json"))
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no fork")
@pytest.mark.parametrize("name", ["model", "model[1].old-2"])
def test_a_kill_between_the_renames_of_a_folder_loses_neither_old_nor_new(tmp_path, name):
    """The old folder has its name again after a next call that fails, and after leftovers are removed."""
    target = tmp_path / name
    target.mkdir()
    for recover in (replace_and_fail, lambda _: remove_leftovers(tmp_path)):
        (target / "config.json").write_text("old")
        pid = os.fork()
        if not pid:
            replace_and_die(target)
        assert os.waitpid(pid, 0)[1] == signal.SIGKILL and not target.exists()
        recover(target)
        assert (target / "config.json").read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]
    pid = os.fork()
    if not pid:
        replace_and_die(target)
    os.waitpid(pid, 0)
    with atomic_path(target) as folder:
        folder.mkdir()
    assert not list(tmp_path.glob("*.old-*/*")) and not list(target.iterdir())
    remove_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == [target]


def replace_and_die(target: Path) -> None:
    honest = os.rename

    def rename(*args: Path) -> None:
        honest(*args)
        os.kill(os.getpid(), signal.SIGKILL)

    os.rename = rename
    with atomic_path(target) as folder:
        folder.mkdir()


def replace_and_fail(target: Path) -> None:
    with pytest.raises(OSError), atomic_path(target) as folder:
        folder.mkdir()
        raise OSError(errno.ENOSPC, "No space left on device")


def test_temporaries_of_a_target_are_removed_if_their_process_has_ended(tmp_path):
    ended = subprocess.Popen(["true"])
    ended.wait()
    for name in (f".a.tmp-{ended.pid}", f".a.tmp-{os.getppid()}", f".b.tmp-{ended.pid}", ".a.tmp-x"):
        (tmp_path / name).touch()
    remove_dead(tmp_path / "a")
    assert {path.name for path in tmp_path.iterdir()} == {f".a.tmp-{os.getppid()}", f".b.tmp-{ended.pid}", ".a.tmp-x"}
