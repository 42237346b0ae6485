"""Reads untrusted files in limited worker processes: a crash, a decompression bomb or a loop costs one file.

    from biovfm_hf.reading.limited import LIMITED

    pixels = LIMITED.call("scan.dcm", decode, "scan.dcm")              # as decode("scan.dcm")
    for picture in LIMITED.each("cine.dcm", frames, "cine.dcm"):       # an iterator, one result at a time
        ...

A call runs in a worker process with bounds on its address space, on the CPU time of the whole file, and on the size of
its results. If the worker dies (an abort in a C++ decoder, a panic in a Rust one, the out-of-memory killer), the
caller gets one `UserError`, and the next file a fresh worker within milliseconds: workers are forked from a small
process that has imported the decoders and does nothing else. Any number of threads may call at once; each has a worker
of its own while it waits. A worker serves many files, so a call costs only the copy of its result.

This keeps a run alive. It is no sandbox: a worker has the rights of the user who started it.
"""

import contextlib
import itertools
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import UserError
from .messages import ERROR, ITEM, Foreign, TooMuch
from .processes import Keeper, Worker, forked

_CALLS_PER_WORKER = 500  # a fresh one now and then frees what decoders leak
_MAX_GROWTH = 256 << 20  # most address space that a worker may keep from earlier files when it gets another
# Imported before workers are forked: pydicom would take 0.2 s in each, and the libraries of av would no longer
# fit into the memory of a worker that has read many files.
DECODERS = ("biovfm_hf.pixels", "biovfm_hf.decoding", "pydicom.pixels", "av")
_CAN_FORK = hasattr(os, "fork")  # elsewhere limits do not exist, and functions are called in this process


@dataclass(frozen=True)
class Limits:
    """Limits on reading one file.

    Attributes:
        memory: bytes of memory of a worker, its imports included.
        seconds: CPU seconds of one call, over all its results.
        patience: wall-clock seconds without a result; it ends a call that waits without computing.
        output: bytes of all results of one call.
        results: how many results one call may give.
    """

    memory: int = 1200 << 20
    seconds: float = 10.0
    patience: float = 120.0
    output: int = 1 << 30
    results: int = 100_000


class Stopped(UserError):
    """Reading a file was stopped: `reason` is "crashed", "time", "memory" or "size"."""

    def __init__(self, message: str, reason: str = "crashed") -> None:
        super().__init__(message)
        self.reason = reason


