"""How often the planner asks the disk, and that it does not wait for one answer before the next question."""

import os
import time
from collections import Counter

import pytest

from dataset_builder.catalog.load import load_source
from dataset_builder.plan import listing
from dataset_builder.plan.listing import list_items
from dataset_builder.plan.plan import Options, make_plan
from dataset_builder.plan.stamps import stamp_of


@pytest.fixture
def files(tmp_path, make):
    """A source of 600 files in one folder and 40 in another."""
    for folder, count in (("a", 600), ("b", 40)):
        (tmp_path / "raw" / "own" / folder).mkdir(parents=True)
        for number in range(count):
            (tmp_path / "raw" / "own" / folder / f"{number:03d}.png").write_bytes(bytes(number))
    return load_source(make.record(tmp_path, "own", items=["**/*.png"]))


def test_each_file_is_looked_at_once(tmp_path, files, monkeypatch):
    looks: Counter[str] = Counter()

    def counted(honest):
        def look(path, *args, **options):
            looks[str(path)] += 1
            return honest(path, *args, **options)

        return look

    monkeypatch.setattr(os, "stat", counted(os.stat))
    monkeypatch.setattr(os, "lstat", counted(os.lstat))
    plan = make_plan([files], tmp_path / "raw", tmp_path / "out", Options(), "salt")
    monkeypatch.undo()
    assert {looks[path] for path in looks if path.endswith(".png")} == {1}
    assert sum(path.endswith(".png") for path in looks) == 640
    whole = plan.whole(0)
    assert plan.stamps(whole) == [stamp_of(item, tmp_path / "raw") for item in plan.items(whole)]


def test_files_come_in_the_order_of_their_names_whatever_thread_is_first(tmp_path, files, monkeypatch):
    monkeypatch.setattr(listing, "_LOOKS", 3)
    monkeypatch.setattr(listing, "_AHEAD", 100)
    paths = [item.path for item in list_items(files, tmp_path / "raw")]
    assert paths == sorted(paths)
    assert len(paths) == 640


def test_the_latency_of_a_network_disk_is_hidden(tmp_path, files, monkeypatch):
    def slow(path, *args, honest=os.lstat, **options):
        time.sleep(0.003)
        return honest(path, *args, **options)

    monkeypatch.setattr(os, "lstat", slow)
    started = time.perf_counter()
    assert len(list(list_items(files, tmp_path / "raw"))) == 640
    assert time.perf_counter() - started < 640 * 0.003 / 2
