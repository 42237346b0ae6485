"""Progress display of a build: one bar with rates, and a line for each finished source."""

import os
from collections.abc import Iterator, Sequence
from time import monotonic
from typing import Any

from biovfm_hf.progress import progress_bar

from ..plan.plan import Plan, Unit
from ..progress import Progress, read_progress
from ..schema import KEPT

_LOOK_SECONDS = 0.5


class Monitor:
    """Follows units through their statistics and progress files; use as a context manager.

    `units` of `plan` are to be run. The bar counts inputs, with their rate and remaining time; the postfix shows
    pictures and megabytes per second and the counts of kept and dropped pictures.
    """

    def __init__(self, plan: Plan, units: Sequence[Unit]):
        self._plan = plan
        self._running = {plan.progress_path(unit).name: unit for unit in units}
        self._done = {"items": 0, "pictures": 0, "kept": 0, "bytes": 0}
        self._outcomes: dict[str, dict[str, int]] = {}
        self._left: dict[str, int] = {}
        for unit in units:
            source = plan.shards[unit.shard].source
            self._left[source] = self._left.get(source, 0) + unit.stop - unit.start
        self._started = self._last_look = monotonic()
        self._bar = progress_bar(total=sum(self._left.values()), unit="inputs", desc="building", disable=not units)

    def __enter__(self) -> "Monitor":
        return self

    def __exit__(self, *_: object) -> None:
        self._show()
        self._bar.close()

    def see(self, statistics: dict[str, Any] | None) -> None:
        """Add the statistics of a finished unit (None: only look at the running ones); redraw now and then."""
        if statistics is not None:
            self._add(statistics)
        if monotonic() - self._last_look > _LOOK_SECONDS:
            self._last_look = monotonic()
            self._show()

    def _show(self) -> None:
        sums = dict(self._done)
        for unit, at in self._states():
            sums["items"] += at.item - unit.start
            for name in ("pictures", "kept", "bytes"):
                sums[name] += getattr(at, name)
        seconds = max(monotonic() - self._started, 1e-9)
        rates = f"{sums['pictures'] / seconds:.0f} img/s, {sums['bytes'] / seconds / 2**20:.1f} MB/s"
        dropped = sums["pictures"] - sums["kept"]
        self._bar.set_postfix_str(f"{rates}, kept {sums['kept']:,}, dropped {dropped:,}", refresh=False)
        self._bar.update(sums["items"] - self._bar.n)

    def _states(self) -> Iterator[tuple[Unit, Progress]]:
        """The running units and their progress."""
        try:
            names = os.listdir(self._plan.work / "progress")  # noqa: PTH208 (names only)
        except FileNotFoundError:
            return
        for unit in filter(None, map(self._running.get, names)):
            at = read_progress(self._plan.progress_path(unit))
            if at is not None:
                yield unit, at

    def _add(self, statistics: dict[str, Any]) -> None:
        source = self._plan.shards[statistics["shard"]].source
        for name in self._done:
            self._done[name] += statistics[name]
        outcomes = self._outcomes.setdefault(source, {})
        for reason, count in statistics["outcomes"].items():
            outcomes[reason] = outcomes.get(reason, 0) + count
        self._left[source] -= statistics["items"]
        if not self._left[source]:
            self._bar.write(f"{source}: {_sentence(outcomes)}")


def _sentence(outcomes: dict[str, int]) -> str:
    kept = outcomes.get(KEPT, 0)
    dropped = sorted(((n, reason) for reason, n in outcomes.items() if reason != KEPT), reverse=True)
    reasons = ", ".join(f"{n:,} {reason}" for n, reason in dropped[:4])
    return f"{kept:,} passed" + (f"; {reasons}" if reasons else "")
