"""Probes that are killed, that share a folder, and that are started as several processes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from evaluation.results import merge_records

ROOT = Path(__file__).resolve().parents[2]
PROBE = [sys.executable, "-m", "biovfm_hf.cli", "probe"]


@pytest.fixture
def words(tmp_path, tiny_model, second_model, make_class_folder):
    folders = [make_class_folder(tmp_path / f"task{n}", 2) for n in range(3)]
    models = ["--model", f"a={tiny_model}", "--model", f"b={second_model}"]
    tasks = ["--tasks", ",".join(map(str, folders)), "--out", str(tmp_path / "out")]
    return [*models, *tasks, "--resamples", "40", "--no-figures"]


def start(words, **environment):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen([*PROBE, *words], cwd=ROOT, env={**os.environ, **environment}, **pipes)


def records(out):
    return json.loads((out / "results.json").read_text())


def test_a_probe_killed_in_the_middle_continues_with_what_is_missing(words, tmp_path):
    out = tmp_path / "out"
    running = start([*words, "--method", "fewshot,linear", "--draws", "60"])
    while running.poll() is None and len(list(out.glob("records/*.json"))) < 2:
        time.sleep(0.02)
    running.send_signal(signal.SIGKILL)
    running.wait()
    kept = {path: path.stat().st_mtime_ns for path in out.glob("records/[!.]*.json")}
    assert 2 <= len(kept) < 12
    again = start([*words, "--method", "fewshot,linear", "--draws", "60"])
    said = again.communicate(timeout=240)[0]
    assert again.returncode == 0, said
    assert len(records(out)) == 12 and said.count("done ") == 12 - said.count("have ")
    # A record may have been written whose scores were not: it does not count as there.
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
    assert found == merge_records(tmp_path / "out")
    assert all((tmp_path / "out" / record["scores"]).is_file() for record in found)
    assert not [path for path in (tmp_path / "out").rglob(".*tmp*") if path.is_file()]


@pytest.mark.timeout(600)
def test_processes_of_accelerate_share_the_work(words, tmp_path):
    launch = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    command = [sys.executable, *launch, "-m", "biovfm_hf.cli", "probe", *words, "--method", "linear,bitfit"]
    ran = subprocess.run([*command, "--epochs", "1"], cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert ran.returncode == 0, ran.stderr[-2000:]
    found = records(tmp_path / "out")
    assert len(found) == 12 and (tmp_path / "out" / "table.md").is_file()
    tuned = [line for line in ran.stdout.splitlines() if line.startswith("done") and "bitfit" in line]
    assert len(tuned) == 6  # each fine-tuning run by one process only
