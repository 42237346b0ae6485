"""The table of peers: every row has its cells, whether the peer is installed, is missing, or fails."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.benchmarks import table
from tests.preloaded import python


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.split("|")[1:-1]]


def test_a_peer_that_is_not_installed_has_a_row_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BIOVFM_IMG2DATASET", raising=False)
    monkeypatch.setitem(table.ROWS, "absent", replace(table.ROWS["knn"], module="no_such_module"))
    for name in ("absent", "img2dataset"):
        assert cells(table.line(name)) == [table.ROWS[name].work, table.ROWS[name].peer, "", "not installed", ""]


@pytest.mark.parametrize(
    ("status", "expected"), [(0, ["20 ms per step", "30 ms", "1.50"]), (1, ["", "failed: no memory", ""])]
)
def test_a_row_has_seconds_or_the_reason_why_not(
    status: int, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    done = SimpleNamespace(returncode=status, stdout=f"noise\n{json.dumps([0.02, 0.03])}\n", stderr="a\nno memory\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    assert cells(table.line("dino"))[2:] == expected


def test_durations_have_three_digits() -> None:
    assert [table.duration(seconds) for seconds in (358.2, 1.1234, 0.99949, 0.0048849)] == [
        "358 s", "1.12 s", "999 ms", "4.88 ms",
    ]  # fmt: skip


def test_every_row_is_of_a_work_and_a_peer_of_its_own() -> None:
    assert len({(row.work, row.peer) for row in table.ROWS.values()}) == len(table.ROWS)


def test_faiss_is_told_of_avx_512(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENBLAS_CORETYPE", raising=False)
    monkeypatch.setattr(table, "CPU", tmp_path / "cpuinfo")
    for flags, kernel in (("fma avx2", None), ("avx2 avx512f", "SkylakeX")):
        table.CPU.write_text(f"flags : {flags}")
        assert table.environment("knn").get("OPENBLAS_CORETYPE") == kernel
    assert "OPENBLAS_CORETYPE" not in table.environment("pool")
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Zen")
    assert table.environment("knn")["OPENBLAS_CORETYPE"] == "Zen"


BURN = """
import multiprocessing, time

def burn():
    while time.process_time() < 0.4:
        pass

if __name__ == "__main__":
    worker = multiprocessing.get_context("forkserver").Process(target=burn)
    worker.start()
    worker.join()
"""


def test_cpu_time_of_a_command_is_that_of_its_forkserver_s_workers_too(tmp_path: Path) -> None:
    (tmp_path / "burn.py").write_text(BURN)
    assert table.building.cpu_seconds([sys.executable, str(tmp_path / "burn.py")]) >= 0.4


@pytest.mark.parametrize(
    ("script", "words", "said"),
    [
        ("table.py", ["no-such-row"], "no row no-such-row; there are dino, mae"),
        ("crowds.py", ["--help"], "--pictures"),
        ("finishing.py", ["--help"], "--pictures"),
        ("curating.py", ["--help"], "ROWS"),
    ],
)
def test_benchmarks_run_as_scripts(script: str, words: list[str], said: str, tmp_path: Path) -> None:
    """Their rooms are not on the path of a script, and only an editable installation puts `biovfm_hf` there."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [python(), str(table.ROOT / "tests/benchmarks" / script), *words]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert said in done.stdout + done.stderr
