"""Engines that run units: this machine's cores, a Dask cluster, SLURM; progress is on disk, so any may die.

An engine is one entry of ENGINES. Only the files of shards and parts show which work is done.
"""

import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from time import sleep
from typing import Any

from tqdm import tqdm

from biovfm_hf.errors import UserError, one_line, require
from biovfm_hf.threads import in_order
from biovfm_hf.writing.files import is_disk_full

from ..limits import CRASHED
from ..plan.plan import Plan, Unit
from ..progress import read_progress
from .local import POLL_SECONDS, LocalRun
from .reading import fork_limited_workers, patience
from .units import SHORTEST

_WORTH_SENDING = 10**6  # numbers; a core searches as many hashes in half a second, a cluster takes 0.2 s to begin
_MARGIN = 60.0  # extra seconds for a worker that waits for a reading process, before it counts as silent

Work = Callable[[str, str, Unit], dict[str, Any]]


@dataclass(frozen=True)
class Resources:
    """What an engine may use.

    Attributes:
        workers: processes, or jobs at once; 0 runs in this process.
        scheduler: address of a running Dask cluster, None for a local one.
        slurm: submitit's parameters.
        item_seconds: CPU time that one input may take.
        local_scheduler: address of the local Dask cluster, while a build has it open.
    """

    workers: int
    scheduler: str | None = None
    slurm: dict[str, Any] = field(default_factory=dict)
    item_seconds: float = 300.0
    local_scheduler: str | None = None


def in_process(work: Work, plan: Plan, raw: str, units: Sequence[Unit]) -> Iterator[dict[str, Any] | None]:
    """Run the units one after another in this process: no protection against a crash, easiest to debug."""
    for unit in units:
        yield work(str(plan.out), raw, unit)


def on_executor(
    work: Work, plan: Plan, raw: str, units: Sequence[Unit], executor: Executor, in_flight: int
) -> Iterator[dict[str, Any] | None]:
    """Run the units on any executor, at most `in_flight` at once; yield like `LocalRun`.

    The futures are polled, since the standard `wait` does not accept submitit's jobs. If the executor gives up on a
    unit because its workers died, the current input is marked and the unit runs again.
    """
    waiting = list(units)[::-1]
    futures: dict[Future, Unit] = {}
    while waiting or futures:
        while waiting and len(futures) < in_flight:
            unit = waiting.pop()
            futures[executor.submit(_on_worker, work, str(plan.out), raw, unit)] = unit
        done = [future for future in futures if future.done()]
        if not done:
            sleep(POLL_SECONDS)
            yield None
        for future in done:
            unit = futures.pop(future)
            error = future.exception()
            if error is None:
                yield future.result()
            elif type(error).__name__ in ("KilledWorker", "BrokenProcessPool", "UncompletedJobError"):
                at = read_progress(plan.progress_path(unit))
                if at is None:
                    raise UserError(
                        f"shard {unit.shard} cannot be run on this engine ({error}); see its workers' logs"
                    )
                _mark_deadly(plan, unit, at.item, CRASHED)
                waiting.append(unit)
            else:
                raise error


def _on_worker(work: Work, out: str, raw: str, unit: Unit) -> dict[str, Any]:
    """Run a unit in a worker's process, perhaps on another machine, which its errors of files name."""
    try:
        return work(out, raw, unit)
    except OSError as error:
        if is_disk_full(error):
            raise
        raise UserError(
            f"a worker on {platform.node()} failed ({one_line(error)}); it needs {out} and {raw} under these paths, "
            "on storage that all machines share"
        ) from error


@contextmanager
def _with_cluster(resources: Resources) -> Iterator[Resources]:
    """The resources with a Dask cluster: the running one, or a local one of `workers` processes until the end."""
    distributed = require("distributed", "cluster")
    if resources.scheduler is not None:
        yield resources
        return
    local = {"n_workers": resources.workers, "threads_per_worker": 1, "dashboard_address": None}
    with distributed.LocalCluster(**local) as cluster:
        yield replace(resources, local_scheduler=cluster.scheduler_address)


def _client(address: str | None) -> Any:
    return require("distributed", "cluster").Client(address, timeout="30s")


def submitit_executor(folder: str, parameters: dict[str, Any]) -> Executor:
    """An executor that submits each unit as a SLURM job (or runs it locally without SLURM)."""
    submitit = require("submitit", "cluster")
    executor = submitit.AutoExecutor(folder=folder)
    executor.update_parameters(**parameters)
    return executor


