"""A process of `preloaded.python()` is one of the interpreter: words, streams, folder, status, signals."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from .preloaded import SHARED, number_of, python, send, with_torch

TELL = "import json, os, sys; print(json.dumps([sys.argv, os.getcwd(), os.environ['A'], sys.stdin.read()]))"


@pytest.mark.parametrize("form", ["code", "script", "module"])
def test_words_folder_environment_and_streams_are_those_of_the_interpreter(form: str, tmp_path: Path) -> None:
    (tmp_path / "tell.py").write_text(TELL)
    words = {"code": ["-c", TELL], "script": ["tell.py"], "module": ["-m", "tell"]}[form]
    answers = []
    for executable in (sys.executable, python()):
        done = subprocess.run(
            [executable, *words, "x", "--y"], cwd=tmp_path, env={**os.environ, "A": "b"}, input="in",
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        answers.append(json.loads(done.stdout))
    assert answers[0] == answers[1]


@pytest.mark.parametrize("code", ["raise SystemExit('no')", "import sys; sys.exit(3)", "1 / 0", "pass"])
def test_the_end_is_that_of_the_interpreter(code: str) -> None:
    ends = [
        subprocess.run([executable, "-c", code], capture_output=True, text=True)
        for executable in (sys.executable, python())
    ]
    assert ends[0].returncode == ends[1].returncode
    assert ends[0].stderr.splitlines()[-1:] == ends[1].stderr.splitlines()[-1:]


def test_torch_is_loaded_and_this_package_is_not() -> None:
    code = "import sys; print('torch' in sys.modules, 'transformers' in sys.modules, 'biovfm_hf' in sys.modules)"
    told = [subprocess.run([executable, "-c", code], capture_output=True, text=True).stdout
            for executable in (python(), with_torch())]  # fmt: skip
    assert told == ["True True False\n", "True False False\n"]


def test_a_server_that_is_shared_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SHARED, json.dumps({json.dumps(None): "/elsewhere/python"}))
    code = "from tests.preloaded import with_torch; print(with_torch())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "/elsewhere/python\n" == f"{with_torch()}\n"


def test_a_process_sees_its_own_folders_and_settings_and_none_of_the_server(tmp_path: Path) -> None:
    (tmp_path / "training.py").write_text("")
    code = (
        "import huggingface_hub, importlib.util, training;"
        "print(training.__file__, importlib.util.find_spec('evaluation'), huggingface_hub.constants.ENDPOINT)"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "HF_ENDPOINT": "http://nowhere"}
    words = [python(environment), "-c", code]
    done = subprocess.run(words, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == f"{tmp_path / 'training.py'} None http://nowhere\n"


def test_signals_reach_it_and_a_kill_leaves_nothing() -> None:
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(100)"
    process = subprocess.Popen([python(), "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and int(process.stdout.readline())
    process.terminate()
    assert process.wait() == -signal.SIGTERM
    process = subprocess.Popen([python(), "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    assert number_of(process) == pid
    send(process, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
