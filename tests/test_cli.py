"""The `biovfm` command itself: its output, its speed, and its answers to wrong arguments and missing packages."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from biovfm_hf import cli, rooms
from biovfm_hf.errors import UserError

ROOT = Path(__file__).resolve().parents[1]

# argv[1]: packages to hide, comma-separated, or "-"; the rest are the words of the command, or of several in turn with
# THEN between them, also on stderr. The last line of stderr tells the status of each, the CPU seconds at the end of
# the first, and whether torch was imported.
HARNESS = """
import sys, time
hidden = set(sys.argv[1].split(",")) - {"-"}
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in hidden:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hide())
runs = [[]]
for word in sys.argv[2:]:
    runs.append([]) if word == "THEN" else runs[-1].append(word)
ends = []
for words in runs:
    print("THEN", file=sys.stderr) if ends else None
    sys.argv = ["biovfm", *words]
    try:
        from biovfm_hf.cli import main
        status = main()
    except SystemExit as end:
        status = end.code or 0
    ends.append((status, time.process_time()))
statuses = ",".join(str(status) for status, _ in ends)
print(statuses, f"{ends[0][1]:.3f}", "torch" in sys.modules, file=sys.stderr)
sys.exit(status)
"""


def biovfm(*words: str | Path, hide: str = "-") -> tuple[int, str, list[str], float, bool]:
    """Run the command in a process of its own: status, stdout, lines of stderr, CPU seconds, whether torch came."""
    statuses, *rest = in_turn(*words, hide=hide)
    return statuses[0], *rest


def in_turn(*words: str | Path, hide: str = "-") -> tuple[list[int], str, list[str], float, bool]:
    """Run the commands between THENs in one process; as `biovfm`, with all statuses and the first one's seconds."""
    words = tuple(str(word) for word in words)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", HARNESS, hide, *words], capture_output=True, text=True, env=environment, check=False
    )
    *lines, last = done.stderr.splitlines() or [""]
    assert len(last.split()) == 3, done.stderr
    told, seconds, torch = last.split()
    statuses = [int(status) for status in told.split(",")]
    assert done.returncode == statuses[-1]
    return statuses, done.stdout, lines, float(seconds), torch == "True"


def test_help_names_every_command_at_once():
    status, out, errors, seconds, torch = biovfm("--help")
    assert (status, errors, torch) == (0, [], False)
    assert all(f"\n  {name} " in out for name in cli.COMMANDS)
    assert seconds < 0.5


@pytest.mark.parametrize("words", [["sources", "list"], ["--help"], ["sources", "list", "--json"]])
def test_a_reader_that_leaves_ends_it_quietly(words):
    """As `biovfm ... | head` does: no message, and the status of a program that SIGPIPE ended."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "biovfm_hf.cli", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, env=environment, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help_and_wrong_arguments_of_a_command_need_no_torch(command):
    statuses, out, errors, seconds, torch = in_turn(command, "--help", "THEN", command, "--no-such-option")
    assert (statuses, torch) == ([0, 2], False)
    assert out.startswith(f"usage: biovfm {command}")
    assert errors[0] == "THEN" and "error" in errors[-1]
    assert seconds < 1.5


def test_unknown_command_names_the_near_one(capsys):
    assert cli.main(["biuld"]) == 2
    assert "did you mean build?" in capsys.readouterr().err


def test_no_arguments_print_the_help(capsys):
    assert cli.main([]) == 0
    assert capsys.readouterr().out.startswith("usage: biovfm COMMAND")


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("biovfm-hf ")


def test_a_failure_is_one_line(tmp_path):
    status, out, errors, *_ = biovfm("score", tmp_path / "none.npz", "--task", "binary-class")
    assert (status, out) == (1, "")
    assert len(errors) == 1
    assert errors[0].startswith("error: ")
    assert "none.npz" in errors[0]


def test_a_missing_folder_is_named(monkeypatch):
    monkeypatch.setattr(rooms, "__file__", "/nowhere/biovfm_hf/rooms.py")
    with pytest.raises(UserError, match="carries no training/"):
        rooms.load_room_module("training.command")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "out/a.json"),
         "error: out/a.json: No space left on device; make room, and run the same command again\n"),
        (PermissionError(errno.EACCES, "Permission denied", "out"),
         "error: out: Permission denied; check it, then try again\n"),
        (OSError(errno.ENOSPC, "No space left on device", "a.png", None, "out/a.png"),
         "error: out/a.png: No space left on device; make room, and run the same command again\n"),
        (MemoryError(),
         "error: too little memory; close other programs, or use fewer workers or a smaller batch size\n"),
    ],
)  # fmt: skip
def test_an_error_of_the_system_is_one_line_with_a_remedy(monkeypatch, capsys, error, line):
    def fail(_):
        raise error

    monkeypatch.setattr(cli, "load_room_module", fail)
    assert cli.main(["build"]) == 1 and capsys.readouterr().err == line


def test_stopping_says_that_work_is_kept(monkeypatch, capsys):
    def stop(name):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "load_room_module", stop)
    assert cli.main(["build"]) == 1
    assert "continues" in capsys.readouterr().err


@pytest.fixture
def words(tmp_path):
    """The arguments with which each command gets as far as its optional packages."""
    (tmp_path / "raw" / "drive").mkdir(parents=True)
    (tmp_path / "points.csv").write_text(
        "family,params_millions,task,auc\n" + "".join(f"A,{n},x,{90 + n / 100}\n" for n in (5, 20, 80, 300))
    )
    rng = np.random.default_rng(0)
    np.savez(
        tmp_path / "scores.npz",
        test_labels=rng.integers(0, 2, 40),
        test_scores=rng.random(40),
        val_labels=rng.integers(0, 2, 40),
        val_scores=rng.random(40),
    )
    return {
        "sources": ["list"],
        "build": ["--raw", tmp_path / "raw", "--out", tmp_path / "dataset", "--sources", "drive"],
        "score": [tmp_path / "scores.npz", "--task", "binary-class"],
        "scaling": [tmp_path / "points.csv", "--out", tmp_path / "scaling"],
        "report": [tmp_path, "--out", tmp_path / "report.html"],
        "quickstart": ["--out", tmp_path / "quickstart"],
    }


@pytest.mark.parametrize(
    ("command", "package", "extra"),
    [
        ("sources", "yaml", "data"),
        ("build", "cv2", "data"),
        ("build", "pyarrow", "data"),
        ("score", "scipy", "eval"),
        ("scaling", "matplotlib", "eval"),
        ("report", "markupsafe", "cards"),
        ("quickstart", "nilearn", "demo"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(words, command, package, extra):
    status, _, errors, *_ = biovfm(command, *words[command], hide=package)
    told = [line for line in errors if line.startswith("error: ")]
    assert status == 1
    assert told == [f"error: {package} is not installed; get it with: pip install 'biovfm-hf[{extra}]'"]
    assert "Traceback" not in "\n".join(errors)


def test_a_fault_of_ours_is_not_called_a_missing_package(monkeypatch):
    def fail(name):
        raise ModuleNotFoundError("No module named 'evaluation.nothing'", name="evaluation.nothing")

    monkeypatch.setattr(cli, "load_room_module", fail)
    with pytest.raises(ModuleNotFoundError):
        cli.main(["probe"])