class Limited:
    """Calls functions in limited worker processes, which start on first use and end with this process.

    Args:
        limits: of each call.
        preload: modules imported before workers are forked, besides the decoders.
    """

    def __init__(self, limits: Limits | None = None, preload: Sequence[str] = ()) -> None:
        self.limits = limits or Limits()
        self.peak = 0
        """Most resident memory, in bytes, of a worker that has ended."""
        self._preload = (*DECODERS, *preload)
        self._lock = threading.Lock()
        self._keeper: Keeper | None = None
        self._idle: list[Worker] = []

    def call(self, name: str, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Run `function(*args, **kwargs)` in a worker.

        Args:
            name: what messages call the file.
            function: top-level function of a module; workers import it by name.
            args: anything that can be pickled.
            kwargs: likewise.

        Returns:
            What the function returns: numbers, text, arrays, and the package's own classes.

        Raises:
            Stopped: the worker died, or was ended for a limit.
            Exception: what the function raises; an exception that cannot be sent over becomes a UserError.
        """
        if not _CAN_FORK:
            return function(*args, **kwargs)
        try:
            return self._called(name, False, function, args, kwargs)
        except _WornOut:
            return self._called(name, True, function, args, kwargs)

    def each(self, name: str, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Iterator[Any]:
        """Yield the results of the iterator that `function(*args, **kwargs)` returns; otherwise the same as `call`."""
        if not _CAN_FORK:
            yield from function(*args, **kwargs)
            return
        given = 0
        try:
            for result in self._results(name, False, function, args, kwargs):
                given += 1
                yield result
        except _WornOut:  # a fresh worker begins again: skip the results already yielded
            yield from itertools.islice(self._results(name, True, function, args, kwargs), given, None)

    def _called(self, name: str, fresh: bool, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        with self._worker(name, fresh) as worker:
            worker.ask(False, function, args, kwargs)
            kind, value, _ = worker.answer(self.limits.output)
        return self._value(name, worker, kind, value)

    def _results(self, name: str, fresh: bool, function: Callable[..., Any], args: Any, kwargs: Any) -> Iterator[Any]:
        left = self.limits.output
        with self._worker(name, fresh) as worker:
            worker.ask(True, function, args, kwargs)
            for count in itertools.count():
                kind, value, size = worker.answer(left)
                if kind != ITEM:
                    break
                left -= size
                if count == self.limits.results:
                    raise Stopped(f"{name}: gives more than {count} pictures; leave it out", "size")
                yield value
        self._value(name, worker, kind, value)

    def fork_here(self) -> None:
        """Fork the workers' parent from this process, which is instant if the decoders are imported here.

        For a process with one thread that has just begun: the fork closes all its open files. Otherwise the parent is
        a new Python, which imports the decoders.
        """
        if _CAN_FORK:
            with self._lock:
                self._keeper = Keeper(self.limits.memory, self.limits.seconds, self._preload, forked)

    def close(self) -> None:
        """End the workers; a later call starts new ones."""
        with self._lock:
            keeper, self._keeper = self._keeper, None
            idle, self._idle = self._idle, []
        if keeper is not None:
            for worker in idle:
                self._retire(keeper, worker)
            keeper.close()

    @contextlib.contextmanager
    def _worker(self, name: str, fresh: bool) -> Iterator["Worker"]:
        """An idle or new worker; its failures are reported as failures of the file `name`."""
        keeper, worker = self._taken(fresh)
        try:
            yield worker
        except TooMuch:
            raise Stopped(f"{name}: gives more than {self.limits.output >> 20} MiB; leave it out", "size") from None
        except TimeoutError:
            reason = f"nothing was read from it for {self.limits.patience:g} s"
            raise Stopped(f"{name}: {reason}; check its disk, or leave it out", "time") from None
        except (EOFError, OSError):
            stopped = self._death(name, keeper, worker)
            if stopped.reason == "crashed" and (worker.worn_out or (worker.killed and not fresh)):
                raise _WornOut from None
            raise stopped from None
        finally:
            self._give_back(keeper, worker)

    def _value(self, name: str, worker: "Worker", kind: bytes, value: Any) -> Any:
        if kind != ERROR:
            return value
        if worker.worn_out:
            raise _WornOut
        if isinstance(value, MemoryError):
            mib = self.limits.memory >> 20
            raise Stopped(f"{name}: needs more than {mib} MiB of memory to be read; leave it out", "memory")
        if isinstance(value, Foreign):
            raise UserError(f"{name}: cannot be read ({value}); check or fetch the file again")
        raise value

    def _death(self, name: str, keeper: "Keeper", worker: "Worker") -> Stopped:
        status = self._retire(keeper, worker)
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGPROF:
            return Stopped(f"{name}: takes more than {self.limits.seconds:g} s to be read; leave it out", "time")
        how = signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else f"exit {status >> 8}"
        worker.killed = how == "SIGKILL"
        return Stopped(f"{name}: its decoder crashed ({how}); the file is damaged, check or fetch it again")

    def _taken(self, fresh: bool) -> tuple["Keeper", "Worker"]:
        with self._lock:
            if self._keeper is not None and self._keeper.owner != os.getpid():  # a fork inherited the parent's
                for worker in self._idle:
                    worker.channel.close()
                self._keeper.control.close()
                self._keeper, self._idle = None, []
            if self._keeper is None:
                self._keeper = Keeper(self.limits.memory, self.limits.seconds, self._preload)
            if self._idle and not fresh:
                return self._keeper, self._idle.pop()
            try:
                return self._keeper, self._keeper.fork(self.limits.patience)
            except (EOFError, OSError):  # it was killed, and its workers with it
                self._keeper.control.close()
                self._keeper, self._idle = Keeper(self.limits.memory, self.limits.seconds, self._preload), []
            try:
                return self._keeper, self._keeper.fork(self.limits.patience)
            except (EOFError, OSError):
                raise UserError("no process to read files can be started; free some memory, or see above") from None

    def _give_back(self, keeper: "Keeper", worker: "Worker") -> None:
        if worker.ended:
            return
        if not worker.busy and worker.measured() < _MAX_GROWTH and worker.calls < _CALLS_PER_WORKER:
            with self._lock:
                if keeper is self._keeper:
                    self._idle.append(worker)
                    return
        if worker.busy:
            os.kill(worker.pid, signal.SIGKILL)
        self._retire(keeper, worker)

    def _retire(self, keeper: "Keeper", worker: "Worker") -> int:
        """End a worker by closing its channel, and return its wait status."""
        worker.channel.close()
        worker.ended = True
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker.pid, signal.SIGCONT)  # one that was stopped would not see it
        status, peak = keeper.wait(worker.pid)
        self.peak = max(self.peak, peak)
        return status


class _WornOut(Exception):
    """A worker failed at a file after others had filled it, or was killed: a fresh one gets the file."""


LIMITED = Limited()
"""The workers of this process, with the default limits."""
