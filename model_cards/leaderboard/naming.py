"""Names for a leaderboard's rows and columns: models of other weights, and tasks of other data, stay apart."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from biovfm_hf.errors import UserError

from .entries import Entry

Named = Callable[[Entry], tuple[str, str]]  # the name that results give, and a digest of what it stands for
DIGITS = 8  # of a digest in a name


def apart(entries: Sequence[Entry]) -> list[Entry]:
    """The entries with different `row`s for models of one label but other weights, and `column`s for other data.

    A row is the label. If several weights have it, it says in brackets the folder, or if folders do not tell them
    apart, the revision. Columns are named in the same way by the digest of the task's data. Scores that
    state no data go with the others if those are all of the same data.

    Raises:
        UserError: neither tells two models apart.
    """
    entries = _with_data(entries)
    rows, columns = _names(entries, _weights, "revision"), _names(entries, _data, "data")
    return [replace(entry, row=rows[_weights(entry)], column=columns[_data(entry)]) for entry in entries]


def _weights(entry: Entry) -> tuple[str, str]:
    return entry.model, entry.revision or f"in {entry.folder}"


def _data(entry: Entry) -> tuple[str, str]:
    return entry.task, entry.data


def _with_data(entries: Sequence[Entry]) -> list[Entry]:
    digests: dict[str, set[str]] = {}
    for entry in entries:
        digests.setdefault(entry.task, set()).update({entry.data} - {""})
    only = {task: next(iter(known)) for task, known in digests.items() if len(known) == 1}
    return [entry if entry.data else replace(entry, data=only.get(entry.task, "")) for entry in entries]


def _names(entries: Sequence[Entry], identity: Named, what: str) -> dict[tuple[str, str], str]:
    """{(name, digest): the name to show}."""
    folders: dict[str, dict[str, dict[str, None]]] = {}
    for entry in entries:
        name, digest = identity(entry)
        folders.setdefault(name, {}).setdefault(digest, {})[entry.folder] = None
    return {(name, digest): shown for name, places in folders.items()
            for digest, shown in _shown(name, places, what).items()}  # fmt: skip


def _shown(name: str, places: dict[str, dict[str, None]], what: str) -> dict[str, str]:
    """{digest: the name to show}, from {digest: folders with it}; `what` is what the digest is of."""
    if len(places) == 1:
        return dict.fromkeys(places, name)
    labels = {digest: ", ".join(Path(folder).name for folder in folders) for digest, folders in places.items()}
    each = [Path(folder).name for folders in places.values() for folder in folders]
    if len(set(each)) < len(each):
        known = {digest: "" if digest.startswith("in ") else digest[:DIGITS] for digest in places}
        labels = {digest: f"{what} {known[digest] or 'not told'}" for digest in places}
    if len(set(labels.values())) < len(labels):
        both = " and ".join(dict.fromkeys(folder for folders in places.values() for folder in folders))
        raise UserError(f"{name} is in {both}, and nothing tells whether it is the same; rename one of the folders")
    return {digest: f"{name} ({label})" for digest, label in labels.items()}
