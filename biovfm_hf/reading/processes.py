"""The processes in which files are read: a keeper, which has imported the decoders, and workers that it forks.

`Keeper` and `Worker` are the ends of the process that asks; `keep` runs in the keeper, and `_work` in each worker.
"""

import contextlib
import ctypes
import importlib
import json
import os
import pickle
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from ..memory import keep_memory_of_pictures, keep_one_arena
from ..usage import limit_addresses
from .messages import END, ERROR, ITEM, carried, exactly, receive, send

_REQUEST = struct.Struct("<cq")  # to the keeper: fork a worker, or report how worker PID ended
_ENDED = struct.Struct("<qq")  # wait status, peak of resident memory in KiB
_MUCH_GROWTH = 32 << 20  # beyond it a failed file is tried again in a fresh worker
_START = 120.0  # seconds until the process that workers are forked from has imported all, on a busy machine
_CHECK_EVERY = 5.0  # seconds between two checks of a worker that sends nothing
_PR_SET_PDEATHSIG = 1


@dataclass
class Worker:
    """A forked process that answers calls, one at a time, through its channel."""

    pid: int
    channel: socket.socket
    calls: int = 0
    busy: bool = False
    ended: bool = False
    killed: bool = False  # by somebody, or by the system for want of memory: no decoder ends so
    mapped: int = 0  # bytes of address space when it began
    growth: int = 0  # bytes that it has mapped since, when last measured

    @property
    def worn_out(self) -> bool:
        """Whether memory kept from earlier files may have made this one fail: a fresh worker then tries it again.

        Decoders report a lack of memory in as many ways as there are libraries, and some of them crash.
        """
        return self.calls > 1 and self.growth > _MUCH_GROWTH

    def measured(self) -> int:
        """Bytes of address space that it has mapped since it began, as far as /proc shows."""
        self.growth = _mapped(self.pid) - self.mapped
        return self.growth

    def ask(self, many: bool, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Begin a call to a function, which may return an iterator."""
        self.calls += 1
        self.busy = True
        send(self.channel, ITEM, (Path.cwd(), many, function, args, kwargs))  # base of relative paths

    def answer(self, most: int) -> tuple[bytes, Any, int]:
        """The next message: kind, value, and size in bytes, which is `most` at most."""
        self._await()
        message = receive(self.channel, most)
        self.busy = message[0] == ITEM
        if message[0] == ERROR:
            self.measured()
        return message

    def _await(self) -> None:
        """Wait until a message begins. A process that somebody has stopped (SIGSTOP) sends none, and is killed.

        Raises:
            TimeoutError: nothing came within the channel's time.
        """
        poll, left, stopped = select.poll(), self.channel.gettimeout() or 0.0, False
        poll.register(self.channel, select.POLLIN)
        while not poll.poll(1000 * min(left, _CHECK_EVERY)):
            left -= _CHECK_EVERY
            if left <= 0:
                raise TimeoutError
            before, stopped = stopped, is_stopped(self.pid)
            if before and stopped:  # in two checks, because Ctrl-Z stops this process too, and it may continue first
                os.kill(self.pid, signal.SIGKILL)


class _Child:
    """A process forked from this one."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def wait(self) -> None:
        """Wait until it ends."""
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)


def _spawned(end: socket.socket, settings: str) -> "subprocess.Popen[bytes]":
    """A new Python that serves `keep`."""
    one_thread = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    code = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import keep; keep(sys.argv)"
    return subprocess.Popen(
        [sys.executable, "-c", code, str(end.fileno()), settings],
        pass_fds=[end.fileno()],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        env={**os.environ, **one_thread},
    )


def forked(end: socket.socket, settings: str) -> _Child:
    """A fork of this process that serves `keep` and keeps nothing else open."""
    pid = os.fork()
    if pid:
        return _Child(pid)
    try:
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nothing, stream)
        os.closerange(3, end.fileno())
        os.closerange(end.fileno() + 1, os.sysconf("SC_OPEN_MAX"))
        keep(["", str(end.fileno()), settings])
    finally:
        os._exit(0)


