"""Running shards: on this machine's cores, on a Dask cluster, on SLURM; progress lies on disk, so any may die.

The engine is a borrowed `concurrent.futures.Executor`; what is done is known by the shards' statistics files alone.
"""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Thread
from time import monotonic, sleep
from typing import Any

from biovfm_hf.errors import UserError, require

from ..limits import CRASHED, STALLED
from ..plan.plan import Plan
from ..progress import read_progress

POLL_SECONDS = 0.5
# Fresh processes now and then return what decoders leak. Not by max_tasks_per_child, with which the standard pool may
# wait for ever once its processes have had their share (https://github.com/python/cpython/issues/115634).
_TASKS_PER_WORKER = 50

Work = Callable[[str, str, int], dict[str, Any]]


@dataclass(frozen=True)
class Resources:
    """What an engine may use.

    Attributes:
        workers: processes, or jobs at once; 0 runs in this process.
        scheduler: address of a running Dask cluster, None for a local one.
        slurm: submitit's parameters.
        item_seconds: longest time on one input.
    """

    workers: int
    scheduler: str | None = None
    slurm: dict[str, Any] = field(default_factory=dict)
    item_seconds: float = 300.0


def in_process(work: Work, plan: Plan, raw: str, numbers: Sequence[int]) -> Iterator[dict[str, Any] | None]:
    """Run the shards one after another in this process: no protection against a crash, easiest to debug."""
    for number in numbers:
        yield work(str(plan.out), raw, number)


def on_this_machine(
    work: Work, plan: Plan, raw: str, numbers: Sequence[int], workers: int, item_seconds: float
) -> Iterator[dict[str, Any] | None]:
    """Run the shards in `workers` processes; yield each one's statistics, and None at least every POLL_SECONDS.

    When a worker dies (a decoder's crash, the system out of memory) the pool is rebuilt. An input that was in work
    when a worker died twice is run alone, and marked when that worker dies too. A worker that spends more than
    `item_seconds` on one picture is killed and its input marked at once. Nothing waits for ever.
    """
    waiting, fruitless = list(numbers), 0
    alone: list[int] = []
    suspects: dict[tuple[int, int], int] = {}
    while waiting or alone:
        batch, size = ([alone.pop()], 1) if alone else (waiting[: workers * _TASKS_PER_WORKER], workers)
        finished: set[int] = set()
        stalled: dict[int, int] = {}
        with worker_pool(size) as pool:
            try:
                for result in _drained(pool, work, plan, raw, batch, item_seconds, stalled):
                    if result is not None:
                        finished.add(result["shard"])
                    yield result
            except BrokenProcessPool as error:
                in_work = _in_work(plan, batch, finished)
                fruitless = 0 if finished or in_work else fruitless + 1
                if fruitless == 3:
                    raise UserError("workers die before they begin; try --workers 1, or free some memory") from error
                for number, item in in_work.items():
                    if stalled.get(number) == item:
                        _accuse(plan, number, item, STALLED)
                    elif size == 1 and len(batch) == 1 and suspects.get((number, item), 0) >= 2:
                        _accuse(plan, number, item, CRASHED)
                    elif not stalled:
                        suspects[number, item] = suspects.get((number, item), 0) + 1
        begun = set(batch)
        waiting = [n for n in batch if n not in finished] + [n for n in waiting if n not in begun]
        accused = {number for (number, _), times in suspects.items() if times >= 2 and number in waiting}
        alone += sorted(accused)
        waiting = [number for number in waiting if number not in accused]


def on_executor(
    work: Work, plan: Plan, raw: str, numbers: Sequence[int], executor: Executor, in_flight: int
) -> Iterator[dict[str, Any] | None]:
    """Run the shards on any executor, at most `in_flight` at once; yield like `on_this_machine`.

    Its futures are asked whether they are done: submitit's jobs are no futures that the standard `wait` takes.
    A shard whose workers died too often for the executor's taste has its input in work marked and runs again.
    """
    waiting = list(numbers)[::-1]
    futures: dict[Future, int] = {}
    while waiting or futures:
        while waiting and len(futures) < in_flight:
            number = waiting.pop()
            futures[executor.submit(work, str(plan.out), raw, number)] = number
        done = [future for future in futures if future.done()]
        if not done:
            sleep(POLL_SECONDS)
            yield None
        for future in done:
            number = futures.pop(future)
            error = future.exception()
            if error is None:
                yield future.result()
            elif type(error).__name__ in ("KilledWorker", "BrokenProcessPool", "UncompletedJobError"):
                at = read_progress(plan.progress_path(number))
                if at is None:
                    raise UserError(f"shard {number} cannot be run on this engine ({error}); see its workers' logs")
                _accuse(plan, number, at.item, CRASHED)
                waiting.append(number)
            else:
                raise error


