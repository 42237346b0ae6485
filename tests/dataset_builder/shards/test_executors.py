"""Engines and deaths: killed builds continue to the same bytes, crashed and stalled workers cost one input."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from biovfm_hf.errors import UserError
from dataset_builder.build import build
from dataset_builder.catalog.records import load_source
from dataset_builder.dataset.finish import finish_shard
from dataset_builder.plan.plan import Options, make_plan
from dataset_builder.progress import ProgressFile, read_progress
from dataset_builder.shards import executors, workers
from dataset_builder.shards.local import LocalRun
from dataset_builder.shards.shard import build_shard

ROOT = Path(__file__).resolve().parents[3]

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

def work(out, raw, number):
    shard.stamp_of = stamp_of
    return shard.build_shard(out, raw, number)

def slow(out, raw, number):
    time.sleep(0.5)
    return shard.build_shard(out, raw, number)

def dies_at_once(out, raw, number):
    os.kill(os.getpid(), signal.SIGKILL)

def dies_after_its_work(out, raw, number):
    result = shard.build_shard(out, raw, number)
    mark = shard.Path(out) / f"died-{number}"
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return result

def stopped_before_its_work(out, raw, number):
    mark = shard.Path(out) / f"stopped-{number}"
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGSTOP)
    return shard.build_shard(out, raw, number)
"""

# A build that is killed at its nth rename: before it, when n is even, after it, when n is odd.
KILLED = """
import os, signal, sys
from pathlib import Path
import dataset_builder.plan.plan as plan
plan.SHARD_ITEMS = 3
count, fatal = [0], int(sys.argv[1])
honest = Path.replace

def replace(self, target):
    count[0] += 1
    if count[0] == fatal and fatal % 2 == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    honest(self, target)
    if count[0] == fatal:
        os.kill(os.getpid(), signal.SIGKILL)

Path.replace = replace
from dataset_builder.build import main
sys.exit(main(sys.argv[2:]))
"""


