"""Functions in limited processes: results and errors come back, and the death of a process affects one call."""

import itertools
import os
import signal
import sys
import threading
import time

import numpy as np
import pytest

from biovfm_hf.errors import UserError, require
from biovfm_hf.intensity import Pixels, to_uint8
from biovfm_hf.pixels import decode
from biovfm_hf.reading.limited import Limited, Limits, Stopped
from tests.biovfm_hf.reading.leaky import leave, numbers_signalled_once, signalled_once, take, takes


@pytest.fixture
def undecoding(monkeypatch):
    """Workers that begin without the decoders, whose import takes most of a second, for calls that need none."""
    monkeypatch.setattr("biovfm_hf.reading.limited.DECODERS", ())


@pytest.fixture(scope="module")
def limited():
    workers = Limited(Limits(memory=400 << 20, seconds=1.0, patience=60.0, output=64 << 20, results=1000))
    yield workers
    workers.close()


def test_results_are_those_of_the_function(limited):
    array = np.arange(24, dtype=np.uint16).reshape(4, 6)
    pixels = limited.call("a", decode, array)
    assert isinstance(pixels, Pixels) and np.array_equal(pixels.array, array)
    assert np.array_equal(limited.call("a", to_uint8, pixels, window=(0, 23)), to_uint8(pixels, window=(0, 23)))
    assert limited.call("a", divmod, 7, 2) == (3, 1)
    assert list(limited.each("a", range, 5)) == [0, 1, 2, 3, 4]


def test_errors_of_a_function_are_raised_here(limited):
    with pytest.raises(UserError, match="no-such-module"):
        limited.call("a", require, "no-such-module", "data")
    with pytest.raises(ZeroDivisionError):
        limited.call("a", divmod, 7, 0)
    with pytest.raises(UserError, match=r"a.png: cannot be read \(SystemExit: 3\)"):  # no Exception, as Rust's panics
        limited.call("a.png", sys.exit, 3)


@pytest.mark.parametrize(
    ("function", "arguments", "reason", "words"),
    [
        (os.abort, (), "crashed", "its decoder crashed (SIGABRT)"),
        (signal.raise_signal, (signal.SIGSEGV,), "crashed", "its decoder crashed (SIGSEGV)"),
        (os._exit, (3,), "crashed", "its decoder crashed (exit 3)"),
        (sum, (range(10**12),), "time", "takes more than 1 s"),
        (np.ones, (10**9,), "memory", "needs more than 400 MiB of memory"),
        (np.ones, (10**7,), "size", "gives more than 64 MiB"),
    ],
)
def test_what_ends_a_worker_costs_one_call(limited, function, arguments, reason, words):
    begun = time.monotonic()
    with pytest.raises(Stopped) as told:
        limited.call("a.dcm", function, *arguments)
    assert told.value.reason == reason and words in str(told.value) and str(told.value).startswith("a.dcm: ")
    assert limited.call("b", abs, -1) == 1
    assert time.monotonic() - begun < 9


@pytest.mark.usefixtures("undecoding")
def test_what_waits_for_ever_is_ended():
    limited = Limited(Limits(patience=1.0))
    with pytest.raises(Stopped, match=r"a\.dcm: nothing was read from it for 1 s") as told:
        limited.call("a.dcm", time.sleep, 100)
    assert told.value.reason == "time"
    limited.close()


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
def test_who_stops_or_kills_a_worker_costs_no_file(limited, tmp_path, monkeypatch, number):
    """A new worker gets the file, which may be good; a file whose worker is killed each time is reported."""
    monkeypatch.setattr("biovfm_hf.reading.processes._CHECK_EVERY", 0.1)
    assert limited.call("a.dcm", signalled_once, number, tmp_path / "call") == 7
    assert list(limited.each("a.dcm", numbers_signalled_once, number, tmp_path / "each")) == [1, 7]
    with pytest.raises(Stopped, match="SIGKILL"):
        limited.call("a.dcm", signal.raise_signal, number)


