"""Processes of this machine that do one call after another, and may die or stop: that costs the call, and is told."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from threading import Thread
from time import monotonic
from typing import Any

STOPPED_SECONDS = 10.0  # that a worker may be stopped (SIGSTOP) before it is taken for lost
_END_SECONDS = 5.0


@dataclass(frozen=True)
class Lost:
    """What stands for the result of a call whose worker died."""


class _Worker:
    """One process, the call that it is at, and since when."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()
        self.call: int | None = None
        self.running = monotonic()  # when it was last seen not to be stopped

    @property
    def pid(self) -> int:
        return self.process.pid or 0

    def stopped(self) -> bool:
        """Whether it has been stopped for STOPPED_SECONDS; where there is no /proc, nobody can tell."""
        try:
            state = Path(f"/proc/{self.pid}/stat").read_text(encoding="latin-1").rpartition(")")[2].split()[0]
        except (OSError, IndexError):
            state = ""
        if state not in ("T", "t"):
            self.running = monotonic()
        return monotonic() - self.running > STOPPED_SECONDS

    def end(self, seconds: float) -> None:
        """Let it end by itself for some seconds, then kill it."""
        self.connection.close()
        self.process.join(seconds)
        self.process.kill()
        self.process.join()


class Workers:
    """`count` processes; each call has a number by which its result is known. Use through `workers`."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._all: list[_Worker] = []

    @property
    def calls(self) -> dict[int, int]:
        """Number of each call in work -> process id of its worker."""
        return {worker.call: worker.pid for worker in self._all if worker.call is not None}

    def free(self) -> bool:
        """Whether another call can begin now."""
        return len(self.calls) < self._count

    def begin(self, number: int, function: Callable[..., Any], *args: Any) -> None:
        """Give a call to a free worker."""
        while True:
            worker = next((worker for worker in self._all if worker.call is None), None)
            if worker is None:
                worker = _Worker()
                self._all.append(worker)
            try:
                worker.connection.send((function, args))
            except OSError:  # it died while it had nothing to do
                self._remove(worker)
                continue
            worker.call = number
            return

    def results(self, seconds: float) -> Iterator[tuple[int, Any]]:
        """Number and result of each call that ends within `seconds`, `Lost` where its worker died or was stopped.

        Raises:
            Exception: what a call raises.
        """
        busy = {worker.connection: worker for worker in self._all if worker.call is not None}
        for connection in wait(list(busy), timeout=seconds):
            yield self._taken(busy[connection])  # type: ignore[index]
        for worker in busy.values():
            if worker.call is not None and worker.stopped():
                yield worker.call, self._remove(worker)

    def lose(self, number: int) -> None:
        """Kill the worker of a call, which is forgotten."""
        for worker in [worker for worker in self._all if worker.call == number]:
            self._remove(worker)

    def _taken(self, worker: _Worker) -> tuple[int, Any]:
        number = worker.call
        assert number is not None
        try:
            done, value = worker.connection.recv()
        except (EOFError, OSError):
            return number, self._remove(worker)
        worker.call = None
        if not done:
            raise value
        return number, value

    def _remove(self, worker: _Worker) -> Lost:
        self._all.remove(worker)
        worker.end(0)
        return Lost()

    def end(self, seconds: float) -> None:
        """End all, those that do not within `seconds` by force."""
        for worker in self._all:
            worker.connection.close()
        for worker in self._all:
            worker.end(seconds)
        self._all.clear()


@contextmanager
def workers(count: int) -> Iterator[Workers]:
    """Workers that end with the block, at once if it is left by an exception such as Ctrl-C."""
    crew = Workers(count)
    try:
        yield crew
    except BaseException:
        crew.end(0)
        raise
    crew.end(_END_SECONDS)


def _serve(connection: "Connection[Any, Any]") -> None:
    """Answer calls until the connection closes.

    Ctrl-C is left to the front end, which ends the workers itself. Decoders in C complain on stderr, across the
    progress bar; what they complain of is in the manifest.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
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
