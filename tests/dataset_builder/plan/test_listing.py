"""How often the planner queries the disk, and that it does not wait for one answer before the next query."""

import os
import time
from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path
from threading import get_ident

import pytest

from dataset_builder.catalog.load import load_source
from dataset_builder.options import BuildOptions
from dataset_builder.plan import ahead, folders
from dataset_builder.plan.costs import seconds as seconds_of
from dataset_builder.plan.items import hashed_subject
from dataset_builder.plan.listing import list_items
from dataset_builder.plan.making import make_plan
from dataset_builder.plan.stamps import stamp_of

SHAPING = BuildOptions(Path("out"), Path("raw")).shaping


@pytest.fixture
def files(tmp_path, make):
    """A source of 600 files in one folder and 40 in another."""
    for folder, count in (("a", 600), ("b", 40)):
        (tmp_path / "raw" / "own" / folder).mkdir(parents=True)
        for number in range(count):
            (tmp_path / "raw" / "own" / folder / f"{number:03d}.png").write_bytes(bytes(number))
    return load_source(make.record(tmp_path, "own", items=["**/*.png"]))


def slow(monkeypatch, seconds: float) -> Counter:
    """Delays each answer of the disk, and counts the queries by path; `most` files were asked about at a time."""
    looks: Counter[str] = Counter()
    looks.most, waiting_for = 0, []

    def waiting(honest):
        def look(about):
            looks[os.fspath(about)] += 1
            waiting_for.append(about)
            looks.most = max(looks.most, sum(isinstance(one, os.DirEntry) for one in waiting_for))
            time.sleep(seconds)
            waiting_for.remove(about)
            return honest(about)

        return look

    monkeypatch.setattr(folders, "status_of", waiting(folders.status_of))
    monkeypatch.setattr(folders, "scan", waiting(folders.scan))
    return looks


@pytest.mark.parametrize("seconds", [0, 0.001])
def test_each_file_is_examined_only_once(tmp_path, files, monkeypatch, seconds):
    looks = slow(monkeypatch, seconds)
    stats = Counter()
    monkeypatch.setattr(os, "stat", lambda path, *rest, honest=os.stat, **more: stats.update([path]) or honest(path))
    plan = make_plan([files], tmp_path / "raw", tmp_path / "out", SHAPING, "salt")
    monkeypatch.undo()
    assert set(looks.values()) == {1} and len(looks) == 640 + 3
    assert not any(str(path).endswith(".png") for path in stats)
    whole = plan.whole(0)
    assert plan.stamps(whole) == [stamp_of(item, tmp_path / "raw") for item in plan.items(whole)]


@pytest.fixture
def nested(tmp_path, make):
    """A source of 240 files in folders of folders, with names, links and folders that are left out."""
    own = tmp_path / "raw" / "own"
    for number in range(120):
        patient = own / f"p{number % 3}" / f"patient{number}{'.-+ '[number % 4]}x" / "study"
        patient.mkdir(parents=True)
        for view in ("a.png", "b.png"):
            (patient / view).write_bytes(b"")
    (own / "p1" / ".hidden").mkdir()
    (own / "p1" / "loop").symlink_to(own)
    (own / "p1" / "patient1-x" / "up").symlink_to(own / "p0")
    for odd in ("p1\udcff", "p1/patient1-x/\udcff"):
        (own / odd).mkdir()  # not UTF-8
    return load_source(make.record(tmp_path, "own", items=["**/*.png"]))


def test_items_come_in_the_order_of_their_names_whatever_thread_is_first(tmp_path, nested, monkeypatch):
    quick = list(list_items(nested, tmp_path / "raw"))
    monkeypatch.setattr(folders, "_GROUP", 3)
    monkeypatch.setattr(folders, "SLOW", -1.0)
    for untaken in (1, 40, 4096):
        monkeypatch.setattr(ahead, "_MOST_AHEAD", untaken)
        assert list(list_items(nested, tmp_path / "raw")) == quick
    paths = [item.path.split("/") for item in quick if not item.excluded]
    assert paths == sorted(paths) and len(paths) == 240 and len(quick) == 245


