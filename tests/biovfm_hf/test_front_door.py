"""The front door: each command as a function with its options as keywords, and examples that run."""

import dataclasses
import inspect
import os
import runpy
import subprocess
from pathlib import Path

import pytest

import biovfm_hf
from biovfm_hf.errors import UserError
from biovfm_hf.front_door import COMMANDS, FUNCTIONS, open_door
from biovfm_hf.rooms import load_room_module
from tests.hub_server.server import HubServer
from tests.preloaded import with_torch

ROOT = Path(__file__).resolve().parents[2]

# Runs the examples of all functions in one process and one folder: each goes on from the one before.
EXAMPLES = """
import doctest, sys
import biovfm_hf
from biovfm_hf.front_door import FUNCTIONS
names, failed = {}, 0
for name in FUNCTIONS:
    test = doctest.DocTestParser().get_doctest(getattr(biovfm_hf, name).__doc__, names, name, None, None)
    assert test.examples, name
    failed += doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, clear_globs=False).failed
    names = test.globs
sys.exit(failed)
"""


def test_every_command_has_a_function():
    assert set(COMMANDS) - {"quickstart", "sources", "demo"} == set(FUNCTIONS) - {"load_encoder"}
    assert set(FUNCTIONS) < set(biovfm_hf.__all__) and set(FUNCTIONS) < set(dir(biovfm_hf))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_keywords_are_the_fields_of_the_options(name):
    function, entry = getattr(biovfm_hf, name), FUNCTIONS[name]
    room = load_room_module(entry.module)
    kind = getattr(room, entry.options or f"{name.capitalize()}Options", None)
    parameters = inspect.signature(function).parameters
    if kind is not None:
        assert set(parameters) == {field.name for field in dataclasses.fields(kind)}
    assert function.__name__ == name and function.__module__ == "biovfm_hf"
    assert all(f"    {parameter}: " in function.__doc__ for parameter in parameters)


def test_examples_run(tmp_path):
    with HubServer() as hub:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        environment |= {"HF_ENDPOINT": hub.url, "HF_TOKEN": hub.token, "HF_HOME": str(tmp_path / "hf")}
        environment |= {"HF_HUB_DISABLE_XET": "1", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [with_torch(), "-c", EXAMPLES],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_stubs_agree_with_the_code():
    stubs = runpy.run_path(str(ROOT / "docs" / "stubs.py"))
    assert stubs["TARGET"].read_text(encoding="utf-8") == stubs["stubs"](), "run: python docs/stubs.py"


def test_wrong_values_are_reported_by_name():
    with pytest.raises(UserError, match="size"):
        biovfm_hf.build(raw="raw", out="dataset", size=3)
    with pytest.raises(TypeError, match="no_such_option"):
        biovfm_hf.build(raw="raw", out="dataset", no_such_option=1)
    with pytest.raises(AttributeError, match="biuld"):
        _ = biovfm_hf.biuld


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    def lack(name):
        raise ModuleNotFoundError("No module named 'pyarrow'", name="pyarrow")

    monkeypatch.setattr("biovfm_hf.front_door.load_room_module", lack)
    with pytest.raises(UserError, match=r"pyarrow is not installed.*biovfm-hf\[data\]"):
        open_door("build")
