"""Plans an existing build again: finished, unchanged shards stay, everything else runs."""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path

from biovfm_hf.writing.files import atomic_path, linked, write_text

from ..catalog.source import Source
from ..item import Item
from ..limits import CHANGED, CRASHED, STALLED, TOO_LARGE, UNREADABLE, UNSAFE
from ..plan.making import make_plan
from ..plan.plan import Plan, load_plan

FAILURES = {CHANGED, CRASHED, STALLED, TOO_LARGE, UNREADABLE, UNSAFE}


def plan_again(plan: Plan, sources: Iterable[Source], raw: Path) -> tuple[Plan, int]:
    """List the raw folder again and take over finished shards whose inputs are the same and have not failed.

    Returns:
        The new plan, which replaces the old one on disk, and how many shards it took over.
    """
    draft = plan.work / "again"
    shutil.rmtree(draft, ignore_errors=True)
    new = make_plan(sources, raw, draft, plan.options, plan.secret, plan.software)
    before = {shard.name: number for number, shard in enumerate(plan.shards)}
    taken = 0
    for number, shard in enumerate(new.shards):
        old = before.get(shard.name)
        if old is not None and _done(plan, old) and _listed(plan, old) == _listed(new, number):
            _take_over(plan, old, new, number)
            taken += 1
    with atomic_path(plan.work) as folder:
        new.work.rename(folder)
    return load_plan(plan.out), taken


def _listed(plan: Plan, number: int) -> tuple[list[Item], list[str]]:
    return plan.items(plan.whole(number)), plan.stamps(plan.whole(number))


def _done(plan: Plan, number: int) -> bool:
    """Whether a shard is done and none of its inputs failed."""
    path = plan.stats_path(number)
    return path.is_file() and not FAILURES & json.loads(path.read_text(encoding="utf-8"))["outcomes"].keys()


def _take_over(old: Plan, old_number: int, new: Plan, number: int) -> None:
    """Give a shard's files second names in the new plan, the completion mark last; the old plan stays complete."""
    new.rows_path(number).parent.mkdir(parents=True, exist_ok=True)
    linked(old.rows_path(old_number), new.rows_path(number))
    linked(old.candidates_path(old_number), new.candidates_path(number))
    linked(old.thumbnails_path(old_number), new.thumbnails_path(number))
    statistics = json.loads(old.stats_path(old_number).read_text(encoding="utf-8"))
    write_text(new.stats_path(number), json.dumps({**statistics, "shard": number}))
