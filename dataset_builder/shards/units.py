"""Units of work: whole shards while there are many, parts of them where there are fewer than workers could take.

The bytes of the dataset do not depend on the cuts: parts are put together as one pass over the shard would write it.
So a build may be continued with other workers, and what parts it finds done it keeps.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from ..plan.plan import Plan, Unit

SHARES = 4  # units that each worker has to come, at least: the last ones to end are that much shorter
SHORTEST = 0.25  # seconds of work that are worth a unit


def cut(plan: Plan, numbers: Sequence[int], workers: int, shortest: float = SHORTEST) -> list[Unit]:
    """What is left to do of these shards, in order, in units of which `workers` have enough until the end.

    A shard is one unit as long as what is left after it is many times as much; the units become shorter towards the
    end, down to `shortest` seconds. Where even so there are fewer units than workers, a unit has several threads.

    Args:
        plan: the plan.
        numbers: of the shards, none of which is done.
        workers: that take units; 0 or 1 cuts nothing.
        shortest: seconds of one core.
    """
    done = plan.parts()
    gaps = [gap for number in numbers for gap in _gaps(plan.whole(number), done.get(number, []))]
    sizes = [_seconds(plan, gap) for gap in gaps]
    left = sum(sizes)
    units: list[Unit] = []
    for gap, size in zip(gaps, sizes, strict=True):
        share = max(left / (SHARES * max(workers, 1)), shortest)
        units += [gap] if workers < 2 or size <= share else _pieces(plan, gap, share)
        left -= size
    threads = max(1, workers // max(len(units), 1))
    return [unit._replace(threads=threads) for unit in units]


def _gaps(whole: Unit, done: Sequence[Unit]) -> Iterator[Unit]:
    """What of a shard no part holds."""
    start = 0
    for part in done:
        if part.start > start:
            yield whole._replace(start=start, stop=part.start)
        start = max(start, part.stop)
    if start < whole.stop:
        yield whole._replace(start=start)


def _seconds(plan: Plan, unit: Unit) -> float:
    """Of one core that a unit will take."""
    if unit == plan.whole(unit.shard):
        return plan.shards[unit.shard].seconds
    return float(plan.costs(unit)[0].sum())


def _pieces(plan: Plan, unit: Unit, share: float) -> Iterator[Unit]:
    """A unit in pieces of about `share` seconds; what an archive gives in one pass stays together."""
    costs, follows = plan.costs(unit)
    ends = np.cumsum(costs)
    start = 0
    while start < len(costs):
        before = ends[start - 1] if start else 0.0
        stop = max(start + 1, int(np.searchsorted(ends, before + share, "right")))
        while stop < len(costs) and follows[stop]:
            stop += 1
        yield unit._replace(start=unit.start + start, stop=unit.start + stop)
        start = stop
