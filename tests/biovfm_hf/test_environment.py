"""The environment of libraries: what commands and scripts set, and what they leave to the user."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from biovfm_hf.cli import main
from biovfm_hf.environment import SPINS, prepare_libraries
from training.command import run_script

VARIABLES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS")


@pytest.fixture(autouse=True)
def unset(monkeypatch):
    for name in VARIABLES:
        monkeypatch.setenv(name, "")  # so that the test's end restores what stood there
        monkeypatch.delenv(name)


def settings() -> dict[str, str]:
    return {name: os.environ[name] for name in VARIABLES if name in os.environ}


WRONG = ["--config", "dino_smoke", "--dry-run", "model.x=1"]  # refused before torch is imported


@pytest.mark.parametrize(
    "start", [lambda: main(["sources", "list"]), lambda: run_script("dino", WRONG)], ids=["command", "script"]
)
def test_a_command_and_a_script_set_what_libraries_read(start, capsys):
    start()
    bars = ("HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS")
    assert settings() == {"GOMP_SPINCOUNT": SPINS, **{name: "1" for name in bars}}  # stderr is not a terminal here


def test_what_the_user_set_stays(monkeypatch):
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "0")
    prepare_libraries()
    assert (os.environ["GOMP_SPINCOUNT"], os.environ["HF_HUB_DISABLE_PROGRESS_BARS"]) == ("7", "0")


@pytest.mark.parametrize("policy", ["ACTIVE", "PASSIVE"])
def test_a_policy_of_the_user_leaves_the_spins_to_the_library(monkeypatch, policy):
    monkeypatch.setenv("OMP_WAIT_POLICY", policy)
    prepare_libraries()
    assert "GOMP_SPINCOUNT" not in os.environ


def test_the_library_of_torch_takes_the_number_of_spins():
    """libgomp itself says what it read; loaded without torch, which takes seconds."""
    torch = importlib.util.find_spec("torch")
    assert torch is not None
    assert torch.origin is not None
    libraries = sorted(Path(torch.origin).parent.glob("lib/libgomp*"))
    if not libraries:
        pytest.skip("this torch uses another OpenMP library")
    prepared = "from biovfm_hf.environment import prepare_libraries; prepare_libraries()"
    code = f"{prepared}; import ctypes; ctypes.CDLL({str(libraries[0])!r})"
    environment = {**os.environ, "OMP_DISPLAY_ENV": "verbose", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert f"GOMP_SPINCOUNT = '{SPINS}'" in done.stderr
