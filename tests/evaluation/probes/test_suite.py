"""Probes that are killed, share a folder, or are started as several processes."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from evaluation.results.records import merge_records
from tests.preloaded import python, send

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def words(tmp_path, tiny_model, second_model, make_class_folder):
    folders = [make_class_folder(tmp_path / f"task{n}", 2) for n in range(3)]
    models = ["--model", f"a={tiny_model}", "--model", f"b={second_model}"]
    tasks = ["--tasks", ",".join(map(str, folders)), "--out", str(tmp_path / "out")]
    return [*models, *tasks, "--resamples", "40", "--no-figures"]


def start(words, **environment):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(
        [python(), "-m", "biovfm_hf.cli", "probe", *words], cwd=ROOT, env={**os.environ, **environment}, **pipes
    )


def records(out):
    return json.loads((out / "results.json").read_text())


def test_a_probe_killed_in_the_middle_continues_with_what_is_missing(words, tmp_path):
    out = tmp_path / "out"
    running = start([*words, "--method", "fewshot,linear", "--draws", "25"])
    while running.poll() is None and len(list(out.glob("records/*.json"))) < 2:
        time.sleep(0.02)
    send(running, signal.SIGKILL)
    running.wait()
    kept = {path: path.stat().st_mtime_ns for path in out.glob("records/[!.]*.json")}
    assert 2 <= len(kept) < 12
    again = start([*words, "--method", "fewshot,linear", "--draws", "25"])
    said = again.communicate(timeout=240)[0]
    assert again.returncode == 0, said
    assert len(records(out)) == 12 and said.count("done ") == 12 - said.count("have ")
    # A record whose scores were not written does not count.
    assert len(kept) - 1 <= said.count("have ") <= len(kept)
    unchanged = [path for path, changed in kept.items() if path.stat().st_mtime_ns == changed]
    assert len(unchanged) == said.count("have ")


def test_two_probes_of_one_folder_lose_nothing(words, tmp_path):
    running = [start([*words, "--method", method]) for method in ("linear", "knn,linear")]
    said = [process.communicate(timeout=240)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0], said
    found = records(tmp_path / "out")
    assert sorted((r["method"], r["model"], r["task"]) for r in found) == sorted(
        (method, model, f"task{n}") for method in ("knn", "linear") for model in "ab" for n in range(3)
    )
    assert found == [record.to_json() for record in merge_records(tmp_path / "out")]
    assert all((tmp_path / "out" / record["scores"]).is_file() for record in found)
    assert not [path for path in (tmp_path / "out").rglob(".*tmp*") if path.is_file()]


def test_two_probes_of_one_folder_share_its_records(words, tmp_path):
    running = [start([*words, "--method", "bitfit", "--epochs", "2"]) for _ in range(2)]
    said = [process.communicate(timeout=240)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0], said
    assert sum(text.count("done ") for text in said) == 6 and len(records(tmp_path / "out")) == 6


def launch(words, processes=2):
    """Run `biovfm probe` as several processes that meet over gloo."""
    torchrun = ["-m", "torch.distributed.run", f"--nproc_per_node={processes}", "--standalone"]
    command = [python(), *torchrun, "-m", "biovfm_hf.cli", "probe", *words]
    environment = {**os.environ, "PYTHON_EXEC": python()}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500, env=environment)


@pytest.mark.timeout(600)
def test_processes_started_together_share_the_work(words, tmp_path):
    ran = launch([*words, "--method", "linear,bitfit", "--epochs", "1"])
    assert ran.returncode == 0, ran.stderr[-2000:]
    found = records(tmp_path / "out")
    assert len(found) == 12 and (tmp_path / "out" / "table.md").is_file()
    done = [line.split("  ") for line in ran.stdout.splitlines() if line.startswith("done")]
    assert len([line for line in done if "bitfit" in line]) == 6  # each fine-tuning run by one process only
    assert len([line for line in done if "linear" in line]) == 12  # both processes make and read features
    alone = tmp_path / "alone"
    again = start([*words, "--out", str(alone), "--method", "bitfit", "--epochs", "1"])
    assert again.wait(240) == 0
    values = [{(r["model"], r["task"]): r["metrics"] for r in made if r["method"] == "bitfit"}
              for made in (found, records(alone))]  # fmt: skip
    assert values[0] == values[1] and len(values[0]) == 6  # the same results on one process


@pytest.mark.timeout(600)
def test_a_failure_in_one_of_several_processes_leaves_the_other_records_and_the_table(words, tmp_path):
    next((tmp_path / "task1" / "train" / "class0").iterdir()).write_bytes(b"no image")
    ran = launch([*words, "--method", "linear,bitfit", "--epochs", "1"])
    assert ran.returncode == 1 and "task1 by bitfit" in ran.stderr and "task1 by linear" in ran.stderr
    assert {r["task"] for r in records(tmp_path / "out")} == {"task0", "task2"}
    assert "task2" in (tmp_path / "out" / "table.md").read_text()


MEETING = """
import json, sys, time
from pathlib import Path
from evaluation.encoders.processes import process_group
processes = process_group()
spans = []
for turn in range(3):  # a meeting holds up whoever comes first, every time
    time.sleep(0 if processes.takes(turn) else 0.3)
    begun = time.monotonic()  # one clock for all processes
    processes.wait()
    spans.append((begun, time.monotonic()))
answer = [processes.size, processes.agree(processes.rank), spans]
Path(sys.argv[1], f"{processes.rank}.json").write_text(json.dumps(answer))
"""


def test_processes_on_a_cpu_really_meet_and_agree(tmp_path):
    (tmp_path / "meeting.py").write_text(MEETING)
    torchrun = [python(), "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHON_EXEC": python()}
    command = [*torchrun, str(tmp_path / "meeting.py"), str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment)
    assert ran.returncode == 0, ran.stderr[-2000:]
    said = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert [(size, agreed) for size, agreed, _ in said] == [(2, 0), (2, 0)]
    for one, other in zip(said[0][2], said[1][2], strict=True):
        assert max(one[0], other[0]) <= min(one[1], other[1])  # no process left before both had arrived
