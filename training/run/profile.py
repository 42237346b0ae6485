"""Profiles some steps of a run: which operations take the time, and where a GPU waits."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from biovfm_hf.writing.files import atomic_path, write_text

_FIRST = 3  # first steps, left out because they allocate memory and choose kernels
_ROWS = 40


@contextmanager
def profiled(out: Path, steps: int) -> Iterator[Callable[[], None]]:
    """Record `steps` steps with torch.profiler into `out`/profile; yields a function to call after each step.

    `trace.json` opens in Perfetto (https://ui.perfetto.dev) or chrome://tracing; `operations.txt` lists the slowest
    operations. With `steps` 0 nothing is recorded.
    """
    if not steps:
        yield lambda: None
        return
    os.environ.setdefault(
        "KINETO_LOG_LEVEL", "99"
    )  # otherwise it logs messages about itself, and about GPUs that do not exist
    activities = [torch.profiler.ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(
        activities=activities,
        schedule=torch.profiler.schedule(skip_first=_FIRST, wait=0, warmup=1, active=steps, repeat=1),
        on_trace_ready=lambda profile: _write(profile, out / "profile"),
    ) as profile:
        yield profile.step


def _write(profile: torch.profiler.profile, folder: Path) -> None:
    with atomic_path(folder / "trace.json") as path:
        profile.export_chrome_trace(str(path))
    by = "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
    write_text(folder / "operations.txt", profile.key_averages().table(sort_by=by, row_limit=_ROWS) + "\n")
