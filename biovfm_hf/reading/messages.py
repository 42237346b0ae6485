"""Messages between a process and its workers: a pickle of few allowed classes, and the memory of its arrays."""

import io
import pickle
import socket
import struct
from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import one_line

_FRAME = struct.Struct("<cQI")  # kind, bytes of the pickle, count of buffers behind it
ITEM, END, ERROR = b"i", b"e", b"x"
_OWN = ("biovfm_hf", "dataset_builder", "training", "evaluation", "model_cards", "tests")
_NUMPY = {"_reconstruct", "ndarray", "dtype", "scalar", "_frombuffer"}


class TooMuch(Exception):
    """A worker sends more than the limit."""


class Foreign(Exception):
    """An exception of a class that is not sent over."""


def carried(error: BaseException) -> BaseException:
    """The error, if the other side accepts its class; else one with the same message."""
    if isinstance(error, MemoryError):
        return MemoryError()
    error.__traceback__ = error.__cause__ = error.__context__ = None
    try:
        _loads(pickle.dumps(error))
        return error
    except Exception:
        text = one_line(error)
        return Foreign(f"{type(error).__name__}: {text}" if text else type(error).__name__)


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


def send(channel: socket.socket, kind: bytes, value: Any) -> None:
    """Send a pickle followed by the memory of its arrays, which is not copied first."""
    buffers: list[pickle.PickleBuffer] = []
    body = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    parts = [buffer.raw() for buffer in buffers]
    sizes = struct.pack(f"<{len(parts)}Q", *(len(part) for part in parts))
    channel.sendall(_FRAME.pack(kind, len(body), len(parts)) + sizes + body)
    for part in parts:
        channel.sendall(part)


def receive(channel: socket.socket, most: int | None, loads: Callable[..., Any] = _loads) -> tuple[bytes, Any, int]:
    """Receive kind, value and size from `send`.

    Raises:
        EOFError: the other side is gone.
        TooMuch: over `most` bytes, with a page of text allowed.
    """
    kind, length, count = _FRAME.unpack(exactly(channel, _FRAME.size))
    if most is not None and count > 1 + most // 8:
        raise TooMuch
    sizes = struct.unpack(f"<{count}Q", exactly(channel, 8 * count))
    total = length + sum(sizes)
    if most is not None and total > most + (1 << 16):
        raise TooMuch
    body = exactly(channel, length)
    return kind, loads(body, buffers=[exactly(channel, size) for size in sizes]), total


def exactly(channel: socket.socket, size: int) -> memoryview:
    """The next `size` bytes.

    Raises:
        EOFError: the other side is gone.
    """
    data = np.empty(size, np.uint8).data
    done = 0
    while done < size:
        received = channel.recv_into(data[done:])
        if not received:
            raise EOFError
        done += received
    return data
