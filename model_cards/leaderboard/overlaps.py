"""Overlaps of models' pretraining data with the tasks of a leaderboard, from the `build.json` of dataset folders."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from biovfm_hf.errors import OptionError
from biovfm_hf.hub.network import is_path
from biovfm_hf.nearest import did_you_mean

from ..inputs.leakage import Leakage, read_leakage
from .entries import Entry, fetch

SOURCES = {"fundus_vessels": ("drive", "chase-db1", "dr-hagis")}  # of tasks whose name does not tell their sources


@dataclass(frozen=True)
class Overlap:
    """What of a task's data is in a model's pretraining data, and what screening left out of these; both in words."""

    inside: str = ""
    left_out: str = ""


NONE = Overlap()


def read_overlaps(datasets: Iterable[str], entries: Iterable[Entry]) -> dict[str, dict[str, Overlap]]:
    """{model: {task: overlap}} from `datasets`, each MODEL=DATASET with a name or row of the entries.

    Raises:
        OptionError: no entry is of such a model, or a dataset has no build.json.
    """
    entries = list(entries)
    known = {name for entry in entries for name in (entry.model, entry.row)}
    pairs = [(model, dataset) for model, _, dataset in (word.partition("=") for word in datasets)]
    for model, _ in pairs:
        if model not in known:
            raise OptionError("dataset", f"no score is of a model called {model}{did_you_mean(model, known)}")
    tasks = sorted({entry.task for entry in entries})
    leakages: dict[str, list[Leakage]] = {}
    for model, dataset in pairs:
        leakages.setdefault(model, []).append(_leakage(dataset))
    return {model: {task: _overlap(own, task) for task in tasks} for model, own in leakages.items()}


def _leakage(dataset: str) -> Leakage:
    """The leakage guard's findings for a dataset folder, or for a dataset on the Hub."""
    folder = Path(dataset)
    if not folder.exists() and not is_path(dataset):
        folder = fetch(dataset, "dataset", ["build.json"])
    leakage = read_leakage(folder / "build.json")
    if leakage is None:
        raise OptionError("dataset", f"{dataset} has no build.json; give a dataset that biovfm build wrote")
    return leakage


def _overlap(leakages: list[Leakage], task: str) -> Overlap:
    parts = [part for leakage in leakages for part in _parts(leakage, task)]
    return Overlap(*("; ".join(text for text, kept in parts if kept is inside) for inside in (True, False)))


def _parts(leakage: Leakage, task: str) -> Iterator[tuple[str, bool]]:
    """What has to do with a task, in words, and whether it is in the pretraining data.

    A source counts as left out if the build kept none of its images, and as kept if build.json does not state that.
    The guard `strict` leaves out sources whose records mention the benchmark, and every build leaves out images whose
    pixels match.
    """
    connected = {source for source, *_ in leakage.overlaps}
    for source in sorted(connected | set(leakage.kept or ())):
        if _same(source, task) or source in SOURCES.get(task, ()):
            kept = _kept(leakage, source)
            yield (f"{source}: the data of this task" if kept else f"all of {source}"), kept
    for source, benchmark, relation in leakage.overlaps:
        if _same(benchmark, task):
            yield f"{source}: {relation}", leakage.mode != "strict" and _kept(leakage, source)
    for matched, count in leakage.matches.items():
        if _same(matched.rpartition(" in ")[2], task):
            yield f"{count:,} images by their pixels", False


def _kept(leakage: Leakage, source: str) -> bool:
    return leakage.kept is None or leakage.kept.get(source, 0) > 0


def _same(name: str, task: str) -> bool:
    """Whether one name has the other in whole words: `busi_raw` and `busi`, `chestxray-14` and `nih_chestxray14`."""
    return any(_joined(short) in _runs(long) for short, long in ((name, task), (task, name)) if _joined(short))


def _joined(name: str) -> str:
    return "".join(_words(name))


def _runs(name: str) -> set[str]:
    words = _words(name)
    return {"".join(words[start:end]) for start in range(len(words)) for end in range(start + 1, len(words) + 1)}


def _words(name: str) -> list[str]:
    return re.findall(r"[^\W_]+", name.lower())