def _mark_deadly(plan: Plan, unit: Unit, item: int, reason: str) -> None:
    """Mark an input that took a worker down; a worker that dies without a current input would die every time."""
    if item in plan.marks(unit.shard) or item == unit.stop:
        name = plan.shards[unit.shard].name
        raise UserError(f"shard {unit.shard} ({name}) cannot be written; is the disk or memory full?")
    plan.mark(unit.shard, item, reason)


def _local(
    work: Work, plan: Plan, raw: str, units: Sequence[Unit], resources: Resources
) -> Iterator[dict[str, Any] | None]:
    if resources.workers == 0:
        return in_process(work, plan, raw, units)
    silence = patience(resources.item_seconds) + _MARGIN
    prepare = partial(fork_limited_workers, resources.item_seconds)
    return LocalRun(work, plan, raw, silence, prepare).run(units, min(resources.workers, len(units)))


def _dask(
    work: Work, plan: Plan, raw: str, units: Sequence[Unit], resources: Resources
) -> Iterator[dict[str, Any] | None]:
    with _client(resources.scheduler or resources.local_scheduler) as client:
        yield from on_executor(work, plan, raw, units, client.get_executor(), 1000)


def _submitit(
    work: Work, plan: Plan, raw: str, units: Sequence[Unit], resources: Resources
) -> Iterator[dict[str, Any] | None]:
    executor = submitit_executor(str(plan.work / "slurm"), resources.slurm)
    yield from on_executor(work, plan, raw, units, executor, resources.workers)


def _dask_cores(resources: Resources) -> int:
    """Threads of all workers of a running cluster; if it has none yet, its calls wait for the first."""
    if resources.scheduler is None:
        return resources.workers
    with _client(resources.scheduler) as client:
        return sum(_workers_of(client, resources.scheduler).values())


def _workers_of(client: Any, address: str) -> dict[str, int]:
    """Threads of each worker; if there is none, a line on standard error says so."""
    threads: dict[str, int] = client.ncores()
    if not threads:
        tqdm.write(
            f"{address} has no worker yet; the build waits for one: dask worker {address} --nthreads 1", sys.stderr
        )
    return threads


def _in_threads(
    resources: Resources, function: Callable[[Any, Any], Any], shared: Any, values: Sequence[Any]
) -> Iterator[Any]:
    """For functions of numpy: it releases the GIL while it sorts and compares, and `shared` is not copied."""
    return in_order(partial(function, shared), values, resources.workers)


def _on_dask_workers(
    resources: Resources, function: Callable[[Any, Any], Any], shared: Any, values: Sequence[Any]
) -> Iterator[Any]:
    """On a running cluster, if `shared`, an array, is worth sending; a local cluster would copy what threads share.

    It is sent once, to as many workers as there are values. If one dies, the others have it and take over its calls.
    """
    if resources.scheduler is None or len(shared) < _WORTH_SENDING:
        yield from _in_threads(resources, function, shared, values)
        return
    distributed = require("distributed", "cluster")
    with _client(resources.scheduler) as client:
        if not _workers_of(client, resources.scheduler):
            client.submit(int, pure=False).result()  # an adaptive cluster starts a worker only if there is work
        takers = list(client.ncores())[: len(values)]
        sent = client.scatter(shared, workers=takers, broadcast=True, hash=False)
        try:
            for call in [client.submit(function, sent, value, pure=False) for value in values]:
                yield call.result()
        except distributed.KilledWorker as error:
            raise UserError(
                f"{resources.scheduler}: workers die in the search for near duplicates ({error}); give each 2 GB of "
                "memory, or finish with --engine local"
            ) from error


@dataclass(frozen=True)
class Engine:
    """One way to run units.

    Attributes:
        run: yields the result of `work` for each finished unit, and None while it waits.
        opened: what all calls of a build share, such as a cluster; yields the resources for `run`.
        cores: how many units it can run at once.
        shortest: least work of a unit, in seconds of one core.
        spread: yields function(shared, value) for each of a few values, in their order. Each call takes seconds, less
            than a job of SLURM waits in its queue, so submitit leaves them to threads of this process.
    """

    run: Callable[[Work, Plan, str, Sequence[Unit], Resources], Iterator[dict[str, Any] | None]]
    opened: Callable[[Resources], AbstractContextManager[Resources]] = nullcontext
    cores: Callable[[Resources], int] = lambda resources: resources.workers
    shortest: float = SHORTEST
    spread: Callable[[Resources, Callable[[Any, Any], Any], Any, Sequence[Any]], Iterator[Any]] = _in_threads


ENGINES: dict[str, Engine] = {
    "local": Engine(_local),
    "dask": Engine(_dask, _with_cluster, _dask_cores, spread=_on_dask_workers),
    "submitit": Engine(_submitit, shortest=60.0),  # a job waits in a queue, and imports everything
}
"""Value of `--engine` -> what runs the units."""
