"""A Python whose processes begin with torch and transformers loaded: each is a fork of a server that has them.

Most of what a command of ours costs in a test is the import of torch and transformers, six seconds of CPU time.
`python()` is the path of an executable that takes `-m MODULE`, `-c CODE` or a script with its words, as
`sys.executable` does: the same environment, folder, streams, signals and exit status, in a process of its own, whose
number `number_of` tells. Tests of what is imported when, or of the interpreter itself, use `sys.executable`.

A server of `python()` is itself a fork, of one that has torch and other packages that read no setting of the Hub;
`with_torch()` begins there. A server of other settings so costs two seconds instead of seven.

The workers of pytest-xdist are such forks too, and use the servers of the process that started them (`share`).
"""

import array
import atexit
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FIRST = ("torch", "torch._dynamo", "torch.distributed.tensor", "torchvision", "scipy.stats", "sklearn.linear_model",
         "safetensors.torch")  # fmt: skip
THEN = (
    "transformers", "transformers.modeling_utils", "transformers.loss.loss_utils", "transformers.quantizers",
    "transformers.integrations.finegrained_fp8", "datasets", "accelerate",
)  # fmt: skip
# huggingface_hub and transformers read these when they are imported, so each set of them has a server of its own
READ_AT_IMPORT = ("HF_", "TRANSFORMERS_", "HUGGINGFACE_")
READ_LATER = ("HF_TOKEN", "HF_MODULES_CACHE")  # by huggingface_hub, and by `_become`
KILL = signal.SIGUSR2
SHARED = "PRELOADED_SERVERS"  # variable of the environment: key of a server, as JSON -> its executable
_servers: dict[tuple | None, tuple[str, subprocess.Popen]] = {}


def python(environment: dict[str, str] | None = None) -> str:
    """The executable whose processes have the Hub's settings of `environment` (this process's, if none is given)."""
    variables = os.environ if environment is None else environment
    fixed = {name: value for name, value in variables.items()
             if name.startswith(READ_AT_IMPORT) and name not in READ_LATER}  # fmt: skip
    return _server(tuple(sorted(fixed.items())), {n: value for n, value in variables.items() if n not in READ_LATER})


def with_torch() -> str:
    """The executable whose processes begin with torch, and without transformers, huggingface_hub and datasets."""
    return _server(None, dict(os.environ))


def share() -> str:
    """`python()`, which processes started from here on share with this one, and `with_torch()` too."""
    executable = python()
    servers = {json.dumps(key): path for key, (path, _) in _servers.items()}
    os.environ.setdefault(SHARED, json.dumps(servers))
    return executable


def send(process: subprocess.Popen, number: int) -> None:
    """Send a signal, SIGKILL too, to a process of `python()`; once `process` has ended, it is gone."""
    process.send_signal(KILL if number == signal.SIGKILL else number)


def number_of(process: subprocess.Popen) -> int:
    """The number of the process that does the work; that of `process` stands for it before the parent alone."""
    file = Path(process.args[0]).with_name(f"{process.pid}.pid")  # type: ignore[index]
    while not file.exists() and process.poll() is None:
        time.sleep(0.005)
    return int(file.read_text())


def _server(key: tuple | None, environment: dict[str, str]) -> str:
    """The executable of the server of `key`; None is the first one, which the others are forks of."""
    shared = json.loads(os.environ.get(SHARED, "{}")).get(json.dumps(key))
    if shared is not None:
        return shared
    if key not in _servers or _servers[key][1].poll() is not None:
        interpreter, modules = (sys.executable, FIRST) if key is None else (with_torch(), THEN)
        _servers[key] = _start(environment, interpreter, modules)
    return _servers[key][0]


def _start(environment: dict[str, str], interpreter: str, modules: tuple[str, ...]) -> tuple[str, subprocess.Popen]:
    folder = Path(tempfile.mkdtemp(prefix="preloaded-"))
    executable, place = folder / "python", folder / "socket"
    executable.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S {__file__} {place} "$@"\n')
    executable.chmod(0o755)
    server = subprocess.Popen(  # its standard input ends with this process, and so does it
        [interpreter, __file__, "--serve", str(place), *modules], env=environment, stdin=subprocess.PIPE, cwd=folder
    )
    while not place.exists() and server.poll() is None:
        time.sleep(0.005)
    atexit.register(_stop, folder, server)
    return str(executable), server


def _stop(folder: Path, server: subprocess.Popen) -> None:
    import shutil

    server.stdin.close()  # type: ignore[union-attr]
    server.wait()
    shutil.rmtree(folder, ignore_errors=True)


# --- the server ----------------------------------------------------------------------------------------------------


