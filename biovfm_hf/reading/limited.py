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
import ctypes
import importlib
import io
import itertools
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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from ..errors import UserError, one_line
from ..memory import keep_memory_of_pictures, keep_one_arena
from ..usage import limit_addresses

_REQUEST = struct.Struct("<cq")  # to the keeper: fork a worker, or report how worker PID ended
_ENDED = struct.Struct("<qq")  # wait status, peak of resident memory in KiB
_FRAME = struct.Struct("<cQI")  # kind, bytes of the pickle, count of buffers behind it
_ITEM, _END, _ERROR = b"i", b"e", b"x"
_CALLS_PER_WORKER = 500  # a fresh one now and then frees what decoders leak
_MAX_GROWTH = 256 << 20  # most address space that a worker may keep from earlier files when it gets another
_MUCH_GROWTH = 32 << 20  # beyond it a failed file is tried again in a fresh worker
_START = 120.0  # seconds until the process that workers are forked from has imported all, on a busy machine
_CHECK_EVERY = 5.0  # seconds between two checks of a worker that sends nothing
_PR_SET_PDEATHSIG = 1
# Imported before workers are forked: pydicom would take 0.2 s in each, and the libraries of av would no longer
# fit into the memory of a worker that has read many files.
DECODERS = ("biovfm_hf.pixels", "biovfm_hf.decoding", "pydicom.pixels", "av")
_CAN_FORK = hasattr(os, "fork")  # elsewhere limits do not exist, and functions are called in this process
_OWN = ("biovfm_hf", "dataset_builder", "training", "evaluation", "model_cards", "tests")
_NUMPY = {"_reconstruct", "ndarray", "dtype", "scalar", "_frombuffer"}


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
        self._keeper: _Keeper | None = None
        self._idle: list[_Worker] = []

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
                if kind != _ITEM:
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
                self._keeper = _Keeper(self.limits, self._preload, _forked)

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
    def _worker(self, name: str, fresh: bool) -> Iterator["_Worker"]:
        """An idle or new worker; its failures are reported as failures of the file `name`."""
        keeper, worker = self._taken(fresh)
        try:
            yield worker
        except _TooMuch:
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

    def _value(self, name: str, worker: "_Worker", kind: bytes, value: Any) -> Any:
        if kind != _ERROR:
            return value
        if worker.worn_out:
            raise _WornOut
        if isinstance(value, MemoryError):
            mib = self.limits.memory >> 20
            raise Stopped(f"{name}: needs more than {mib} MiB of memory to be read; leave it out", "memory")
        if isinstance(value, _Foreign):
            raise UserError(f"{name}: cannot be read ({value}); check or fetch the file again")
        raise value

    def _death(self, name: str, keeper: "_Keeper", worker: "_Worker") -> Stopped:
        status = self._retire(keeper, worker)
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGPROF:
            return Stopped(f"{name}: takes more than {self.limits.seconds:g} s to be read; leave it out", "time")
        how = signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else f"exit {status >> 8}"
        worker.killed = how == "SIGKILL"
        return Stopped(f"{name}: its decoder crashed ({how}); the file is damaged, check or fetch it again")

    def _taken(self, fresh: bool) -> tuple["_Keeper", "_Worker"]:
        with self._lock:
            if self._keeper is not None and self._keeper.owner != os.getpid():  # a fork inherited the parent's
                for worker in self._idle:
                    worker.channel.close()
                self._keeper.control.close()
                self._keeper, self._idle = None, []
            if self._keeper is None:
                self._keeper = _Keeper(self.limits, self._preload)
            if self._idle and not fresh:
                return self._keeper, self._idle.pop()
            try:
                return self._keeper, self._keeper.fork(self.limits.patience)
            except (EOFError, OSError):  # it was killed, and its workers with it
                self._keeper.control.close()
                self._keeper, self._idle = _Keeper(self.limits, self._preload), []
            try:
                return self._keeper, self._keeper.fork(self.limits.patience)
            except (EOFError, OSError):
                raise UserError("no process to read files can be started; free some memory, or see above") from None

    def _give_back(self, keeper: "_Keeper", worker: "_Worker") -> None:
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

    def _retire(self, keeper: "_Keeper", worker: "_Worker") -> int:
        """End a worker by closing its channel, and return its wait status."""
        worker.channel.close()
        worker.ended = True
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker.pid, signal.SIGCONT)  # one that was stopped would not see it
        status, peak = keeper.wait(worker.pid)
        self.peak = max(self.peak, peak)
        return status


@dataclass
class _Worker:
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
        _send(self.channel, _ITEM, (Path.cwd(), many, function, args, kwargs))  # base of relative paths

    def answer(self, most: int) -> tuple[bytes, Any, int]:
        """The next message: kind, value, and size in bytes, which is `most` at most."""
        self._await()
        message = _receive(self.channel, most)
        self.busy = message[0] == _ITEM
        if message[0] == _ERROR:
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
    """A new Python that serves `_keep`."""
    one_thread = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    code = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import _keep; _keep(sys.argv)"
    return subprocess.Popen(
        [sys.executable, "-c", code, str(end.fileno()), settings],
        pass_fds=[end.fileno()],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        env={**os.environ, **one_thread},
    )


def _forked(end: socket.socket, settings: str) -> _Child:
    """A fork of this process that serves `_keep` and keeps nothing else open."""
    pid = os.fork()
    if pid:
        return _Child(pid)
    try:
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nothing, stream)
        os.closerange(3, end.fileno())
        os.closerange(end.fileno() + 1, os.sysconf("SC_OPEN_MAX"))
        _keep(["", str(end.fileno()), settings])
    finally:
        os._exit(0)


