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
        assert _regular_file(Path("raw"), "clinic", "clinic/a.png") == tmp_path / name / "raw" / "clinic" / "a.png"
    (tmp_path / "second" / "raw" / "clinic" / "out.png").symlink_to(tmp_path / "first" / "raw" / "clinic" / "a.png")
    with pytest.raises(Refused) as refused:
        _regular_file(Path("raw"), "clinic", "clinic/out.png")
    assert refused.value.outcome == UNSAFE


@pytest.mark.parametrize(("folder", "taken"), [(".", "abc"), ("clinic", "ab"), ("clinic/one", "a")])
def test_a_link_is_taken_if_it_stays_in_the_folder_of_its_source(tmp_path, folder, taken):
    own = tmp_path / "raw" / "clinic" / "one"
    own.mkdir(parents=True)
    for name, place in (("a", own), ("b", own.parent), ("c", own.parents[1]), ("d", tmp_path)):
        (place / f"{name}.png").touch()
        (own / f"to_{name}.png").symlink_to(place / f"{name}.png")
    for name in taken:
        _regular_file(tmp_path / "raw", folder, f"clinic/one/to_{name}.png")
    for name in set("abcd") - set(taken):
        with pytest.raises(Refused, match="leaves the source's folder"):
            _regular_file(tmp_path / "raw", folder, f"clinic/one/to_{name}.png")


def test_a_link_beside_the_folders_of_a_source_is_checked(tmp_path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "out.png").touch()
    (tmp_path / "raw" / "a.png").symlink_to(tmp_path / "out.png")
    with pytest.raises(Refused, match="leaves the source's folder"):
        _regular_file(tmp_path / "raw", ".", "a.png")
