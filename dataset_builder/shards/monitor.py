"""What a build shows while it runs: one bar with rates, and a line for each source that is done."""

from time import monotonic
from typing import Any

from ..plan.plan import Plan
from ..progress import Progress, progress_bar, read_progress
from ..schema import KEPT


class Monitor:
    """Follows shards through their statistics and progress files; use as a context manager.

    `numbers` are the shards to be run, in `plan`. The bar counts inputs; its rate and remaining time are of inputs,
    the postfix tells pictures and megabytes per second and what was kept.
    """

    def __init__(self, plan: Plan, numbers: list[int]):
        self._plan = plan
        self._running = set(numbers)
        self._done = {"items": 0, "pictures": 0, "kept": 0, "bytes": 0}
        self._outcomes: dict[str, dict[str, int]] = {}
        self._left: dict[str, int] = {}
        for number in numbers:
            source = plan.shards[number].source
            self._left[source] = self._left.get(source, 0) + 1
        self._started = monotonic()
        total = sum(plan.shards[number].items for number in numbers)
        self._bar = progress_bar(total=total, unit=" inputs", desc="building", disable=not numbers)

    def __enter__(self) -> "Monitor":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def see(self, statistics: dict[str, Any] | None) -> None:
        """Take in the statistics of a shard that is done (None: only look at the running ones) and redraw."""
        if statistics is not None:
            self._add(statistics)
        now = [at for at in map(self._progress, sorted(self._running)) if at is not None]
        items = self._done["items"] + sum(at.item for at in now)
        pictures = self._done["pictures"] + sum(at.pictures for at in now)
        kept = self._done["kept"] + sum(at.kept for at in now)
        size = self._done["bytes"] + sum(at.bytes for at in now)
        seconds = max(monotonic() - self._started, 1e-9)
        rates = f"{pictures / seconds:.0f} img/s, {size / seconds / 2**20:.1f} MB/s"
        self._bar.set_postfix_str(f"{rates}, kept {kept:,}, dropped {pictures - kept:,}", refresh=False)
        self._bar.update(items - self._bar.n)

    def _progress(self, number: int) -> Progress | None:
        return read_progress(self._plan.progress_path(number))

    def _add(self, statistics: dict[str, Any]) -> None:
        shard = self._plan.shards[statistics["shard"]]
        self._running.discard(statistics["shard"])
        self._done["items"] += shard.items
        for name in ("pictures", "kept", "bytes"):
            self._done[name] += statistics[name]
        outcomes = self._outcomes.setdefault(shard.source, {})
        for reason, count in statistics["outcomes"].items():
            outcomes[reason] = outcomes.get(reason, 0) + count
        self._left[shard.source] -= 1
        if not self._left[shard.source]:
            self._bar.write(f"{shard.source}: {_sentence(outcomes)}")


def _sentence(outcomes: dict[str, int]) -> str:
    kept = outcomes.get(KEPT, 0)
    dropped = sorted(((n, reason) for reason, n in outcomes.items() if reason != KEPT), reverse=True)
    reasons = ", ".join(f"{n:,} {reason}" for n, reason in dropped[:4])
    return f"{kept:,} passed" + (f"; {reasons}" if reasons else "")