def serve(place: Path, modules: list[str]) -> None:
    """Load the modules, then fork a process for each caller at the socket `place`, until standard input ends."""
    import gc
    import importlib
    import select

    listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    bound = place.with_suffix(".new")
    listening.bind(str(bound))
    listening.listen(64)
    bound.rename(place)
    for name in modules:
        importlib.import_module(name)
    gc.freeze()  # what is here stays: no fork walks over it, or copies it, to find garbage
    woken, wakes = os.pipe()
    os.set_blocking(wakes, False)
    signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    callers: dict[int, socket.socket] = {}
    while True:
        ready = select.select([0, woken, listening, *callers.values()], [], [])[0]
        if 0 in ready:
            break
        if woken in ready:
            os.read(woken, 4096)
            _reap(callers)
        for pid in [pid for pid, caller in callers.items() if caller in ready]:
            os.kill(pid, signal.SIGKILL)  # a caller says no more: it was killed
            callers.pop(pid).close()
        if listening in ready:
            caller = listening.accept()[0]
            message, streams, _, _ = socket.recv_fds(caller, 1 << 20, 3)
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for other in (listening, caller, *callers.values()):
                    other.close()
                os.close(woken)
                os.close(wakes)
                _become(json.loads(message), streams)
            for stream in streams:
                os.close(stream)
            caller.send(str(pid).encode())
            callers[pid] = caller
    for pid in callers:
        os.kill(pid, signal.SIGKILL)
    os._exit(0)  # taking torch apart takes a second, and some of its packages then complain of one another


def _reap(callers: dict[int, socket.socket]) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        caller = callers.pop(pid, None)
        if caller is not None:
            with contextlib.suppress(OSError):  # the caller may be killed in this moment
                caller.send(str(os.waitstatus_to_exitcode(status)).encode())
            caller.close()


def _become(task: dict, streams: list[int]) -> None:
    """Be the process that a caller describes: its streams, environment, folder and words."""
    import torch

    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    of_server = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:] = [folder for folder in sys.path[1:] if folder not in of_server]
    os.environ.clear()
    os.environ.update(task["environment"])
    os.chdir(task["folder"])
    torch.set_num_threads(int(task["environment"].get("OMP_NUM_THREADS", torch.get_num_threads())))
    if "transformers" in sys.modules:
        from transformers import dynamic_module_utils

        modules = dynamic_module_utils.HF_MODULES_CACHE
        dynamic_module_utils.HF_MODULES_CACHE = task["environment"].get("HF_MODULES_CACHE", modules)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os._exit(_status(task["words"]))


def _status(words: list[str]) -> int:
    """Run as the interpreter does, through the end of the process."""
    import traceback

    status = 0
    try:
        _run(words)
    except SystemExit as leave:
        if isinstance(leave.code, str):
            print(leave.code, file=sys.stderr)
        status = leave.code if isinstance(leave.code, int) else int(leave.code is not None)
    except KeyboardInterrupt:
        traceback.print_exc()
        _flush()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:
        traceback.print_exc()
        status = 1
    import threading

    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    _flush()
    return status


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()


def _run(words: list[str]) -> None:
    import runpy

    while words[0].startswith("-") and words[0] not in ("-m", "-c"):
        if words.pop(0) == "-W":
            words.pop(0)
    path = [folder for folder in os.environ.get("PYTHONPATH", "").split(os.pathsep) if folder]
    sys.path[:] = path + sys.path
    if words[0] == "-c":
        sys.argv = ["-c", *words[2:]]
        del sys.modules["__main__"].__file__  # processes of multiprocessing would run this file again
        sys.path.insert(0, "")
        exec(compile(words[1], "<string>", "exec"), sys.modules["__main__"].__dict__)
    elif words[0] == "-m":
        sys.argv = words[1:]
        sys.path.insert(0, str(Path.cwd()))
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = words
        sys.path.insert(0, str(Path(words[0]).resolve().parent))
        runpy.run_path(words[0], run_name="__main__")


# --- the caller ----------------------------------------------------------------------------------------------------


def call(path: str, words: list[str]) -> None:
    """Stand for the server's process: hand over the streams, pass signals on, end as it ends."""
    server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    server.connect(path)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    task = json.dumps({"words": words, "environment": dict(os.environ), "folder": str(Path.cwd())}).encode()
    pid = 0
    waiting: list[int] = []

    def pass_on(number: int, _: object) -> None:
        number = signal.SIGKILL if number == KILL else number
        os.kill(pid, number) if pid else waiting.append(number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, KILL):
        signal.signal(number, pass_on)
    streams = array.array("i", [0, 1, 2])
    server.sendmsg([task], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, streams)])
    pid = int(server.recv(64))
    named = Path(path).with_name(f"{os.getpid()}.new")
    named.write_text(str(pid))
    named.rename(named.with_suffix(".pid"))
    for number in waiting:
        os.kill(pid, number)
    status = int(server.recv(64) or -signal.SIGKILL)
    if status < 0:
        signal.signal(-status, signal.SIG_DFL) if -status != signal.SIGKILL else None
        os.kill(os.getpid(), -status)
    os._exit(status)


if __name__ == "__main__":
    if sys.argv[1] == "--serve":
        serve(Path(sys.argv[2]), sys.argv[3:])
    else:
        call(sys.argv[1], sys.argv[2:])
