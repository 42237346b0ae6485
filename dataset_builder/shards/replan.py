"""Plans an existing build again: finished, unchanged shards stay, everything else runs.

Another listing has files of its own, until its plan takes the place of the old one. So the build can continue after a
kill at any moment, with the old plan or the new one, and the folder stays locked.
"""

from collections.abc import Iterable
from dataclasses import replace
from itertools import count
from pathlib import Path

from ..catalog.source import Source
from ..item import Item
from ..limits import CHANGED, CRASHED, STALLED, TOO_LARGE, UNREADABLE, UNSAFE
from ..plan.making import listed_plan
from ..plan.plan import Plan, load_plan, remove_earlier, save_plan
from ..plan.statistics import read_statistics

FAILURES = {CHANGED, CRASHED, STALLED, TOO_LARGE, UNREADABLE, UNSAFE}


def plan_again(plan: Plan, sources: Iterable[Source], raw: Path) -> tuple[Plan, int]:
    """List the raw folder again and keep finished shards whose inputs are the same and have not failed.

    Returns:
        The new plan, which replaces the old one on disk, and how many shards it keeps.
    """
    remove_earlier(plan)  # so that numbers of files that are in no plan are free
    empty = replace(plan, raw=str(raw.resolve()), listing=plan.listing + 1)
    new, kept = _with_files(listed_plan(sources, raw, empty), plan)
    (plan.work / "complete.json").unlink(missing_ok=True)  # neither plan is complete from here on
    save_plan(new)
    remove_earlier(new)
    return load_plan(plan.out), kept


def _with_files(new: Plan, old: Plan) -> tuple[Plan, int]:
    """The new plan, in which shards that stay have their files of the old one; and how many these are."""
    finished = {old.shards[number].name: number for number in _finished(old)}
    if not old.has_items():  # they are lost, and with them what the shards were made from
        finished = {}
    free = count(1 + max(shard.file for shard in old.shards))
    files: list[int] = []
    for number, shard in enumerate(new.shards):
        before = finished.get(shard.name)
        if before is not None and _listed(old, before) == _listed(new, number):
            files.append(old.shards[before].file)
        else:
            files.append(next(free))
    shards = [replace(shard, file=file) for shard, file in zip(new.shards, files, strict=True)]
    return replace(new, shards=tuple(shards)), len({shard.file for shard in old.shards}.intersection(files))


def _listed(plan: Plan, number: int) -> tuple[list[Item], list[str]]:
    return plan.items(plan.whole(number)), plan.stamps(plan.whole(number))


def _finished(plan: Plan) -> list[int]:
    """Shards that are done, none of whose inputs failed."""
    done = read_statistics(plan).statistics
    return [number for number, one in enumerate(done) if one is not None and not FAILURES & one["outcomes"].keys()]