class _Keeper:
    """The process that workers are forked from: it has imported the decoders, and reads no file itself."""

    def __init__(
        self,
        limits: Limits,
        preload: Sequence[str],
        start: Callable[[socket.socket, str], "subprocess.Popen[bytes] | _Child"] = _spawned,
    ) -> None:
        self.owner = os.getpid()
        self.control, end = socket.socketpair()
        self.control.settimeout(_START)
        self._lock = threading.Lock()
        settings = json.dumps({"limits": asdict(limits), "preload": list(preload), "path": sys.path})
        with end:
            self._process = start(end, settings)

    def fork(self, patience: float) -> _Worker:
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
        return _Worker(pid, channel, mapped=_mapped(pid))

    def wait(self, pid: int) -> tuple[int, int]:
        """How a worker ended, and its peak memory in bytes."""
        with self._lock:
            try:
                self.control.sendall(_REQUEST.pack(b"w", pid))
                status, peak = _ENDED.unpack(_exactly(self.control, _ENDED.size))
            except (EOFError, OSError):  # the keeper was killed, and its workers with it
                return int(signal.SIGKILL), 0
        return status, peak << 10

    def close(self) -> None:
        """End it and its workers."""
        self.control.close()
        self._process.wait()


class _WornOut(Exception):
    """A worker failed at a file after others had filled it, or was killed: a fresh one gets the file."""


class _TooMuch(Exception):
    """A worker sends more than the limit."""


class _Foreign(Exception):
    """An exception of a class that is not sent over."""


def _keep(argv: list[str]) -> None:
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
            act, pid = _REQUEST.unpack(_exactly(control, _REQUEST.size))
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
                _work(child_end, Limits(**settings["limits"]))
            child_end.close()
            living.add(pid)
            socket.send_fds(control, [_REQUEST.pack(b"f", pid)], [parent_end.fileno()])
            parent_end.close()
    for pid in living:
        os.kill(pid, signal.SIGKILL)


def _work(channel: socket.socket, limits: Limits) -> NoReturn:
    """Answer calls until the channel closes."""
    try:
        _limit_memory(limits.memory)
        keep_memory_of_pictures()
        keep_one_arena()  # each decoder thread would reserve 64 or 128 MiB of address space for good
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        while True:
            _, (folder, many, function, args, kwargs), _ = _receive(channel, None, pickle.loads)
            os.chdir(folder)
            signal.setitimer(signal.ITIMER_PROF, limits.seconds)
            _answer(channel, many, function, args, kwargs)
            signal.setitimer(signal.ITIMER_PROF, 0)
    except (EOFError, OSError):
        os._exit(0)
    finally:
        os._exit(1)


def _answer(channel: socket.socket, many: bool, function: Callable[..., Any], args: Any, kwargs: Any) -> None:
    kind, value = _END, None
    try:
        value = function(*args, **kwargs)
        if many:
            for result in value:
                _send(channel, _ITEM, result)
            value = None
    except BaseException as error:  # a panic of a Rust decoder is not an Exception
        kind, value = _ERROR, _carried(error)
    _send(channel, kind, value)


def _carried(error: BaseException) -> BaseException:
    """The error, if the other side accepts its class; else one with the same message."""
    if isinstance(error, MemoryError):
        return MemoryError()
    error.__traceback__ = error.__cause__ = error.__context__ = None
    try:
        _loads(pickle.dumps(error))
        return error
    except Exception:
        text = one_line(error)
        return _Foreign(f"{type(error).__name__}: {text}" if text else type(error).__name__)


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


class _Loader(pickle.Unpickler):
    """Unpickles a worker's messages: arrays, plain values, the package's own classes and standard exceptions."""

    def find_class(self, module: str, name: str) -> Any:
        """The class, if it is one of those."""
        if module.split(".")[0] == "numpy" and name in _NUMPY:
            return super().find_class(module, name)
        if module.split(".")[0] in _OWN or module == "builtins":
            kind = super().find_class(module, name)
            if isinstance(kind, type) and (module != "builtins" or issubclass(kind, Exception | slice | range)):
                return kind
        raise pickle.UnpicklingError(f"{module}.{name} is not taken from a worker")


def _loads(data: Any, buffers: Any = ()) -> Any:
    return _Loader(io.BytesIO(data), buffers=buffers).load()


def _send(channel: socket.socket, kind: bytes, value: Any) -> None:
    """Send a pickle followed by the memory of its arrays, which is not copied first."""
    buffers: list[pickle.PickleBuffer] = []
    body = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    parts = [buffer.raw() for buffer in buffers]
    sizes = struct.pack(f"<{len(parts)}Q", *(len(part) for part in parts))
    channel.sendall(_FRAME.pack(kind, len(body), len(parts)) + sizes + body)
    for part in parts:
        channel.sendall(part)


def _receive(channel: socket.socket, most: int | None, loads: Callable[..., Any] = _loads) -> tuple[bytes, Any, int]:
    """Receive kind, value and size from `_send`.

    Raises:
        EOFError: the other side is gone.
        _TooMuch: over `most` bytes, with a page of text allowed.
    """
    kind, length, count = _FRAME.unpack(_exactly(channel, _FRAME.size))
    if most is not None and count > 1 + most // 8:
        raise _TooMuch
    sizes = struct.unpack(f"<{count}Q", _exactly(channel, 8 * count))
    total = length + sum(sizes)
    if most is not None and total > most + (1 << 16):
        raise _TooMuch
    body = _exactly(channel, length)
    return kind, loads(body, buffers=[_exactly(channel, size) for size in sizes]), total


def _exactly(channel: socket.socket, size: int) -> memoryview:
    data = np.empty(size, np.uint8).data
    done = 0
    while done < size:
        received = channel.recv_into(data[done:])
        if not received:
            raise EOFError
        done += received
    return data


LIMITED = Limited()
"""The workers of this process, with the default limits."""
