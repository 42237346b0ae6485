"""Settings that all tests share: no network, one thread, and the folder of reference numbers."""

import functools
import gc
import os
import sys
from collections.abc import Generator
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# the first command that a test runs in this process would set them, and `preloaded.python()` then start a server anew
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")

import pytest

from tests.preloaded import share

# objects made before Python looks for garbage among them; with its own 700, that takes a twentieth of the time
YOUNG = 20_000


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(specs: list) -> None:
    """Let workers of pytest-xdist be forks of one process with torch and transformers, which each would import."""
    if sys.platform == "linux":  # elsewhere there is no such socket as `preloaded` needs
        for spec in specs:
            spec.python = spec.python or share()


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect tests without collecting garbage, which takes most of the time.

    Python walks over all objects of torch, transformers and the tests again and again while they are being made. They
    stay until the end, so it need not walk over them afterwards either.
    """
    gc.disable()
    result = yield
    gc.freeze()
    gc.enable()
    gc.set_threshold(YOUNG)
    return result


def pytest_unconfigure() -> None:
    gc.unfreeze()


@pytest.fixture(scope="session")
def reference_dir() -> Path:
    """Numbers from the reference implementations: `BIOVFM_REFERENCE_DIR`, or the copies in tests/reference."""
    return Path(os.environ.get("BIOVFM_REFERENCE_DIR", Path(__file__).parent / "reference"))


@pytest.fixture
def traced_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.compile without its code generator: graphs are traced, guarded and cached the same, and run as torch runs.

    Writing and building C++ takes 10 to 40 seconds of CPU a test; slow tests of training and evaluation do so.
    """
    import torch

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))


@pytest.fixture
def hub_without_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without a network: nothing has told huggingface_hub so, and no host name has an address."""
    import socket

    from huggingface_hub import constants

    def fail(*_: object) -> None:
        raise socket.gaierror("Name or service not known")

    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "getaddrinfo", fail)
