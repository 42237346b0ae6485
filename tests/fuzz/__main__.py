"""`python -m tests.fuzz --seconds 600`: read damaged files for that long, and report the outcomes."""

import argparse
import sys
import tempfile
from pathlib import Path

from tests.fuzz.run import LIMITS, run


def main() -> int:
    """Returns 1 where a file ended this process' own decoders, hung, or took more than the limit of memory."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="files at once")
    parser.add_argument("--start", type=int, default=0, help="number of the first file")
    parser.add_argument("--files", type=int, default=10**9, help="at most this many")
    parser.add_argument("--keep", type=Path, help="folder for the files that ended their process")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        report = run(folder, options.seconds, options.seed, options.jobs, options.start, options.files)
    print(report)
    slow = any(outcome == "time" for _, outcome in report.outcomes)
    return int(bool(report.plain_stopped) or slow or report.peak > LIMITS.memory)


if __name__ == "__main__":
    sys.exit(main())