def test_little_is_listed_before_it_is_needed(tmp_path, nested, monkeypatch):
    looks = slow(monkeypatch, 0)
    monkeypatch.setattr(folders, "_GROUP", 3)
    monkeypatch.setattr(folders, "SLOW", -1.0)
    monkeypatch.setattr(ahead, "_MOST_AHEAD", 8)
    items = list_items(nested, tmp_path / "raw")
    assert len(list(islice(items, 20))) == 20
    time.sleep(0.1)
    assert 20 < looks.total() < 100
    items.close()


@pytest.mark.parametrize(
    "place", ["all/{0}.png", "case{0}/{0}.png", "patient{1}/study/{0}.png", "p{2}/patient{1}/study/{0}.png"]
)
def test_the_latency_of_a_network_disk_is_hidden(tmp_path, make, monkeypatch, place):
    for number in range(200):
        file = tmp_path / "raw" / "own" / place.format(number, number // 2, number // 50)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"")
    monkeypatch.setattr(folders, "_GROUP", 8)
    looks = slow(monkeypatch, 0.003)
    assert len(list(list_items(load_source(make.record(tmp_path, "own")), tmp_path / "raw"))) == 200
    assert looks.most >= 8


def test_the_folders_that_come_next_are_read_to_their_ends(tmp_path, make, monkeypatch):
    """Rather than their first group of files, which would leave the walk waiting in each folder."""
    for number in range(160):
        file = tmp_path / "raw" / "own" / "abcd"[number // 40] / f"{number:03d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"")
    looks = slow(monkeypatch, 0)
    monkeypatch.setattr(folders, "_GROUP", 8)
    monkeypatch.setattr(folders, "SLOW", -1.0)
    items = list_items(load_source(make.record(tmp_path, "own")), tmp_path / "raw")
    assert len(list(islice(items, 41))) == 41  # the first of b
    until = time.monotonic() + 5
    while looks.total() < 160 + 5 and time.monotonic() < until:
        time.sleep(0.01)
    assert looks.total() == 160 + 5
    items.close()


@pytest.mark.parametrize("wait", [False, True])
def test_a_disk_is_slow_if_its_answers_are_waited_for(tmp_path, files, monkeypatch, wait):
    """Rather than if other programs take the processor."""
    threads = set()

    def look(entry, honest=folders.status_of):
        threads.add(get_ident())
        until = time.perf_counter() + 2 * folders.SLOW
        while time.perf_counter() < until:
            if wait:
                time.sleep(folders.SLOW)
        return honest(entry)

    monkeypatch.setattr(folders, "status_of", look)
    assert len(list(list_items(files, tmp_path / "raw"))) == 640
    assert (len(threads) > 1) == wait


def test_a_folder_that_cannot_be_listed_ahead_is_reported_in_its_place(tmp_path, files, monkeypatch):
    honest = folders.scan

    def scan(folder):
        if folder.endswith("/b"):
            raise PermissionError(13, "Permission denied")
        return honest(folder)

    monkeypatch.setattr(folders, "scan", scan)
    for threshold in (1.0, -1.0):
        monkeypatch.setattr(folders, "SLOW", threshold)
        *_, last = list_items(files, tmp_path / "raw")
        assert (last.path, last.excluded) == ("own/b", "the folder cannot be read (Permission denied)")


def test_a_run_ends_where_a_shard_is_full_and_has_its_items_facts(tmp_path, files, monkeypatch):
    monkeypatch.setattr("dataset_builder.plan.making.SHARD_ITEMS", 250)
    private = replace(files, access="private", subject=r"/0?(\d+)\.png")
    plan = make_plan([private], tmp_path / "raw", tmp_path / "out", SHAPING, "salt")
    assert [shard.items for shard in plan.shards] == [250, 250, 140]
    items = [item for number in range(3) for item in plan.items(plan.whole(number))]
    listed = list(list_items(private, tmp_path / "raw"))
    assert [item._replace(subject=None, private=()) for item in items] == [i._replace(subject=None) for i in listed]
    assert [item.subject for item in items] == [hashed_subject(item.subject, "own", "salt") for item in listed]
    assert items[9].private[0] == listed[9].subject == "09"
    assert plan.shards[0].seconds == pytest.approx(sum(map(seconds_of, listed[:250])), abs=2e-3)
