"""Shards on the cores of this machine: who is suspected of killing workers, and who is silent for too long."""

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from time import monotonic
from typing import Any

from biovfm_hf.errors import UserError

from ..limits import CRASHED, STALLED
from ..plan.plan import Plan
from ..progress import read_progress
from .workers import Lost, Workers, workers

POLL_SECONDS = 0.5
_DEATHS = 2  # of workers at the same input, after which it is marked
_FRUITLESS = 3  # deaths of workers at one shard with no input in work, after which the build ends
_GAP = 30.0  # seconds between two looks, after which this process was stopped itself: nobody else is to blame


class LocalRun:
    """Runs shards in worker processes; a worker that dies, is stopped or falls silent costs one input at most.

    Args:
        work: the function of folder, raw folder and number of a shard.
        plan: the plan.
        raw: the raw folder.
        silence: seconds without progress after which a worker is killed.
    """

    def __init__(self, work: Any, plan: Plan, raw: str, silence: float) -> None:
        self._work, self._plan, self._raw, self._silence = work, plan, raw, silence
        self._suspects: Counter[tuple[int, int]] = Counter()
        self._fruitless: Counter[int] = Counter()
        self._waiting: deque[int] = deque()
        self._seen: dict[int, tuple[Any, float]] = {}
        self._looked = monotonic()

    def run(self, numbers: Sequence[int], count: int) -> Iterator[dict[str, Any] | None]:
        """Yield each shard's statistics, and None at least every POLL_SECONDS.

        Raises:
            UserError: workers die before they begin, or cannot write what they made.
        """
        self._waiting = deque(numbers)
        with workers(count) as crew:
            while self._waiting or crew.calls:
                self._assign(crew)
                yield None
                for number, result in crew.results(POLL_SECONDS):
                    if isinstance(result, Lost):
                        self._blame(number, CRASHED)
                    else:
                        yield result
                self._end_silent(crew)

    def _assign(self, crew: Workers) -> None:
        while self._waiting and crew.free():
            number = self._waiting.popleft()
            self._plan.progress_path(number).unlink(missing_ok=True)
            self._seen.pop(number, None)
            crew.begin(number, self._work, str(self._plan.out), self._raw, number)

    def _end_silent(self, crew: Workers) -> None:
        """Kill the workers whose shard has noted nothing new for too long, before, in or after their work."""
        now = monotonic()
        if now - self._looked > _GAP:
            self._seen.clear()
        self._looked = now
        for number in crew.calls:
            state = read_progress(self._plan.progress_path(number))
            before, since = self._seen.get(number, (None, None))
            if since is None or before != state:
                self._seen[number] = state, now
            elif now - since > self._silence:
                crew.lose(number)
                self._blame(number, STALLED)

    def _blame(self, number: int, reason: str) -> None:
        """Suspect the input in work of a worker that was lost, and do the shard again."""
        at = read_progress(self._plan.progress_path(number))
        self._waiting.appendleft(number)
        if at is None or at.item == self._plan.shards[number].items:
            self._fruitless[number] += 1
            if self._fruitless[number] == _FRUITLESS:
                name = self._plan.shards[number].name
                raise UserError(
                    f"workers die before they begin {name} or when they write it; free some memory or disk, or try "
                    "--workers 1"
                )
            return
        self._suspects[number, at.item] += 1
        if self._suspects[number, at.item] == _DEATHS:
            self._plan.mark(number, at.item, reason)