class Keeper:
    """The process that workers are forked from: it has imported the decoders, and reads no file itself."""

    def __init__(
        self,
        memory: int,
        seconds: float,
        preload: Sequence[str],
        start: Callable[[socket.socket, str], "subprocess.Popen[bytes] | _Child"] = _spawned,
    ) -> None:
        self.owner = os.getpid()
        self.control, end = socket.socketpair()
        self.control.settimeout(_START)
        self._lock = threading.Lock()
        settings = json.dumps({"memory": memory, "seconds": seconds, "preload": list(preload)})
        with end:
            self._process = start(end, settings)

    def fork(self, patience: float) -> Worker:
        """A new worker.

        Raises:
            EOFError, OSError: the keeper is gone, or does not answer.
        """
        with self._lock:
            self.control.sendall(_REQUEST.pack(b"f", 0))
            data, handles, _, _ = socket.recv_fds(self.control, _REQUEST.size, 1)
        if not handles:
            raise EOFError
        channel = socket.socket(fileno=handles[0])
        channel.settimeout(patience)
        pid = _REQUEST.unpack(data)[1]
        return Worker(pid, channel, mapped=_mapped(pid))

    def wait(self, pid: int) -> tuple[int, int]:
        """How a worker ended, and its peak memory in bytes."""
        with self._lock:
            try:
                self.control.sendall(_REQUEST.pack(b"w", pid))
                status, peak = _ENDED.unpack(exactly(self.control, _ENDED.size))
            except (EOFError, OSError):  # the keeper was killed, and its workers with it
                return int(signal.SIGKILL), 0
        return status, peak << 10

    def close(self) -> None:
        """End it and its workers."""
        self.control.close()
        self._process.wait()


def keep(argv: list[str]) -> None:
    """Serve the process that started this one: fork workers, and report how they ended, until its socket closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal; our parent ends us
    settings = json.loads(argv[2])
    for module in settings["preload"]:
        with contextlib.suppress(ImportError):  # its extra is not installed; files that need it will report that
            importlib.import_module(module)
    control = socket.socket(fileno=int(argv[1]))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # C decoders print there, across progress bars
    living: set[int] = set()
    with contextlib.suppress(EOFError, OSError):
        while True:
            act, pid = _REQUEST.unpack(exactly(control, _REQUEST.size))
            if act == b"w":
                _, status, usage = os.wait4(pid, 0)
                living.discard(pid)
                control.sendall(_ENDED.pack(status, usage.ru_maxrss))
                continue
            parent_end, child_end = socket.socketpair()
            pid = os.fork()
            if not pid:
                control.close()
                parent_end.close()
                _work(child_end, settings["memory"], settings["seconds"])
            child_end.close()
            living.add(pid)
            socket.send_fds(control, [_REQUEST.pack(b"f", pid)], [parent_end.fileno()])
            parent_end.close()
    for pid in living:
        os.kill(pid, signal.SIGKILL)


def _work(channel: socket.socket, memory: int, seconds: float) -> NoReturn:
    """Answer calls until the channel closes, within `memory` bytes and `seconds` of CPU time for each."""
    try:
        _limit_memory(memory)
        keep_memory_of_pictures()
        keep_one_arena()  # each decoder thread would reserve 64 or 128 MiB of address space for good
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        while True:
            _, (folder, many, function, args, kwargs), _ = receive(channel, None, pickle.loads)
            os.chdir(folder)
            signal.setitimer(signal.ITIMER_PROF, seconds)
            _answer(channel, many, function, args, kwargs)
            signal.setitimer(signal.ITIMER_PROF, 0)
    except (EOFError, OSError):
        os._exit(0)
    finally:
        os._exit(1)


def _answer(channel: socket.socket, many: bool, function: Callable[..., Any], args: Any, kwargs: Any) -> None:
    kind, value = END, None
    try:
        value = function(*args, **kwargs)
        if many:
            for result in value:
                send(channel, ITEM, result)
            value = None
    except BaseException as error:  # a panic of a Rust decoder is not an Exception
        kind, value = ERROR, carried(error)
    send(channel, kind, value)


def _limit_memory(memory: int) -> None:
    """Bound the address space so that no more than `memory` bytes can be resident; Linux only."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 - no path to keep
        pages = [int(number) for number in file.read().split()[:2]]
    mapped, resident = (number * os.sysconf("SC_PAGE_SIZE") for number in pages)
    room = max(memory - resident, 64 << 20)
    limit_addresses(mapped + room)


def is_stopped(pid: int) -> bool:
    """Whether a process is stopped (SIGSTOP, Ctrl-Z); False where there is no /proc."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="latin-1").rpartition(")")[2].split()[0] in ("T", "t")
    except (OSError, IndexError):
        return False


def _mapped(pid: int) -> int:
    """Bytes of address space that a process has mapped; 0 if unknown."""
    try:
        with open(f"/proc/{pid}/statm", encoding="ascii") as file:  # noqa: PTH123 - once for each file that is read
            return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0
