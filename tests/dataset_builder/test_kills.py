"""Changes of a finished build that are killed at any moment: whatever runs next gives the bytes of a new build."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dataset_builder.build import main

ROOT = Path(__file__).resolve().parents[2]

# In copies of a finished build, a change that is killed before the nth file is renamed, linked or removed, for each of
# some n or until it ends by itself. Then the change and the earlier command run, each in a copy. Forks of one process
# that has imported the builder. One line for each n: the exit statuses, and the faults that --check finds.
KILLED = """
import json, os, shutil, signal, sys
import dataset_builder.dataset.card as card
import dataset_builder.plan.making as making
import dataset_builder.screening.duplicates as duplicates
from dataset_builder.build import build, main
from dataset_builder.dataset.check import faults

finished, (moments, change, earlier) = sys.argv[1], map(json.loads, sys.argv[2:])
making.SHARD_ITEMS, duplicates.SUBSET_SIZE = 3, 4
card.sample_sheets, card.modality_by_anatomy, card.sizes_of_datasets = (lambda *_: {},) * 3  # they take the time

def deadly(function, fatal, count=[0]):
    def changed(*args, **options):
        count[0] += 1
        if count[0] == fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **options)
    return changed

def ended(fatal, words):
    pid = os.fork()
    if not pid:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        for name in ("rename", "replace", "link", "unlink", "rmdir"):
            setattr(os, name, deadly(getattr(os, name), fatal))
        os._exit(main(words))
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

for fatal in moments:
    folders = [f"{finished}-{name}-{fatal}" for name in ("change", "earlier")]
    shutil.copytree(finished, folders[0])
    killed = ended(fatal, [*change, "--out", folders[0]]) == -signal.SIGKILL
    shutil.copytree(*folders)
    ends = [ended(0, [*words, "--out", folder]) for words, folder in zip((change, earlier), folders)]
    print(*ends, *(faults(folder)[1] for folder in map(making.Path, folders)), flush=True)
    if not killed:
        break
"""


def tree(folder: Path) -> dict[str, bytes]:
    """Rows, manifest, summary and card of a dataset."""
    files = [folder / name for name in ("README.md", "build.json")] + sorted(folder.rglob("*.parquet"))
    named = {path.relative_to(folder).as_posix(): path for path in files}
    return {name: path.read_bytes() for name, path in named.items() if not name.startswith(".build/")}


@pytest.fixture
def words(tmp_path, make, monkeypatch) -> list[str]:
    """The command for seven pictures in three shards, of which four are in the sample."""
    monkeypatch.setattr("dataset_builder.plan.making.SHARD_ITEMS", 3)
    monkeypatch.setattr("dataset_builder.screening.duplicates.SUBSET_SIZE", 4)
    for name in ("sample_sheets", "modality_by_anatomy", "sizes_of_datasets"):
        monkeypatch.setattr(f"dataset_builder.dataset.card.{name}", lambda *_: {})
    for number in range(7):
        make.png(tmp_path / "raw" / "scans" / f"{number}.png", make.picture(number))
    record = make.record(tmp_path / "records", "scans")
    return ["--raw", str(tmp_path / "raw"), "--sources", str(record), "--size", "32", "--workers", "0"]


def killed_changes(finished: Path, moments: list[int], change: list[str], earlier: list[str]) -> list[int]:
    """Run KILLED on a finished build; returns the moments of kills."""
    (finished.parent / "killed.py").write_text(KILLED)
    command = [sys.executable, str(finished.parent / "killed.py"), str(finished)]
    arguments = map(json.dumps, (moments, change, earlier))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*command, *arguments], env=environment, capture_output=True, text=True)
    ends = done.stdout.splitlines()
    assert done.returncode == 0 and set(ends) == {"0 0 [] []"}, done.stderr + done.stdout
    return moments[: len(ends)]


EVERY = list(range(1, 100))
SOME = [4, 10, 13, 20]  # decisions removed; new ones saved; one shard written; all of them, and the manifest


@pytest.mark.parametrize(
    ("applied", "moments"),
    [(False, SOME), *(pytest.param(applied, EVERY, marks=pytest.mark.slow) for applied in (False, True))],
)
def test_a_change_of_benchmarks_that_is_killed_leaves_no_decision_of_the_other(
    words, tmp_path, make, applied, moments
):
    for number in (1, 5):
        make.png(tmp_path / "benchmarks" / f"{number}.png", make.picture(number))
    plain, guarded = words, [*words, "--benchmarks", str(tmp_path / "benchmarks")]
    earlier, change = (plain, guarded) if applied else (guarded, plain)
    assert main([*earlier, "--out", str(tmp_path / "out")]) == main([*change, "--out", str(tmp_path / "new")]) == 0
    killed = killed_changes(tmp_path / "out", moments, change, earlier)
    before, after = tree(tmp_path / "out"), tree(tmp_path / "new")
    assert before.keys() == after.keys() and before != after and killed[-1] >= 20
    for number in killed:
        assert tree(tmp_path / f"out-change-{number}") == after
        assert tree(tmp_path / f"out-earlier-{number}") == before


@pytest.mark.slow
def test_another_listing_that_is_killed_at_any_moment_leaves_the_old_dataset_or_the_new_one(words, tmp_path, make):
    out, scans = tmp_path / "out", tmp_path / "raw" / "scans"
    whole = (scans / "3.png").read_bytes()
    (scans / "3.png").write_bytes(whole[:99])
    assert main([*words, "--out", str(out)]) == 0
    (scans / "3.png").write_bytes(whole)
    (scans / "6.png").unlink()
    make.png(scans / "0.png", make.picture(60))
    assert main([*words, "--out", str(tmp_path / "new")]) == 0
    killed = killed_changes(out, EVERY, [*words, "--retry-failed"], words)
    before, after = tree(out), tree(tmp_path / "new")
    assert before != after and killed[-1] > 30
    for number in killed:
        assert tree(tmp_path / f"out-change-{number}") == after
        assert tree(tmp_path / f"out-earlier-{number}") in (before, after)
