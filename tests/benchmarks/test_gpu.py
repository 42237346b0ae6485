"""A dry run of the GPU measurements: every part has its row, and a part that fails loses only its row."""

import os
import re
import subprocess
from pathlib import Path

from tests.preloaded import python

SCRIPT = Path(__file__).with_name("gpu.sh")
LIMITS = dict(re.findall(r"([a-z0-9-]+):(\d+)", SCRIPT.read_text(encoding="utf-8")))


def rows(*words: str, **environment: str) -> tuple[int, dict[str, list[str]]]:
    """The exit status, and the cells of each part's row."""
    variables = {**os.environ, "PYTHON": python(), "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run([str(SCRIPT), *words], env=variables, capture_output=True, text=True, check=False)
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines()[2:]]
    return done.returncode, {name: rest for name, *rest in cells}


def test_a_dry_run_measures_every_part() -> None:
    status, table = rows("--dry-run")
    assert status == 0 and list(table) == list(LIMITS), table
    assert all(float(milliseconds) > 0 and float(rate.replace(",", "")) > 0
               for milliseconds, rate, *_ in table.values())  # fmt: skip
    assert "separate passes" in table["packed"][-1] and table["largest"][-1] == "4 images"


def test_the_parts_take_eight_minutes_together() -> None:
    assert sum(map(int, LIMITS.values())) <= 480


def test_a_part_that_fails_costs_its_row_alone(tmp_path: Path) -> None:
    """The interpreter is a stub that fails for one part."""
    stub = tmp_path / "python"
    stub.write_text(
        '#!/bin/sh\ncase "$2" in mae) echo "no memory | at all" >&2; exit 1;; esac\necho "| $2 | 1.0 | 2.0 | | | |"\n'
    )
    stub.chmod(0o755)
    status, table = rows("--dry-run", PYTHON=str(stub))
    assert status == 1 and list(table) == list(LIMITS)
    assert table["mae"][-1] == "failed: no memory   at all" and table["dino"][0] == "1.0"
