"""Runs units on this machine's cores; finds inputs that kill workers, and kills workers that fall silent."""

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from time import monotonic
from typing import Any

from biovfm_hf.errors import UserError

from ..limits import CRASHED, STALLED
from ..plan.plan import Plan, Unit
from ..progress import read_progress
from .workers import Lost, Workers, workers

POLL_SECONDS = 0.5
_DEATHS = 2  # deaths of workers at one input, after which it is marked
_DEATHS_OUTSIDE = 3  # deaths of workers at one unit without a current input, after which the build ends
_GAP = 30.0  # seconds between two checks; after more, this process was stopped itself, so no worker is to blame


class LocalRun:
    """Runs units in worker processes; a worker that dies, is stopped or falls silent costs one input at most.

    Args:
        work: the function of folder, raw folder and unit.
        plan: the plan.
        raw: the raw folder.
        silence: seconds without progress after which a worker is killed.
        prepare: called by each worker first.
    """

    def __init__(
        self, work: Any, plan: Plan, raw: str, silence: float, prepare: Callable[[], None] | None = None
    ) -> None:
        self._work, self._plan, self._raw, self._silence, self._prepare = work, plan, raw, silence, prepare
        self._suspects: Counter[tuple[int, int]] = Counter()
        self._deaths_outside: Counter[Unit] = Counter()
        self._waiting: deque[Unit] = deque()
        self._states: dict[Unit, tuple[Any, float]] = {}
        self._last_check = monotonic()

    def run(self, units: Sequence[Unit], count: int) -> Iterator[dict[str, Any] | None]:
        """Yield the result of each unit, and None at least every POLL_SECONDS.

        Raises:
            UserError: workers die before they begin, or cannot write their output.
        """
        self._waiting = deque(units)
        with workers(count, self._prepare) as crew:
            while self._waiting or crew.calls:
                self._assign(crew)
                yield None
                for unit, result in crew.results(POLL_SECONDS):
                    if isinstance(result, Lost):
                        self._blame(unit, CRASHED)
                    else:
                        yield result
                self._end_silent(crew)

    def _assign(self, crew: "Workers[Unit]") -> None:
        while self._waiting and crew.free():
            unit = self._waiting.popleft()
            self._plan.progress_path(unit).unlink(missing_ok=True)
            self._states.pop(unit, None)
            crew.begin(unit, self._work, str(self._plan.out), self._raw, unit)

    def _end_silent(self, crew: "Workers[Unit]") -> None:
        """Kill workers whose unit has made no progress for too long, before, during or after their work."""
        now = monotonic()
        if now - self._last_check < POLL_SECONDS:
            return
        if now - self._last_check > _GAP:
            self._states.clear()
        self._last_check = now
        for unit in crew.calls:
            state = read_progress(self._plan.progress_path(unit))
            before, since = self._states.get(unit, (None, None))
            if since is None or before != state:
                self._states[unit] = state, now
            elif now - since > self._silence:
                crew.lose(unit)
                self._blame(unit, STALLED)

    def _blame(self, unit: Unit, reason: str) -> None:
        """Suspect the current input of a lost worker, and run the unit again."""
        at = read_progress(self._plan.progress_path(unit))
        self._waiting.appendleft(unit)
        if at is None or at.item == unit.stop:
            self._deaths_outside[unit] += 1
            if self._deaths_outside[unit] == _DEATHS_OUTSIDE:
                name = self._plan.shards[unit.shard].name
                raise UserError(
                    f"workers die before they begin {name} or when they write it; free some memory or disk, raise the "
                    "limit on the size of a file (ulimit -f) if there is one, or try --workers 1"
                )
            return
        self._suspects[unit.shard, at.item] += 1
        if self._suspects[unit.shard, at.item] == _DEATHS:
            self._plan.mark(unit.shard, at.item, reason)
