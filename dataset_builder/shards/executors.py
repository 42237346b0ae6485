"""Running shards: on this machine's cores, on a Dask cluster, on SLURM; progress lies on disk, so any may die.

An engine is one entry of ENGINES. What is done is known by the shards' statistics files alone.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import sleep
from typing import Any

from biovfm_hf.errors import UserError, require

from ..limits import CRASHED
from ..plan.plan import Plan
from ..progress import read_progress
from .local import POLL_SECONDS, LocalRun
from .reading import patience

_MARGIN = 60.0  # seconds that a worker waits for one that reads, before it is itself taken to be silent

Work = Callable[[str, str, int], dict[str, Any]]


@dataclass(frozen=True)
class Resources:
    """What an engine may use.

    Attributes:
        workers: processes, or jobs at once; 0 runs in this process.
        scheduler: address of a running Dask cluster, None for a local one.
        slurm: submitit's parameters.
        item_seconds: CPU time that one input may take.
    """

    workers: int
    scheduler: str | None = None
    slurm: dict[str, Any] = field(default_factory=dict)
    item_seconds: float = 300.0


def in_process(work: Work, plan: Plan, raw: str, numbers: Sequence[int]) -> Iterator[dict[str, Any] | None]:
    """Run the shards one after another in this process: no protection against a crash, easiest to debug."""
    for number in numbers:
        yield work(str(plan.out), raw, number)


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


def _accuse(plan: Plan, number: int, item: int, reason: str) -> None:
    """Mark an input that took a worker down; a worker that dies without one in work would die for ever."""
    if item in plan.marks(number) or item == plan.shards[number].items:
        raise UserError(f"shard {number} ({plan.shards[number].name}) cannot be written; is the disk or memory full?")
    plan.mark(number, item, reason)


def _local(
    work: Work, plan: Plan, raw: str, numbers: Sequence[int], resources: Resources
) -> Iterator[dict[str, Any] | None]:
    if resources.workers == 0:
        return in_process(work, plan, raw, numbers)
    silence = patience(resources.item_seconds) + _MARGIN
    return LocalRun(work, plan, raw, silence).run(numbers, min(resources.workers, len(numbers)))


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
