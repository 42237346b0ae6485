"""Parallel maps in threads, with results in order."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

LANES = 8  # threads at most that call torch; more would wait for Python's lock


def in_order(function: Callable[[Any], Any], values: Iterable[Any], threads: int) -> Iterator[Any]:
    """`map(function, values)` in this many threads; at most twice as many values are taken ahead.

    An exception from `values` is raised after the results of the values before it. After one from `function`, or when
    the caller stops, values that no thread has begun are dropped.
    """
    if threads < 2:
        yield from map(function, values)
        return
    source = iter(values)
    waiting: deque[Future[Any]] = deque()
    failure: BaseException | None = None
    pool = ThreadPoolExecutor(threads)
    try:
        while failure is None or waiting:
            while failure is None and len(waiting) < 2 * threads:
                try:
                    waiting.append(pool.submit(function, next(source)))
                except BaseException as error:
                    failure = error
            if waiting:
                yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
    if not isinstance(failure, StopIteration):
        raise failure


def torch_lanes() -> tuple[int, int]:
    """How many threads share the threads of torch, and how many each of them gets."""
    import torch

    each = -(-torch.get_num_threads() // LANES)
    return torch.get_num_threads() // each, each


def in_lanes(function: Callable[[Any], Any], values: Iterable[Any]) -> Iterator[Any]:
    """`map(function, values)` in threads that share the threads of torch.

    So one core does not wait for another within an operation, and what torch does in one thread runs on all cores.
    """
    import torch

    cores = torch.get_num_threads()
    lanes, each = torch_lanes()

    def work(value: Any) -> Any:
        torch.set_num_threads(each)  # applies to the calling thread and to threads that start later
        return function(value)

    try:
        yield from in_order(work, values, lanes)
    finally:
        torch.set_num_threads(cores)
