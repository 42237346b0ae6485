"""Variables of the environment that libraries read when they are imported, with values that suit a command."""

import os
import sys

# How often a waiting thread of torch looks for work before it sleeps. Only libgomp, on Linux, reads this; its own
# default is 300,000. When other programs use the cores, a waiting thread takes a core from the one that it waits for.
SPINS = "3000"


def prepare_libraries() -> None:
    """Set the variables that the user has not set. Call it before torch or the Hub's libraries are imported."""
    if not sys.stderr.isatty():  # no progress bars of libraries in a log
        for library in ("HF_HUB", "HF_DATASETS"):
            os.environ.setdefault(f"{library}_DISABLE_PROGRESS_BARS", "1")
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
