"""The hospital's journey of docs/your-own-data.md, command by command, on twelve made patients and a broken file."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from biovfm_hf.cli import main

PAGE = (Path(__file__).parents[1] / "docs" / "your-own-data.md").read_text()
COMMANDS = re.findall(r"^    \$ biovfm (.+)$", PAGE.replace("\\\n", ""), re.MULTILINE)


@pytest.fixture
def hospital(tmp_path, monkeypatch):
    nibabel = pytest.importorskip("nibabel")
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    lines = ["patient,label"]
    for number in range(1, 13):
        folder = tmp_path / "raw" / "clinic" / f"P{number:02d}"
        folder.mkdir(parents=True)
        volume = random.integers(0, 900, (64, 64, 6)).astype(np.int16)
        nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), folder / "scan.nii.gz")
        Image.fromarray(random.integers(0, 255, (64, 64), np.uint8)).save(folder / "view.png")
        lines.append(f"P{number:02d},{number % 2}")
    (tmp_path / "raw" / "clinic" / "P07" / "scan.nii.gz").write_bytes(b"\x1f\x8bbroken")
    (tmp_path / "patients.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "clinic.yaml").write_text(re.search(r"```yaml\n(.*?)```", PAGE, re.DOTALL)[1])
    return tmp_path


def test_the_journey_takes_at_most_ten_commands_and_none_fails(hospital, capsys):
    assert 0 < len(COMMANDS) <= 10
    printed = {}
    for command in COMMANDS:
        assert main(shlex.split(command)) == 0, command
        printed[command.split()[0]] = "".join(capsys.readouterr())
    assert "24 files are selected for training" in printed["sources"] and "subject P01" in printed["sources"]
    assert "places.parquet, for you only, has the paths and reasons of 1 unreadable files" in printed["build"]
    assert "P07/scan.nii.gz" in printed["embed"]
    assert "scan.nii.gz (1.000, the example itself)" in printed["search"]
    assert "1 of 12 volumes could not be read and are left out" in printed["probe"]
    assert (hospital / "report.html").is_file()