@contextmanager
def dask_executor(address: str | None, workers: int) -> Iterator[Executor]:
    """An executor on the Dask cluster at `address` (a scheduler's), or on a local cluster of `workers` processes."""
    distributed = require("distributed", "cluster")
    if address is not None:
        with distributed.Client(address, timeout="30s") as client:
            yield client.get_executor()
        return
    with (
        distributed.LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client.get_executor()


def submitit_executor(folder: str, parameters: dict[str, Any]) -> Executor:
    """An executor that submits each shard as a SLURM job (or runs it locally where there is no SLURM)."""
    submitit = require("submitit", "cluster")
    executor = submitit.AutoExecutor(folder=folder)
    executor.update_parameters(**parameters)
    return executor


def _drained(
    pool: ProcessPoolExecutor, work: Work, plan: Plan, raw: str, numbers: Sequence[int], seconds: float,
    stalled: dict[int, int],
) -> Iterator[dict[str, Any] | None]:  # fmt: skip
    futures = {pool.submit(work, str(plan.out), raw, number): number for number in numbers}
    seen: dict[int, tuple[Any, float]] = {}
    broken: BaseException | None = None
    while futures:
        done, _ = wait(futures, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
        for future in done:
            del futures[future]
            error = future.exception()
            if isinstance(error, BrokenProcessPool):
                broken = error
            elif error is not None:
                raise error
            else:
                yield future.result()
        if broken is not None and not futures:
            raise broken
        if not done:
            _kill_stalled(plan, list(futures.values()), seen, seconds, stalled)
            yield None


def _kill_stalled(
    plan: Plan, numbers: Sequence[int], seen: dict[int, tuple[Any, float]], seconds: float, stalled: dict[int, int]
) -> None:
    """Kill the worker of a shard that has noted nothing new for `seconds`."""
    for number in numbers:
        at = read_progress(plan.progress_path(number))
        if at is None or at.item == plan.shards[number].items:
            seen.pop(number, None)
            continue
        state = (at.pid, at.item, at.pictures)
        before, since = seen.get(number, (None, 0.0))
        if before != state:
            seen[number] = state, monotonic()
        elif monotonic() - since > seconds and at.pid in _children():
            stalled[number] = at.item
            os.kill(at.pid, signal.SIGKILL)


def _in_work(plan: Plan, numbers: Sequence[int], finished: set[int]) -> dict[int, int]:
    """Shard -> input in work, of shards that a dead pool leaves unfinished."""
    found = {number: read_progress(plan.progress_path(number)) for number in numbers if number not in finished}
    for number in numbers:
        plan.progress_path(number).unlink(missing_ok=True)
    return {number: at.item for number, at in found.items() if at is not None}


def _accuse(plan: Plan, number: int, item: int, reason: str) -> None:
    """Mark an input that took a worker down; a worker that dies without one in work would die for ever."""
    if item in plan.marks(number) or item == plan.shards[number].items:
        raise UserError(f"shard {number} ({plan.shards[number].name}) cannot be written; is the disk or memory full?")
    plan.mark(number, item, reason)


@contextmanager
def worker_pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """A pool whose processes end with the block, at once if it is left by an exception such as Ctrl-C."""
    others = _children()
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin_worker)
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for child in multiprocessing.active_children():
            if child.pid not in others:
                child.kill()
        raise
    pool.shutdown(wait=True, cancel_futures=True)


def _children() -> set[int | None]:
    return {child.pid for child in multiprocessing.active_children()}


def _begin_worker() -> None:
    """Leave Ctrl-C to the front end, which ends the workers itself; and end when the front end is gone.

    Decoders in C complain on stderr, across the progress bar; what they complain of is in the manifest.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _local(
    work: Work, plan: Plan, raw: str, numbers: Sequence[int], resources: Resources
) -> Iterator[dict[str, Any] | None]:
    if resources.workers == 0:
        return in_process(work, plan, raw, numbers)
    return on_this_machine(work, plan, raw, numbers, min(resources.workers, len(numbers)), resources.item_seconds)


def _dask(
    work: Work, plan: Plan, raw: str, numbers: Sequence[int], resources: Resources
) -> Iterator[dict[str, Any] | None]:
    with dask_executor(resources.scheduler, resources.workers) as executor:
        yield from on_executor(work, plan, raw, numbers, executor, 1000)


def _submitit(
    work: Work, plan: Plan, raw: str, numbers: Sequence[int], resources: Resources
) -> Iterator[dict[str, Any] | None]:
    executor = submitit_executor(str(plan.work / "slurm"), resources.slurm)
    yield from on_executor(work, plan, raw, numbers, executor, resources.workers)


Engine = Callable[[Work, Plan, str, Sequence[int], Resources], Iterator[dict[str, Any] | None]]
ENGINES: dict[str, Engine] = {"local": _local, "dask": _dask, "submitit": _submitit}
"""Value of `--engine` -> what runs `work` on the shards: statistics of each that is done, None while it waits."""
