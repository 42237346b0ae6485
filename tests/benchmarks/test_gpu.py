"""A dry run of the GPU measurements: every part has its row, and a part that fails or hangs loses only its row."""

import os
import re
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from tests.benchmarks import gpu
from tests.preloaded import python
from training.config_file import load_config
from training.settings.architecture import biovfm_config

SCRIPT = Path(__file__).with_name("gpu.sh")
LIMITS = dict(re.findall(r"([a-z0-9-]+):(\d+)", re.search('parts="(.*)"', SCRIPT.read_text("utf-8"))[1]))


def run(folder: Path, *words: str, script: Path = SCRIPT, interpreter: Path | str = "") -> subprocess.CompletedProcess:
    variables = {**os.environ, "PYTHON": str(interpreter) or python(), "OMP_NUM_THREADS": "1", "TMPDIR": str(folder),
                 "CUDA_VISIBLE_DEVICES": ""}  # fmt: skip
    return subprocess.run([str(script), *words], env=variables, capture_output=True, text=True, check=False)


def rows(text: str) -> dict[str, list[str]]:
    """The cells of each part's row."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert {len(row) for row in cells} <= {8}, text
    return {name: rest for name, *rest in cells[2:]}


def stub(folder: Path, *cases: str) -> Path:
    """An interpreter that prints a part's row at once, but for the cases of the shell's `case`."""
    file = folder / "python"
    file.write_text('#!/bin/sh\ncase "$2" in\n' + "\n".join(cases) + '\nesac\necho "| $2 | 1.0 | | | | | | |"\n')
    file.chmod(0o755)
    return file


def ends(number: Path) -> bool:
    """Whether the process whose number is in a file ends within seconds."""
    deadline = time.monotonic() + 10
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(int(number.read_text()))
        while process.status() != psutil.STATUS_ZOMBIE:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
    return True


def test_a_dry_run_measures_every_part(tmp_path: Path) -> None:
    done = run(tmp_path, "--dry-run")
    table = rows(done.stdout)
    assert done.returncode == 0 and list(table) == list(LIMITS), done.stderr
    assert all(re.fullmatch(r"[\d.]+ \([\d.]+-[\d.]+\)", milliseconds) for milliseconds, *_ in table.values())
    notes = {name: cells[-1] for name, cells in table.items()}
    assert "separate passes" in notes["packed"] and notes["largest"].endswith("4 images fit")
    assert re.search("[1-9][0-9]* tensors sharded", notes["fsdp2"]) and "torch 2" in notes["product"]


def test_a_dry_run_has_blocks_and_stochastic_depth_as_the_recipe() -> None:
    """The last block computes the rows of the output alone, so one block is not enough."""
    config = biovfm_config(load_config("dino_smoke", {**gpu.TINY, **gpu.TINY_OF["dino"], "data.path": "."}))
    assert config.num_hidden_layers > 2 and config.drop_path_rate == 0.3


def test_the_parts_take_less_than_eight_minutes_together() -> None:
    assert sum(map(int, LIMITS.values())) <= 475


def test_a_part_that_fails_costs_its_row_alone(tmp_path: Path) -> None:
    """One says why itself, one ends before it can, one after its row, one is killed, and one says nothing."""
    interpreter = stub(tmp_path, 'mae) echo "no memory | at all" >&2; echo >&2; exit 1;;',
                       'embed) echo "| embed | | | | | | | failed: of that |"; echo hint >&2; exit 1;;',
                       'largest) echo "| largest | 1.0 | | | | | | 64 fit |"; echo no driver >&2; exit 7;;',
                       'fsdp2) echo last words >&2; kill -9 $$;;', 'packed) exit 0;;')  # fmt: skip
    done = run(tmp_path, "--dry-run", interpreter=interpreter)
    table = rows(done.stdout)
    assert done.returncode == 1 and list(table) == list(LIMITS) and table["dino"][0] == "1.0"
    assert table["mae"][-1] == "failed with status 1: no memory / at all" and table["embed"][-1] == "failed: of that"
    assert table["largest"][0] == "1.0" and table["largest"][-1] == "64 fit; failed with status 7: no driver"
    assert table["fsdp2"][-1] == "failed with status 137: last words"
    assert table["packed"][-1] == "ended without a row" and "--- packed ---" in done.stderr
    logs = Path(re.search("stderr of all parts: (.*)", done.stderr)[1])
    assert (logs / "embed.err").read_text() == "hint\n" and "--- mae ---\nno memory | at all" in done.stderr


def test_a_part_that_hangs_ends_with_its_children_and_keeps_what_it_found(tmp_path: Path) -> None:
    script = tmp_path / "tests/benchmarks/gpu.sh"
    script.parent.mkdir(parents=True)
    script.write_text(re.sub(r"(?<=[a-z0-9]):\d+", ":1", SCRIPT.read_text("utf-8")))
    script.chmod(0o755)
    hang = 'trap "" TERM; sleep 60 & echo $! >"$TMPDIR/child"; wait; wait;;'
    interpreter = stub(tmp_path, f"product) {hang}", f'dino) echo "| dino | 1.0 | | | | | | 64 fit |"; {hang}')
    begun = time.monotonic()
    done = run(tmp_path, script=script, interpreter=interpreter)
    assert time.monotonic() - begun < 10 and done.returncode == 1
    table = rows(done.stdout)
    assert list(table) == list(LIMITS) and table["mae"][0] == "1.0"
    assert re.fullmatch("stopped after [12] s", table["product"][-1])
    assert re.fullmatch("64 fit; stopped after [12] s", table["dino"][-1])
    assert ends(tmp_path / "child")


def test_a_script_that_is_ended_ends_its_part(tmp_path: Path) -> None:
    interpreter = stub(tmp_path, 'dino) echo $$ >"$TMPDIR/new"; mv "$TMPDIR/new" "$TMPDIR/part"; exec sleep 60;;')
    variables = {**os.environ, "PYTHON": str(interpreter), "TMPDIR": str(tmp_path)}
    script = subprocess.Popen([str(SCRIPT)], env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (tmp_path / "part").exists():
        time.sleep(0.01)
    script.terminate()
    assert script.wait(10) == 130
    assert ends(tmp_path / "part")


def test_seconds_that_are_left_go_to_the_next_part(tmp_path: Path) -> None:
    """A stub of `timeout` shows what each part may take."""
    (tmp_path / "timeout").write_text('#!/bin/sh\necho "| $5 | $2 | | | | | | |"\n')
    (tmp_path / "timeout").chmod(0o755)
    variables = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "TMPDIR": str(tmp_path)}
    done = subprocess.run([str(SCRIPT)], env=variables, capture_output=True, text=True, check=True)
    limits = [int(cells[0]) for cells in rows(done.stdout).values()]
    assert limits == pytest.approx(np.cumsum(list(map(int, LIMITS.values()))), abs=3)


def test_without_a_gpu_or_with_an_unknown_word_nothing_runs(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert done.returncode == 1 and "torch sees no GPU here" in done.stderr and not rows(done.stdout)
    done = run(tmp_path, "--dryrun")
    assert done.returncode == 2 and "usage: " in done.stderr and not done.stdout


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("backend='inductor' raised:\nRuntimeError: no triton\n\nSet TORCHDYNAMO_VERBOSE=1\n",
         "failed: RuntimeError: backend='inductor' raised: RuntimeError: no triton Set TORCHDYNAMO_VERBOSE=1"),
        ("CUDA error: misaligned | address\nDevice-side assertions were explicitly omitted" + " again" * 50,
         "failed: RuntimeError: CUDA error: misaligned / address Device-side"),
    ],
)  # fmt: skip
def test_the_row_of_a_part_that_fails_says_why(message: str, told: str, monkeypatch, capsys) -> None:
    def fail(folder: Path, scale: gpu.Scale) -> gpu.Row:
        raise RuntimeError(message)

    monkeypatch.setitem(gpu.PARTS, "mae", fail)
    with pytest.raises(RuntimeError):
        gpu.measure("mae", gpu.Scale(True))
    line = capsys.readouterr().out
    assert list(line.splitlines()) == [line.strip()] and len(line) < 250
    assert rows(2 * f"{'|' * 9}\n" + line)["mae"][-1].startswith(told)


@pytest.mark.parametrize("error", ["CUDA out of memory", "CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"])
def test_the_largest_batch_is_told_whatever_the_next_one_fails_of(error: str, monkeypatch) -> None:
    def times(step, *_) -> np.ndarray:
        if step > 128:
            raise RuntimeError(error)
        return np.ones(3)

    run = SimpleNamespace(flops_per_image=1e12)
    replaced = {"begun": lambda *_: run, "one_batch": lambda run, images: images, "step_of": lambda run, batch: batch,
                "times": times}  # fmt: skip
    for name, function in replaced.items():
        monkeypatch.setattr(gpu, name, function)
    *_, before, last = gpu.largest(Path(), gpu.Scale(False))
    assert before.note.endswith("128 images fit") and last.note.endswith(
        f"128 images fit, 192 do not (RuntimeError: {error[:46]})"
    )
    assert last.images == 128
