"""Worker processes on this machine that do one call after another; if one dies or stops, its call is reported lost."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from threading import Thread
from time import monotonic
from typing import Any, Generic, TypeVar

from biovfm_hf.reading.limited import DECODERS
from biovfm_hf.reading.processes import is_stopped

STOPPED_SECONDS = 10.0  # time a worker may be stopped (SIGSTOP) before it counts as lost
_END_SECONDS = 5.0
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")  # a worker is one of many


@dataclass(frozen=True)
class Lost:
    """The result of a call whose worker died."""


Key = TypeVar("Key", bound=Hashable)


@cache
def _context() -> Any:
    """The start method of processes: forked from one that has imported what they need, if the system can fork."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    # pyarrow imports pandas, if it is installed, for its first array
    context.set_forkserver_preload([f"{__package__}.shard", f"{__package__}.workers", "pandas", *DECODERS])
    with _environment(PYTHONPATH=os.pathsep.join(sys.path), **dict.fromkeys(_THREADS, "1")):
        forkserver.ensure_running()
    return context


@contextmanager
def _environment(**variables: str) -> Iterator[None]:
    """Set the environment of processes that are started within the block."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


class _Worker(Generic[Key]):
    """One process, its current call, and when that began."""

    def __init__(self, prepare: Callable[[], None] | None) -> None:
        context = _context()
        if context.get_start_method() != "forkserver":
            prepare = None  # it would find nothing imported
        self.connection, child_end = context.Pipe()
        self.process = context.Process(target=_serve, args=(child_end, prepare), daemon=True)
        self.process.start()
        child_end.close()
        self.call: Key | None = None
        self.running = monotonic()  # when it was last seen running

    @property
    def pid(self) -> int:
        return self.process.pid or 0

    def stopped(self) -> bool:
        """Whether it has been stopped for STOPPED_SECONDS; unknown, so false, without /proc."""
        if not is_stopped(self.pid):
            self.running = monotonic()
        return monotonic() - self.running > STOPPED_SECONDS

    def end(self, seconds: float) -> None:
        """Let it end by itself for some seconds, then kill it."""
        self.connection.close()
        self.process.join(seconds)
        self.process.kill()
        self.process.join()


class Workers(Generic[Key]):
    """`count` processes; each call has a key that identifies its result. Use through `workers`."""

    def __init__(self, count: int, prepare: Callable[[], None] | None = None) -> None:
        self._count, self._prepare = count, prepare
        self._all: list[_Worker[Key]] = []

    @property
    def calls(self) -> dict[Key, int]:
        """Key of each running call -> process id of its worker."""
        return {worker.call: worker.pid for worker in self._all if worker.call is not None}

    def free(self) -> bool:
        """Whether another call can begin now."""
        return len(self.calls) < self._count

    def begin(self, key: Key, function: Callable[..., Any], *args: Any) -> None:
        """Give a call to a free worker."""
        while True:
            worker = next((worker for worker in self._all if worker.call is None), None)
            if worker is None:
                worker = _Worker[Key](self._prepare)
                self._all.append(worker)
            try:
                worker.connection.send((function, args))
            except OSError:  # it died while it had nothing to do
                self._remove(worker)
                continue
            worker.call = key
            return

    def results(self, seconds: float) -> Iterator[tuple[Key, Any]]:
        """Key and result of each call that ends within `seconds`; `Lost` if its worker died or was stopped.

        Raises:
            Exception: what a call raises.
        """
        busy = {worker.connection: worker for worker in self._all if worker.call is not None}
        for connection in wait(list(busy), timeout=seconds):
            yield self._result_of(busy[connection])
        for worker in busy.values():
            if worker.call is not None and worker.stopped():
                yield worker.call, self._remove(worker)

    def lose(self, key: Key) -> None:
        """Kill the worker of a call and forget the call."""
        for worker in [worker for worker in self._all if worker.call == key]:
            self._remove(worker)

    def _result_of(self, worker: _Worker[Key]) -> tuple[Key, Any]:
        key = worker.call
        assert key is not None
        try:
            done, value = worker.connection.recv()
        except (EOFError, OSError):
            return key, self._remove(worker)
        worker.call = None
        if not done:
            raise value
        return key, value

    def _remove(self, worker: _Worker[Key]) -> Lost:
        self._all.remove(worker)
        worker.end(0)
        return Lost()

    def end(self, seconds: float) -> None:
        """End all workers; kill those that do not end within `seconds`."""
        for worker in self._all:
            worker.connection.close()
        for worker in self._all:
            worker.end(seconds)
        self._all.clear()


@contextmanager
def workers(count: int, prepare: Callable[[], None] | None = None) -> Iterator[Workers[Any]]:
    """Workers that end with the block, at once if an exception such as Ctrl-C leaves it.

    Each calls `prepare` first, while it has one thread.
    """
    crew: Workers[Any] = Workers(count, prepare)
    try:
        yield crew
    except BaseException:
        crew.end(0)
        raise
    crew.end(_END_SECONDS)


def _serve(connection: "Connection[Any, Any]", prepare: Callable[[], None] | None) -> None:
    """Answer calls until the connection closes.

    The front end handles Ctrl-C and ends the workers itself. C decoders would print on stderr, across the progress
    bar; the manifest has their complaints.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if prepare is not None:
        prepare()
    Thread(target=_end_with_parent, daemon=True).start()
    while True:
        try:
            function, args = connection.recv()
        except (EOFError, OSError):
            return
        try:
            answer = True, function(*args)
        except Exception as error:
            error.__traceback__ = None
            answer = False, error
        connection.send(answer)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