@pytest.mark.usefixtures("undecoding")
def test_killing_the_process_that_forks_workers_loses_no_file():
    limited = Limited(Limits())
    parent, worker = limited.call("a", os.getppid), limited.call("a", os.getpid)
    os.kill(parent, signal.SIGKILL)
    with pytest.raises(ProcessLookupError):  # which the system kills with its parent
        while True:
            os.kill(worker, 0)
    assert limited.call("a", abs, -1) == 1 and limited.call("a", os.getppid) != parent
    limited.close()


def test_a_flood_of_results_is_cut_off(limited):
    with pytest.raises(Stopped, match="more than 1000 pictures"):
        list(limited.each("a", itertools.count))
    with pytest.raises(Stopped, match="more than 64 MiB"):
        list(limited.each("a", itertools.repeat, np.zeros(10**6)))
    results = limited.each("a", itertools.count)  # one that is left early leaves no worker behind
    assert next(results) == 0
    results.close()
    assert limited.call("b", abs, -1) == 1


def test_a_fresh_worker_takes_milliseconds(limited):
    limited.call("a", abs, -1)
    begun = time.monotonic()
    for _ in range(10):
        with pytest.raises(Stopped):
            limited.call("a", os.abort)
    assert (time.monotonic() - begun) / 10 < 0.2


def test_a_limit_holds_for_each_call_alone(limited):
    for _ in range(4):  # 0.4 s each, of 1 s
        limited.call("a", sum, range(2 * 10**7))


def test_many_threads_call_at_once(limited):
    sums, crashes = [], []

    def work(number):
        for turn in range(20):
            sums.append(limited.call("a", sum, range(number)) == sum(range(number)))
            if turn % 5 == 0:
                with pytest.raises(Stopped):
                    limited.call("a", os.abort)
                crashes.append(number)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sums == [True] * 80 and len(crashes) == 16


@pytest.mark.usefixtures("undecoding")
def test_nothing_is_left_running():
    own = Limited(Limits())
    own.call("a", abs, -1)
    pid = own.call("a", os.getpid)
    own.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert own.call("a", abs, -1) == 1  # it begins anew
    own.close()


def test_paths_begin_where_the_caller_is(limited, tmp_path, monkeypatch):
    limited.call("a", abs, -1)  # its worker began elsewhere
    monkeypatch.chdir(tmp_path)
    assert limited.call("a", os.getcwd) == str(tmp_path)


@pytest.fixture(scope="module")
def leaking():
    workers = Limited(Limits(memory=400 << 20), preload=("tests.biovfm_hf.reading.leaky",))
    yield workers
    workers.close()


@pytest.fixture
def filled(leaking):
    """Workers whose idle one still has 200 MiB of an earlier file; a new one has room for 300."""
    with pytest.raises(Stopped):  # a worker that has nothing of an earlier test
        leaking.call("a", os.abort)
    leaking.call("a", leave, 200 << 20)
    return leaking


@pytest.mark.parametrize("how", ["error", "outcome", "abort"])
def test_what_earlier_files_left_behind_is_no_fault_of_the_next(filled, how):
    """However a decoder reports a lack of memory, a new worker gets the file."""
    assert filled.call("b", take, 150 << 20, how) == 150 << 20
    filled.call("a", leave, 200 << 20)
    assert list(filled.each("b", takes, [10 << 20, 10 << 20, 80 << 20], how)) == [1, 2, 3]


def test_a_file_too_large_for_every_worker_is_reported(filled):
    with pytest.raises(UserError, match="a codec failed"):
        filled.call("b", take, 350 << 20, "error")
    filled.call("a", leave, 200 << 20)
    with pytest.raises(Stopped, match="crashed"):
        filled.call("b", take, 350 << 20, "abort")


def test_a_worker_that_has_kept_much_is_replaced():
    workers = Limited(Limits(memory=500 << 20), preload=("tests.biovfm_hf.reading.leaky",))
    first = workers.call("a", os.getpid)
    assert workers.call("a", os.getpid) == first
    workers.call("a", leave, 300 << 20)
    assert workers.call("a", os.getpid) != first
    workers.close()
