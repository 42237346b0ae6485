"""Engines and deaths: killed builds continue to the same bytes, crashed and stalled workers cost one input."""

import errno
import multiprocessing
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from biovfm_hf.errors import UserError
from dataset_builder.build import build
from dataset_builder.catalog.records import load_source
from dataset_builder.dataset.finish import finish_shard
from dataset_builder.options import BuildOptions
from dataset_builder.plan.making import make_plan
from dataset_builder.plan.plan import Plan, Unit
from dataset_builder.plan.statistics import read_statistics
from dataset_builder.progress import ProgressFile, read_progress
from dataset_builder.screening.look_alikes import look_alikes
from dataset_builder.shards import executors, workers
from dataset_builder.shards.local import LocalRun
from dataset_builder.shards.shard import build_unit, join_shard
from dataset_builder.shards.units import cut

ROOT = Path(__file__).resolve().parents[3]
SHAPING = BuildOptions(Path("out"), Path("raw"), size=32).shaping

# A worker in which some inputs are deadly; it is a module of its own so that spawned processes can import it.
WORK = """
import os, signal, time
from dataset_builder.shards import shard

honest = shard.stamp_of

def stamp_of(item, raw):
    if "crash" in item.path:
        os.kill(os.getpid(), signal.SIGKILL)
    if "stall" in item.path:
        time.sleep(600)
    return honest(item, raw)

def work(out, raw, unit):
    shard.stamp_of = stamp_of
    return shard.build_unit(out, raw, unit)

def slow(out, raw, unit):
    time.sleep(0.2)
    return shard.build_unit(out, raw, unit)

def sleepy(out, raw, unit):
    began = time.monotonic()
    time.sleep(0.3)
    return {"worker": os.getpid(), "began": began, "ended": time.monotonic()}

def dies_at_once(out, raw, unit):
    os.kill(os.getpid(), signal.SIGKILL)

def dies_after_its_work(out, raw, unit):
    result = shard.build_unit(out, raw, unit)
    mark = shard.Path(out) / f"died-{unit.shard}"
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return result

def stopped_before_its_work(out, raw, unit):
    mark = shard.Path(out) / f"stopped-{unit.shard}"
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGSTOP)
    return shard.build_unit(out, raw, unit)
"""

# Builds of which each is killed at its nth rename (before it, when n is even, after it, when n is odd; 0: never), one
# after the other in the same folder: forks of one process that has imported the builder. Their ends are printed.
KILLED = """
import os, signal, sys
from pathlib import Path
import dataset_builder.plan.making as making
from dataset_builder.build import main
making.SHARD_ITEMS = 3
honest = Path.replace

def build(fatal, words):
    count = [0]
    def replace(self, target):
        count[0] += 1
        if count[0] == fatal and fatal % 2 == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        honest(self, target)
        if count[0] == fatal:
            os.kill(os.getpid(), signal.SIGKILL)
    Path.replace = replace
    return main(words)

for fatal in map(int, sys.argv[1].split(",")):
    pid = os.fork()
    if not pid:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os._exit(build(fatal, sys.argv[2:]))
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""

# Builds with --retry-failed in copies of a finished folder, each killed in another listing: the first before the first
# file changes its name, the second before the second one does, the last at the end. Each is continued with and without
# the option.
LISTED_AGAIN = """
import os, shutil, signal, sys
import dataset_builder.plan.making as making
from dataset_builder import pipeline
from dataset_builder.build import main
making.SHARD_ITEMS = 3
finished, *words = sys.argv[1:]
honest = pipeline.plan_again

def build(fatal, words):
    moments = [0]
    def pass_moment():
        moments[0] += 1
        if moments[0] == fatal:
            os.kill(os.getpid(), signal.SIGKILL)
    def deadly(function):
        def changed(*args, **options):
            pass_moment()
            return function(*args, **options)
        return changed
    def plan_again(*args):
        functions = {name: getattr(os, name) for name in ("rename", "replace", "link", "unlink", "rmdir")}
        vars(os).update({name: deadly(function) for name, function in functions.items()})
        answer = honest(*args)
        pass_moment()
        vars(os).update(functions)
        return answer
    pipeline.plan_again = plan_again
    return main(words)

def ended(fatal, *words):
    pid = os.fork()
    if not pid:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os._exit(build(fatal, words))
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

