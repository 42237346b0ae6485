"""Cuts shards into units of work: whole shards while there are many, parts when there are too few for the workers.

The bytes of the dataset do not depend on the cuts: joined parts equal one pass over the shard. So a build may continue
with other numbers of workers, and finished parts are kept.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from ..plan.plan import Plan, Unit

SHARES = 4  # least number of units ahead of each worker, so that the last ones are short
SHORTEST = 0.1  # least seconds of work of a unit, those of a small volume


def cut(plan: Plan, numbers: Sequence[int], workers: int, shortest: float = SHORTEST) -> list[Unit]:
    """The remaining work of these shards, in order, in enough units to keep `workers` busy until the end.

    A shard is one unit while the work after it is many times as much. Units become shorter towards the end, down to
    `shortest` seconds. If there are still fewer units than workers, a unit gets several threads.

    Args:
        plan: the plan.
        numbers: of the shards, none of which is done.
        workers: number of workers; 0 or 1 cuts nothing.
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
    """The ranges of a shard that no part covers."""
    start = 0
    for part in done:
        if part.start > start:
            yield whole._replace(start=start, stop=part.start)
        start = max(start, part.stop)
    if start < whole.stop:
        yield whole._replace(start=start)


def _seconds(plan: Plan, unit: Unit) -> float:
    """Estimated seconds of one core for a unit."""
    if unit == plan.whole(unit.shard):
        return plan.shards[unit.shard].seconds
    return float(plan.costs(unit)[0].sum())


def _pieces(plan: Plan, unit: Unit, share: float) -> Iterator[Unit]:
    """A unit in pieces of about `share` seconds; inputs from one pass over an archive stay together."""
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
