"""What stands for a file is checked where the process is now."""

from pathlib import Path

import pytest

from dataset_builder.limits import UNSAFE, Refused
from dataset_builder.shards.shard import _regular_file


def test_a_relative_raw_folder_is_that_of_the_current_folder(tmp_path, monkeypatch):
    for name in ("first", "second"):
        (tmp_path / name / "raw" / "clinic").mkdir(parents=True)
        (tmp_path / name / "raw" / "clinic" / "a.png").touch()
        monkeypatch.chdir(tmp_path / name)
        assert _regular_file(Path("raw"), "clinic/a.png") == tmp_path / name / "raw" / "clinic" / "a.png"
    (tmp_path / "second" / "raw" / "clinic" / "out.png").symlink_to(tmp_path / "first" / "raw" / "clinic" / "a.png")
    with pytest.raises(Refused) as refused:
        _regular_file(Path("raw"), "clinic/out.png")
    assert refused.value.outcome == UNSAFE
