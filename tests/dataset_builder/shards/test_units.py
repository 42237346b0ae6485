"""Units of work: every core has some, nothing is done twice or left out, and the bytes do not depend on the cuts."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataset_builder import pipeline
from dataset_builder.build import build
from dataset_builder.catalog.records import load_source
from dataset_builder.item import Item, Part
from dataset_builder.options import BuildOptions
from dataset_builder.plan.costs import follows, row_bytes, seconds, streamed
from dataset_builder.plan.making import make_plan
from dataset_builder.plan.plan import Unit
from dataset_builder.shards.executors import ENGINES, in_process
from dataset_builder.shards.shard import build_unit, join_shard
from dataset_builder.shards.units import cut

SHAPING = BuildOptions(Path("out"), Path("raw"), size=32).shaping


def planned(shards: list[list[float]], follows: list[list[bool]] | None = None, parts: dict | None = None):
    """What `cut` asks of a plan, for shards of inputs with these seconds."""
    along = follows or [[False] * len(costs) for costs in shards]

    def whole(number: int) -> Unit:
        return Unit(number, 0, len(shards[number]))

    def costs(unit: Unit) -> tuple[np.ndarray, np.ndarray]:
        inputs = slice(unit.start, unit.stop)
        return np.array(shards[unit.shard][inputs]), np.array(along[unit.shard][inputs])

    totals = [SimpleNamespace(seconds=sum(costs)) for costs in shards]
    return SimpleNamespace(shards=totals, whole=whole, costs=costs, parts=lambda: parts or {})


def test_three_hundred_files_occupy_every_core():
    units = cut(planned([[0.01] * 300]), [0], 64, shortest=0.01)
    assert len(units) == 300 // 2 or len(units) >= 64
    assert max(unit.stop - unit.start for unit in units) <= 300 / 64
    two = cut(planned([[0.01] * 300]), [0], 2)
    assert len(two) >= 4 and max(unit.stop - unit.start for unit in two) <= 75


def test_ten_volumes_on_64_cores_are_ten_units_of_six_threads():
    units = cut(planned([[3.0] * 10]), [0], 64)
    assert [unit[1:] for unit in units] == [(n, n + 1, 6) for n in range(10)]


def test_small_volumes_occupy_every_core():
    """A slice of one costs as much as a slice of a large one."""
    for count, size in ((60, 2 * 64**3), (10, 2 * 48 * 56 * 40)):
        cost = seconds(Item("a.nii", None, "volume", size=size))
        assert 5e-4 < cost / (3 * (size / 2) ** (1 / 3)) < 1e-3  # measured: 0.7 ms a slice
        for workers in (4, 8):
            units = cut(planned([[cost] * count]), [0], workers)
            assert len(units) >= workers and max(unit.stop - unit.start for unit in units) <= count / workers


def test_many_shards_are_whole_until_the_end_comes():
    units = cut(planned([[0.1] * 100] * 50), range(50), 2)
    whole = [unit.stop - unit.start == 100 for unit in units]
    assert whole[:40] == [True] * 40 and not any(whole[-4:])
    assert [unit.threads for unit in units] == [1] * len(units)
    assert cut(planned([[0.1] * 100] * 3), [0, 2], 1) == [Unit(0, 0, 100), Unit(2, 0, 100)]


SHARD = st.lists(st.tuples(st.floats(0, 2), st.booleans()), min_size=1, max_size=30)


@given(st.lists(SHARD, min_size=1, max_size=5), st.integers(0, 9), st.floats(0, 1), st.data())
def test_what_is_left_is_cut_once_in_order_and_archives_are_passed_through_once(shards, workers, shortest, data):
    costs = [[cost for cost, _ in shard] for shard in shards]
    along = [[follows for _, follows in shard] for shard in shards]
    parts, left = {}, []
    for number, shard in enumerate(shards):
        edges = sorted(data.draw(st.sets(st.integers(0, len(shard)), max_size=4)))
        done = list(pairwise(edges))[::2]
        parts[number] = [Unit(number, *edge) for edge in done]
        left += [(number, n) for n in range(len(shard)) if not any(a <= n < b for a, b in done)]
    units = cut(planned(costs, along, parts), range(len(shards)), workers, shortest)
    assert [(unit.shard, n) for unit in units for n in range(unit.start, unit.stop)] == left
    starts = {(unit.shard, unit.start) for unit in units}
    gaps = {(number, n) for number, n in left if (number, n - 1) not in left}
    assert all(not along[number][n] for number, n in starts - gaps)


def test_members_of_a_compressed_tar_follow_each_other_and_those_of_a_zip_do_not():
    packed = [Item("a.tar.gz", name, "image", size=10) for name in "xy"]
    placed = [item._replace(path="a.zip", offset=7) for item in packed]
    series = Item("a.tar.gz", "0", "dicom_series", members=(Part("z", 10),))
    assert streamed(series) and streamed(packed[0]) and not streamed(placed[0])
    assert follows([*packed, series, packed[0]._replace(path="b.tar.gz")]) == [False, True, True, False]
    assert follows([*placed, packed[0]]) == [False] * 3


def test_costs_grow_with_what_is_read():
    picture, volume = Item("a.png", None, "image", size=10**6), Item("a.nii.gz", None, "volume", size=10**7)
    assert 0 < seconds(picture._replace(excluded="mask")) < seconds(picture) < seconds(volume)
    assert row_bytes(picture._replace(excluded="mask")) == 0 < row_bytes(picture) < row_bytes(volume)
    assert seconds(volume._replace(path="a.nii")) < seconds(volume)
    files = Item("a", "0", "dicom_series", files=("1", "2"))
    assert seconds(files) < seconds(files._replace(files=("1", "2", "3")))


def content(plan) -> list[bytes]:
    shards = range(len(plan.shards))
    return [path.read_bytes() for n in shards for path in (plan.rows_path(n), plan.candidates_path(n))]


def test_parts_of_other_cuts_are_kept_and_make_the_same_bytes(small_raw, tmp_path, monkeypatch):
    raw, sources = small_raw
    plans = [
        make_plan(map(load_source, sources.split(",")), raw, tmp_path / name, SHAPING, "salt")
        for name in ("whole", "cut")
    ]
    whole, plan = plans
    numbers = range(len(plan.shards))
    list(in_process(build_unit, whole, str(raw), map(whole.whole, numbers)))
    first = cut(plan, numbers, 9, shortest=0.0)  # enough workers that no shard is whole
    list(in_process(build_unit, plan, str(raw), first[::2]))
    stale = Unit(0, 0, 2)  # of a worker that was taken for lost: inputs that two parts hold are taken once
    list(in_process(build_unit, plan, str(raw), [stale]))
    kept = {path: path.stat().st_mtime_ns for path in (plan.work / "shards").iterdir()}
    left = cut(plan, numbers, 7, shortest=0.0)
    assert {unit[:2] for unit in left}.isdisjoint(unit[:2] for unit in first[::2])
    list(in_process(build_unit, plan, str(raw), left))
    assert all(path.stat().st_mtime_ns == changed for path, changed in kept.items())
    assert list(in_process(join_shard, plan, str(raw), map(plan.whole, numbers))) == [
        {**whole.statistics(number), "shard": number} for number in numbers
    ]
    assert content(plan) == content(whole) and not plan.parts()


@pytest.mark.parametrize("workers", [1, 2, 7])
def test_the_bytes_do_not_depend_on_the_workers(small_raw, tmp_path, monkeypatch, workers):
    monkeypatch.setitem(ENGINES, "local", replace(ENGINES["local"], shortest=0.0))
    monkeypatch.setattr("dataset_builder.shards.units.SHARES", 400)  # the two volumes take nearly all the time
    cuts = []
    monkeypatch.setattr(pipeline, "cut", lambda *words: cuts.append(cut(*words)) or cuts[-1])
    raw, sources = small_raw
    trees = []
    for count in (0, workers):
        build(raw, tmp_path / str(count), sources, workers=count, size=32, views=("axial", "coronal"))
        files = sorted(path for path in (tmp_path / str(count)).rglob("*") if path.is_file())
        public = {path.relative_to(tmp_path / str(count)): path.read_bytes() for path in files}
        trees.append({path: data for path, data in public.items() if path.parts[0] != ".build"})
    assert trees[0] == trees[1]
    assert len(cuts[0]) == 3 and (len(cuts[1]) > 6) == (workers > 1)


def test_pictures_of_one_volume_are_judged_in_threads_and_stay_the_same(tmp_path, make):
    make.nifti(tmp_path / "raw" / "heads" / "a.nii.gz", make.volume(0))
    record = make.record(tmp_path, "heads", items=[{"pattern": "*.nii.gz", "kind": "volume"}], modality="MR")
    contents = []
    for threads in (1, 4):
        plan = make_plan([load_source(record)], tmp_path / "raw", tmp_path / str(threads), SHAPING, "salt")
        build_unit(str(plan.out), str(tmp_path / "raw"), plan.whole(0)._replace(threads=threads))
        contents.append(content(plan))
        assert len(pq.read_table(plan.candidates_path(0))) == 90
    assert contents[0] == contents[1]
