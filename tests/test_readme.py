"""Every command in the README runs, on the folder that a (shortened) quickstart leaves."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def commands() -> list[str]:
    found = [line.strip()[2:].split("  #")[0].strip() for line in README.splitlines() if line.startswith("    $ ")]
    return [command for command in found if not command.startswith("biovfm push")]  # needs a Hub: tests/model_cards


def test_the_readme_shows_no_placeholders_and_its_files_exist() -> None:
    assert "@@" not in README
    for link in re.findall(r"\]\(((?!https?:)[^)#]+)\)", README):
        assert (ROOT / link).exists(), link


@pytest.mark.timeout(900)
def test_every_command_runs(tmp_path: Path) -> None:
    for name in ("biovfm_hf", "dataset_builder", "training", "evaluation", "model_cards", "tests"):
        (tmp_path / name).symlink_to(ROOT / name)
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    start = (
        "from biovfm_hf.quickstart import raw, tasks; from pathlib import Path;"
        "raw.lay_out(Path('biovfm-quickstart/raw'));"
        "tasks._PATCHES.update(train=60, val=30, test=60); tasks.write_tasks(Path('biovfm-quickstart/tasks'))"
    )
    for words in ([sys.executable, "-c", start], *(shlex.split(command) for command in commands())):
        if words[0] == "biovfm":
            words = [sys.executable, "-m", "biovfm_hf.cli", *words[1:]]
        elif words[:2] == ["accelerate", "launch"]:
            words = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1", *words[2:]]
        done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
    for made in ("my-dataset/manifest.parquet", "run/model/README.md", "my-results/results.json", "report.html"):
        assert (tmp_path / made).is_file(), made