fatal, killed = 0, True
while killed:
    fatal += 1
    again, plain = f"{finished}-again-{fatal}", f"{finished}-plain-{fatal}"
    shutil.copytree(finished, again)
    killed = ended(fatal, *words, "--out", again, "--retry-failed") == -signal.SIGKILL
    shutil.copytree(again, plain)
    print(ended(0, *words, "--out", again, "--retry-failed"), ended(0, *words, "--out", plain), flush=True)
"""


RUN = """
if __name__ == "__main__":
    import sys
    import dataset_builder.plan.making as making
    making.SHARD_ITEMS = 1
    from dataset_builder.build import main
    sys.exit(main(sys.argv[1:]))
"""


def tree(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    named = {path.relative_to(folder).as_posix(): path for path in files}
    return {name: path.read_bytes() for name, path in sorted(named.items()) if not name.startswith(".build/")}


@pytest.fixture
def works(tmp_path, monkeypatch):
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "deadly_work.py").write_text(WORK)
    monkeypatch.syspath_prepend(tmp_path / "code")
    import deadly_work

    yield deadly_work
    del sys.modules["deadly_work"]


@pytest.fixture
def plan(small_raw, tmp_path, monkeypatch):
    monkeypatch.setattr("dataset_builder.plan.making.SHARD_ITEMS", 4)
    raw, sources = small_raw
    return make_plan(map(load_source, sources.split(",")), raw, tmp_path / "out", SHAPING, "salt")


def candidates(plan, numbers=None) -> list[bytes]:
    numbers = range(len(plan.shards)) if numbers is None else numbers
    return [plan.rows_path(n).read_bytes() + plan.candidates_path(n).read_bytes() for n in numbers]


def units(plan) -> list:
    return list(map(plan.whole, range(len(plan.shards))))


@pytest.fixture
def expected(small_raw, plan):
    raw, _ = small_raw
    list(executors.in_process(build_unit, plan, str(raw), units(plan)))
    expected = candidates(plan)
    shutil.rmtree(plan.work / "shards")
    return expected


def test_the_files_of_one_shard_are_read_by_all_workers_at_once(small_raw, tmp_path, works):
    raw, sources = small_raw
    one = make_plan([load_source(sources.split(",")[0])], raw, tmp_path / "one", SHAPING, "salt")
    parts = cut(one, [0], 4, shortest=0.0)
    calls = [call for call in LocalRun(works.sleepy, one, str(raw), 60).run(parts, 4) if call]
    assert len(one.shards) == 1 and len(calls) == len(parts) >= 12
    assert len({call["worker"] for call in calls}) == 4
    at_once = [sum(other["began"] <= call["began"] < other["ended"] for other in calls) for call in calls]
    assert max(at_once) == 4


def test_a_crash_costs_one_input(small_raw, plan, works, tmp_path, make):
    raw, _ = small_raw
    victim = raw / "scans" / "p001"
    victim.joinpath("crash.png").write_bytes(victim.joinpath("2.png").read_bytes())
    sources = [load_source(tmp_path / "records" / "scans.yaml")]
    deadly = make_plan(sources, raw, tmp_path / "deadly", SHAPING, "salt")
    numbers = list(range(len(deadly.shards)))
    finished = [s for s in LocalRun(works.work, deadly, str(raw), 60).run(units(deadly), 2) if s]
    assert sorted(s["shard"] for s in finished) == numbers
    lines = [line for n in numbers for line in pq.read_table(deadly.candidates_path(n)).to_pylist()]
    assert {line["path"]: line["outcome"] for line in lines}["scans/p001/crash.png"] == "crashed the decoder"
    assert sum(line["outcome"] == "kept" for line in lines) == 12
    assert not list((deadly.work / "progress").iterdir())


def test_a_stall_costs_one_input(small_raw, works, tmp_path, make):
    raw = tmp_path / "raw"
    make.png(raw / "odd" / "a.png", make.picture(1))
    make.png(raw / "odd" / "stall.png", make.picture(2))
    make.png(raw / "odd" / "z.png", make.picture(3))
    stalled = make_plan([load_source(make.record(tmp_path, "odd"))], raw, tmp_path / "odd", SHAPING, "s")
    started = time.monotonic()
    (statistics,) = [s for s in LocalRun(works.work, stalled, str(raw), 2.0).run(units(stalled), 1) if s]
    assert statistics["outcomes"] == {"kept": 2, "timed out": 1}
    assert time.monotonic() - started < 200  # without the guard: 600


def test_workers_that_cannot_begin_are_an_error(small_raw, plan, works):
    raw, _ = small_raw
    with pytest.raises(UserError, match="workers die before they begin"):
        list(LocalRun(works.dies_at_once, plan, str(raw), 60).run(units(plan)[:1], 1))


@pytest.mark.parametrize("deadly", ["stopped_before_its_work", "dies_after_its_work"])
def test_a_worker_that_is_stopped_or_dies_around_its_work_is_noticed(
    small_raw, plan, expected, works, monkeypatch, deadly
):
    monkeypatch.setattr(workers, "STOPPED_SECONDS", 1.0)
    raw, _ = small_raw
    run = LocalRun(getattr(works, deadly), plan, str(raw), 600)
    done = [statistics["shard"] for statistics in run.run(units(plan)[:2], 2) if statistics]
    assert sorted(done) == [0, 1] and not (plan.work / "marks").exists()
    assert candidates(plan, [0, 1]) == expected[:2]


def test_a_worker_that_is_stopped_when_it_has_nothing_to_do_does_not_hold_the_end(monkeypatch):
    monkeypatch.setattr(workers, "_END_SECONDS", 0.5)
    with workers.workers(1) as crew:
        crew.begin(0, os.getpid)
        pid = None
        while crew.calls:
            pid = dict(crew.results(1.0)).get(0)
        os.kill(pid, signal.SIGSTOP)


def test_what_a_call_raises_is_raised_here():
    with pytest.raises(UserError, match="told"), workers.workers(1) as crew:
        crew.begin(0, _refuse)
        while crew.calls:
            list(crew.results(1.0))


def _refuse():
    raise UserError("told")


def test_every_engine_is_named_in_the_docs_and_says_how_many_units_it_runs_at_once():
    page = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8") + (ROOT / "docs" / "dataset.md").read_text(
        "utf-8"
    )
    for name, engine in executors.ENGINES.items():
        assert name == "local" or f"--engine {name}" in page, f"say in docs/cluster.md when to take --engine {name}"
        assert callable(engine.run) and callable(engine.cores) and engine.shortest > 0


def test_an_executor_is_added_by_one_entry(small_raw, tmp_path, monkeypatch):
    spread = []

    def backwards(work, plan, raw, units, resources):
        assert resources.workers == 3
        for unit in reversed(units):
            yield work(str(plan.out), raw, unit)

    def spread_backwards(resources, function, shared, values):
        assert resources.workers == 3
        spread.extend(values)
        return [function(shared, value) for value in reversed(values)]

    engine = executors.Engine(backwards, shortest=0.0, spread=spread_backwards)
    monkeypatch.setitem(executors.ENGINES, "backwards", engine)
    monkeypatch.setitem(executors.ENGINES, "later", engine)
    raw, sources = small_raw
    build(raw, tmp_path / "one", sources, size=32, engine="backwards", workers=3)
    build(raw, tmp_path / "two", sources, size=32, workers=0)
    assert tree(tmp_path / "one") == tree(tmp_path / "two")
    assert spread
    with pytest.raises(UserError, match=r"not one of .*\blocal, .*backwards, later \(where the shards run\)$"):
        build(raw, tmp_path / "three", sources, engine="nowhere")


def test_a_killed_worker_changes_nothing(small_raw, plan, expected, works):
    """An innocent victim: the work is done again, nothing is marked, the bytes are the same."""
    raw, _ = small_raw
    killed = 0
    for _ in LocalRun(works.slow, plan, str(raw), 60).run(units(plan), 2):
        pids = [child.pid for child in multiprocessing.active_children()]
        if not killed and pids:
            os.kill(pids[0], signal.SIGKILL)
            killed += 1
    assert killed == 1
    assert candidates(plan) == expected
    assert not (plan.work / "marks").exists()


@pytest.fixture(scope="module")
def dask():
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, processes=True) as cluster,
        distributed.Client(cluster) as client,
    ):
        client.run(lambda path: __import__("sys").path.insert(0, path), str(ROOT))
        yield client


def test_near_duplicates_are_the_same_wherever_they_are_searched(dask, monkeypatch):
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**64, 3000, dtype=np.uint64)
    hashes[2900:] = hashes[:100] ^ np.uint64(5)
    thumbnails = rng.integers(0, 256, (2900, 784), dtype=np.uint8)[np.arange(3000) % 2900]
    cluster = executors.Resources(2, dask.scheduler.address)

    def found(engine, resources):
        spread = partial(executors.ENGINES[engine].spread, resources)
        numbers, like = look_alikes(hashes, np.arange(3000), thumbnails, np.arange(3000), spread=spread)
        return numbers.tolist(), like.tolist()

    expected = list(range(2900, 3000)), list(range(100))
    for count in range(3):
        assert found("local", executors.Resources(count)) == expected
    assert found("submitit", executors.Resources(2)) == found("dask", executors.Resources(2)) == expected
    monkeypatch.setattr(executors, "_WORTH_SENDING", 1)
    monkeypatch.setattr(executors, "_in_threads", None)  # so that it cannot be searched here
    assert found("dask", cluster) == expected


def test_a_cluster_without_workers_is_waited_for_and_told(monkeypatch, capsys):
    distributed = pytest.importorskip("distributed")
    monkeypatch.setattr(executors, "_WORTH_SENDING", 1)
    engine = executors.ENGINES["dask"]
    with distributed.LocalCluster(n_workers=0, dashboard_address=":0", processes=False) as cluster:
        resources = executors.Resources(2, cluster.scheduler_address)
        told = f"{cluster.scheduler_address} has no worker yet; the build waits for one: dask worker "
        assert engine.cores(resources) == 0 and capsys.readouterr().err.startswith(told)
        cluster.adapt(minimum=0, maximum=1, interval="10 ms", wait_count=1000)
        assert list(engine.spread(resources, _largest, np.arange(3), [5])) == [7]
        assert capsys.readouterr().err.startswith(told)
        assert engine.cores(resources) > 0 and not capsys.readouterr().err


def _largest(shared, value):
    return int(shared.max()) + value


def test_dask_with_a_killed_worker_gives_the_same_bytes(small_raw, plan, expected, works, dask, monkeypatch):
    """In units of one input each, of which the shards are put together."""
    raw, _ = small_raw
    monkeypatch.setattr("dataset_builder.shards.units.SHARES", 400)  # the two volumes take nearly all the time
    inputs = cut(plan, range(len(plan.shards)), 7, shortest=0.0)
    assert len(inputs) > 2 * len(plan.shards)
    dask.run(lambda path: __import__("sys").path.insert(0, path), str(Path(works.__file__).parent))
    pids = list(dask.run(os.getpid).values())
    killed = False
    for result in executors.on_executor(works.slow, plan, str(raw), inputs, dask.get_executor(), 100):
        if result is None and not killed:
            os.kill(pids[0], signal.SIGKILL)
            killed = True
    assert killed
    list(executors.in_process(join_shard, plan, str(raw), map(plan.whole, read_statistics(plan).unfinished())))
    assert candidates(plan) == expected and not plan.parts()


def test_workers_of_a_cluster_may_be_in_another_folder(small_raw, tmp_path, monkeypatch, dask):
    _, sources = small_raw
    eyes = sources.split(",")[1]
    monkeypatch.chdir(tmp_path)
    folders = dask.run(os.getcwd)
    assert str(tmp_path) not in folders.values()
    build("raw", "out", [eyes], engine="dask", scheduler=dask.scheduler.address, size=32)
    build("raw", "whole", [eyes], workers=0, size=32)
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_a_worker_without_the_folder_says_where_it_is(tmp_path):
    with ThreadPoolExecutor(1) as pool, pytest.raises(UserError) as raised:
        plan = Plan(tmp_path / "gone", SHAPING, (), {}, {}, {}, "raw", "secret")
        list(executors.on_executor(build_unit, plan, "/raw", [Unit(0, 0, 1)], pool, 1))
    message = str(raised.value)
    assert message.startswith(f"a worker on {platform.node()} failed (") and "plan.json" in message
    assert f"it needs {tmp_path / 'gone'} and /raw under these paths" in message


def test_a_full_disk_of_a_worker_is_told_as_one_here():
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        executors._on_worker(full, "out", "raw", Unit(0, 0, 1))


def test_a_build_with_dask_starts_one_local_cluster_and_ends_it(small_raw, tmp_path, monkeypatch, capsys):
    """For reading, joining and finishing, also after another listing; the bytes are those of the local engine."""
    distributed = pytest.importorskip("distributed")
    raw, sources = small_raw
    eyes, honest, clusters = sources.split(",")[1], distributed.LocalCluster, []

    def cluster(**words):
        clusters.append(honest(processes=False, **words))
        return clusters[-1]

    monkeypatch.setattr(distributed, "LocalCluster", cluster)
    build(raw, tmp_path / "out", [eyes], size=32, plan_only=True)
    os.utime(raw / "eyes" / "train" / "1.png")
    words = {"size": 32, "workers": 2}
    build(raw, tmp_path / "out", [eyes], engine="dask", **words)
    assert "listing the sources again" in capsys.readouterr().out
    assert [cluster.status.name for cluster in clusters] == ["closed"]
    build(raw, tmp_path / "out", [eyes], engine="dask", **words)  # nothing is left to do
    assert len(clusters) == 1
    build(raw, tmp_path / "whole", [eyes], **words)
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_a_search_that_kills_workers_says_what_to_do(dask, monkeypatch):
    monkeypatch.setattr(executors, "_WORTH_SENDING", 1)
    monkeypatch.setattr(dask.cluster.scheduler, "allowed_failures", 0)
    resources = executors.Resources(2, dask.scheduler.address)
    deadly = executors.ENGINES["dask"].spread(resources, lambda *_: os._exit(1), np.zeros(2), [0])
    with pytest.raises(UserError, match="2 GB of memory, or finish with --engine local"):
        list(deadly)


def test_submitit_gives_the_same_bytes(small_raw, tmp_path):
    """Without SLURM, submitit runs its jobs as processes on this machine; here one for each step of a build."""
    pytest.importorskip("submitit")
    raw, sources = small_raw
    eyes = sources.split(",")[1]
    build(raw, tmp_path / "whole", eyes, workers=0, size=32)
    words = {"engine": "submitit", "workers": 2, "slurm": "timeout_min=5"}
    build(raw, tmp_path / "jobs", eyes, size=32, **words)
    assert tree(tmp_path / "jobs") == tree(tmp_path / "whole")


def test_progress_is_readable_while_a_shard_runs(tmp_path):
    with ProgressFile(tmp_path / "progress" / "000000") as progress:
        progress.write(3, 10, 7, 2**40)
        assert read_progress(tmp_path / "progress" / "000000") == (os.getpid(), 3, 10, 7, 2**40)
    assert read_progress(tmp_path / "progress" / "000000") is None


def test_progress_counts_kept_pictures_as_they_come(small_raw, tmp_path, monkeypatch):
    """None of these pictures is dropped; the counts are of the same moment, also before 100 lines are written."""
    raw, sources = small_raw
    plan = make_plan([load_source(sources.split(",")[0])], raw, tmp_path / "out", SHAPING, "salt")
    excluded, noted = sum(item.excluded is not None for item in plan.items(plan.whole(0))), []
    monkeypatch.setattr(ProgressFile, "write", lambda _, item, pictures, kept, size: noted.append((pictures, kept)))
    build_unit(str(plan.out), str(raw), plan.whole(0))
    assert noted == sorted(noted) and noted[-1] == (13, 12)
    assert {pictures - kept for pictures, kept in noted} == {0, excluded}


def test_finish_shard_leaves_no_file_for_nothing(small_raw, tmp_path, make):
    raw = tmp_path / "raw"
    for name in ("a", "b"):
        make.png(raw / "same" / f"{name}.png", make.picture(1))
    (raw / "blank").mkdir()
    make.png(raw / "blank" / "c.png", make.picture(1) * 0)
    records = ",".join(str(make.record(tmp_path, name)) for name in ("same", "blank"))
    summary = build(raw, tmp_path / "out", [records], workers=0, size=32)
    assert summary["outcomes"] == {"blank": 1, "duplicate": 1, "kept": 1}
    assert [p.name for p in (tmp_path / "out" / "data").rglob("*.parquet")] == ["same-00000.parquet"]
    assert finish_shard(str(tmp_path / "out"), str(raw), Unit(1, 0, 1))["kept"] == 0


def killed_and_continued(small_raw, tmp_path: Path, fatal: list[int]) -> None:
    raw, sources = small_raw
    (tmp_path / "killed.py").write_text(KILLED)
    build(raw, tmp_path / "whole", [sources], workers=0, size=32)
    words = ["--raw", str(raw), "--sources", sources, "--size", "32", "--workers", "0", "--out", str(tmp_path / "out")]
    command = [sys.executable, str(tmp_path / "killed.py"), ",".join(map(str, [*fatal, 0])), *words]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    *deaths, end = map(int, done.stdout.split())
    assert -signal.SIGKILL in deaths and end == 0, done.stderr
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_a_killed_build_continues_to_the_same_bytes(small_raw, tmp_path, monkeypatch):
    monkeypatch.setattr("dataset_builder.plan.making.SHARD_ITEMS", 3)
    killed_and_continued(small_raw, tmp_path, [1, 6, 9])


def test_a_build_that_is_killed_while_it_lists_again_continues_to_the_same_bytes(
    small_raw, tmp_path, monkeypatch, make
):
    """With --retry-failed to those of a new build; without it, to these or those of the finished one."""
    monkeypatch.setattr("dataset_builder.plan.making.SHARD_ITEMS", 3)
    raw, sources = small_raw
    eyes, out = sources.split(",")[1], tmp_path / "out"
    broken = raw / "eyes" / "train" / "1.png"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:99])
    build(raw, out, [eyes], workers=0, size=32)
    broken.write_bytes(whole)
    (raw / "eyes" / "train" / "5.png").unlink()
    make.png(raw / "eyes" / "train" / "0.png", make.picture(60, channels=3))
    build(raw, tmp_path / "new", [eyes], workers=0, size=32)
    words = [str(out), "--raw", str(raw), "--sources", eyes, "--size", "32", "--workers", "0"]
    (tmp_path / "again.py").write_text(LISTED_AGAIN)
    command = [sys.executable, str(tmp_path / "again.py"), *words]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    ends = done.stdout.splitlines()
    assert done.returncode == 0 and len(ends) > 5 and set(ends) == {"0 0"}, done.stderr
    before, after = tree(out), tree(tmp_path / "new")
    for number in range(1, len(ends) + 1):
        assert tree(tmp_path / f"out-again-{number}") == after
        assert tree(tmp_path / f"out-plain-{number}") in (before, after)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_twenty_random_kills(small_raw, tmp_path, monkeypatch):
    """At renames, where states change, and with that at every stage of a build."""
    monkeypatch.setattr("dataset_builder.plan.making.SHARD_ITEMS", 3)
    numbers = random.Random(0)
    killed_and_continued(small_raw, tmp_path, [numbers.randint(1, 14) for _ in range(20)])


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_twenty_kills_at_random_moments_with_workers(small_raw, tmp_path, make):
    """The whole process group is killed at any moment, as the system does when memory ends, 20 times in one build."""
    raw, sources = small_raw
    for number in range(200):
        make.png(raw / "scans" / f"q{number:03d}" / "a.png", make.picture(1000 + number, 900, 1200))
    words = ["--raw", str(raw), "--sources", sources, "--size", "64", "--workers", "2"]
    (tmp_path / "run.py").write_text(RUN)

    def start(out: Path) -> subprocess.Popen:
        command = [sys.executable, str(tmp_path / "run.py"), *words, "--out", str(out)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.Popen(
            command, env=environment, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def wait_for_another_shard(process: subprocess.Popen, out: Path) -> None:
        shards = out / ".build" / "shards"
        before = len(list(shards.glob("[0-9]*[0-9].json")))
        while process.poll() is None and len(list(shards.glob("[0-9]*[0-9].json"))) == before:
            time.sleep(0.01)

    process = start(tmp_path / "whole")
    wait_for_another_shard(process, tmp_path / "whole")
    began = time.monotonic()
    assert process.wait(300) == 0
    work = time.monotonic() - began
    moments = random.Random(1)
    for _ in range(20):
        process = start(tmp_path / "killed")
        wait_for_another_shard(process, tmp_path / "killed")
        time.sleep(moments.uniform(0, work / 40))
        assert process.poll() is None
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert not (tmp_path / "killed" / ".build" / "complete.json").exists()
    assert start(tmp_path / "killed").wait(300) == 0
    assert tree(tmp_path / "killed") == tree(tmp_path / "whole")