RUN = """
if __name__ == "__main__":
    import sys
    import dataset_builder.plan.plan as plan
    plan.SHARD_ITEMS = 1
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
    monkeypatch.setattr("dataset_builder.plan.plan.SHARD_ITEMS", 4)
    raw, sources = small_raw
    return make_plan(map(load_source, sources.split(",")), raw, tmp_path / "out", Options(size=32), "salt")


def candidates(plan, numbers=None) -> list[bytes]:
    numbers = range(len(plan.shards)) if numbers is None else numbers
    return [plan.rows_path(n).read_bytes() + plan.candidates_path(n).read_bytes() for n in numbers]


@pytest.fixture
def expected(small_raw, plan, tmp_path):
    raw, _ = small_raw
    whole = tmp_path / "whole"
    whole.mkdir()
    (whole / ".build").symlink_to(tmp_path / "out" / ".build")
    for _ in executors.in_process(build_shard, plan, str(raw), range(len(plan.shards))):
        pass
    found = candidates(plan)
    for number in range(len(plan.shards)):
        plan.stats_path(number).unlink()
        plan.rows_path(number).unlink()
    return found


def test_a_crash_costs_one_input(small_raw, plan, works, tmp_path, make):
    raw, _ = small_raw
    victim = raw / "scans" / "p001"
    victim.joinpath("crash.png").write_bytes(victim.joinpath("2.png").read_bytes())
    sources = [load_source(tmp_path / "records" / "scans.yaml")]
    deadly = make_plan(sources, raw, tmp_path / "deadly", Options(size=32), "salt")
    numbers = list(range(len(deadly.shards)))
    finished = [s for s in LocalRun(works.work, deadly, str(raw), 60).run(numbers, 2) if s]
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
    stalled = make_plan([load_source(make.record(tmp_path, "odd"))], raw, tmp_path / "odd", Options(size=32), "s")
    started = time.monotonic()
    (statistics,) = [s for s in LocalRun(works.work, stalled, str(raw), 2.0).run([0], 1) if s]
    assert statistics["outcomes"] == {"kept": 2, "timed out": 1}
    assert time.monotonic() - started < 200  # without the guard: 600


def test_workers_that_cannot_begin_are_an_error(small_raw, plan, works):
    raw, _ = small_raw
    with pytest.raises(UserError, match="workers die before they begin"):
        list(LocalRun(works.dies_at_once, plan, str(raw), 60).run([0], 1))


@pytest.mark.parametrize("deadly", ["stopped_before_its_work", "dies_after_its_work"])
def test_a_worker_that_is_stopped_or_dies_around_its_work_is_noticed(
    small_raw, plan, expected, works, monkeypatch, deadly
):
    monkeypatch.setattr(workers, "STOPPED_SECONDS", 1.0)
    raw, _ = small_raw
    numbers = list(range(len(plan.shards)))[:2]
    run = LocalRun(getattr(works, deadly), plan, str(raw), 600)
    done = [statistics["shard"] for statistics in run.run(numbers, 2) if statistics]
    assert sorted(done) == numbers and not (plan.work / "marks").exists()
    assert candidates(plan, numbers) == expected[: len(numbers)]


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


def test_an_executor_is_added_by_one_entry(small_raw, tmp_path, monkeypatch):
    def backwards(work, plan, raw, numbers, resources):
        assert resources.workers == 3
        for number in reversed(numbers):
            yield work(str(plan.out), raw, number)

    monkeypatch.setitem(executors.ENGINES, "backwards", backwards)
    raw, sources = small_raw
    build(raw, tmp_path / "one", sources, size=32, engine="backwards", workers=3)
    build(raw, tmp_path / "two", sources, size=32, workers=0)
    assert tree(tmp_path / "one") == tree(tmp_path / "two")
    with pytest.raises(UserError, match="none of local, dask, submitit, backwards"):
        build(raw, tmp_path / "three", sources, engine="nowhere")


def test_a_killed_worker_changes_nothing(small_raw, plan, expected, works):
    """An innocent victim: the work is done again, nothing is marked, the bytes are the same."""
    raw, _ = small_raw
    numbers = list(range(len(plan.shards)))
    killed = 0
    for _ in LocalRun(works.slow, plan, str(raw), 60).run(numbers, 2):
        pids = [child.pid for child in __import__("multiprocessing").active_children()]
        if not killed and pids:
            os.kill(pids[0], signal.SIGKILL)
            killed += 1
    assert killed == 1
    assert candidates(plan) == expected
    assert not (plan.work / "marks").exists()


def test_dask_with_a_killed_worker_gives_the_same_bytes(small_raw, plan, expected, works):
    distributed = pytest.importorskip("distributed")
    raw, _ = small_raw
    numbers = list(range(len(plan.shards)))
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, processes=True) as cluster,
        distributed.Client(cluster) as client,
    ):
        client.run(lambda path: __import__("sys").path.insert(0, path), str(Path(works.__file__).parent))
        client.run(lambda path: __import__("sys").path.insert(0, path), str(ROOT))
        pids = list(client.run(os.getpid).values())
        killed = False
        for result in executors.on_executor(works.slow, plan, str(raw), numbers, client.get_executor(), 100):
            if result is None and not killed:
                os.kill(pids[0], signal.SIGKILL)
                killed = True
    assert killed
    assert candidates(plan) == expected


def test_submitit_gives_the_same_bytes(small_raw, tmp_path):
    """Without SLURM, submitit runs its jobs as processes on this machine."""
    pytest.importorskip("submitit")
    raw, sources = small_raw
    build(raw, tmp_path / "whole", [sources], workers=0, size=32)
    words = {"engine": "submitit", "workers": 2, "slurm": "timeout_min=5"}
    build(raw, tmp_path / "jobs", [sources], size=32, **words)
    assert tree(tmp_path / "jobs") == tree(tmp_path / "whole")


def test_progress_is_readable_while_a_shard_runs(tmp_path):
    with ProgressFile(tmp_path / "progress" / "000000") as progress:
        progress.write(3, 10, 7, 2**40)
        assert read_progress(tmp_path / "progress" / "000000") == (os.getpid(), 3, 10, 7, 2**40)
    assert read_progress(tmp_path / "progress" / "000000") is None


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
    assert finish_shard(str(tmp_path / "out"), str(raw), 1)["kept"] == 0


def killed_and_continued(small_raw, tmp_path: Path, fatal: list[int]) -> None:
    raw, sources = small_raw
    (tmp_path / "killed.py").write_text(KILLED)
    words = ["--raw", str(raw), "--sources", sources, "--size", "32", "--workers", "0"]

    def run(number: int, out: Path) -> int:
        command = [sys.executable, str(tmp_path / "killed.py"), str(number), *words, "--out", str(out)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.run(command, env=environment, capture_output=True, timeout=250).returncode

    assert run(0, tmp_path / "whole") == 0
    deaths = [run(number, tmp_path / "killed") for number in fatal]
    assert -signal.SIGKILL in deaths
    assert run(0, tmp_path / "killed") == 0
    assert tree(tmp_path / "killed") == tree(tmp_path / "whole")


def test_a_killed_build_continues_to_the_same_bytes(small_raw, tmp_path):
    killed_and_continued(small_raw, tmp_path, [1, 6, 9])


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_twenty_random_kills(small_raw, tmp_path):
    """At renames, where states change, and with that at every stage of a build."""
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
