"""The statistics of a plan's shards, read once for all of them."""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from biovfm_hf.threads import in_order

from .plan import Plan

THREADS = 16  # they wait for the disk, whose latency they hide


class Statistics(NamedTuple):
    """The statistics of shards at one moment.

    Attributes:
        numbers: of the shards.
        names: of their files.
        statistics: of each, None if it is not done.
    """

    numbers: Sequence[int]
    names: list[str]
    statistics: list[dict[str, Any] | None]

    def unfinished(self) -> list[int]:
        """Shards that are not done yet."""
        return [number for number, one in zip(self.numbers, self.statistics, strict=True) if one is None]

    def outcomes(self) -> dict[str, int]:
        """Count of each outcome in the shards that are done."""
        counts: Counter[str] = Counter()
        for one in self.statistics:
            counts.update(one["outcomes"] if one else {})
        return dict(counts)

    def digest(self) -> str:
        """A digest of what the shards hold, in order; another one after each change."""
        state = list(zip(self.names, self.statistics, strict=True))
        return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def read_statistics(plan: Plan, numbers: Sequence[int] | None = None) -> Statistics:
    """The statistics of these shards, or of all."""
    numbers = range(len(plan.shards)) if numbers is None else numbers
    names = [plan.shards[number].name for number in numbers]
    return Statistics(numbers, names, list(in_order(plan.statistics, numbers, THREADS)))
