"""Parallel map in threads, with results in order."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


def in_order(function: Callable[[Any], Any], values: Iterable[Any], threads: int) -> Iterator[Any]:
    """`map(function, values)` in this many threads; at most twice as many values are taken ahead.

    An exception from `values` is raised after the results of the values before it.
    """
    if threads < 2:
        yield from map(function, values)
        return
    source = iter(values)
    waiting: deque[Future[Any]] = deque()
    failure: BaseException | None = None
    with ThreadPoolExecutor(threads) as pool:
        while failure is None or waiting:
            while failure is None and len(waiting) < 2 * threads:
                try:
                    waiting.append(pool.submit(function, next(source)))
                except BaseException as error:
                    failure = error
            if waiting:
                yield waiting.popleft().result()
    if not isinstance(failure, StopIteration):
        raise failure
