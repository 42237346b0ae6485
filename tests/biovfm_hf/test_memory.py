"""Freed memory that stays with the process."""

import platform
import resource
import subprocess
import sys

import pytest

# page faults of writing 64 MiB again and again, in a process of its own: the setting is for a whole process
SCRIPT = """
import resource
from biovfm_hf.memory import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        block = bytearray(64 << 20)  # above glibc's own limit, so that it is mapped anew each time
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

plain = faults()
keep_freed_memory(block=1 << 30, total=1 << 30)
kept = faults()
print(plain, kept)
"""


def glibc_version() -> tuple[int, ...]:
    name, version = platform.libc_ver()
    return tuple(map(int, version.split("."))) if name == "glibc" else (0,)


@pytest.mark.skipif(glibc_version() < (2, 35), reason="older ones of glibc keep blocks of up to 32 MiB only")
def test_kept_memory_is_not_zeroed_again_by_the_kernel() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], check=True, capture_output=True, text=True)
    plain, kept = map(int, done.stdout.split())
    pages = (64 << 20) // resource.getpagesize()
    assert plain > 15 * pages
    assert kept < 5 * pages
