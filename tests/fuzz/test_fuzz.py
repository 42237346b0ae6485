"""Damaged files for a few seconds; `python -m tests.fuzz --seconds N` does it for as long as wanted."""

import os

from tests.fuzz.run import LIMITS, run

SECONDS = float(os.environ.get("BIOVFM_FUZZ_SECONDS", "8"))


def test_damaged_files_end_no_run(tmp_path):
    report = run(tmp_path, SECONDS, seed=int(os.environ.get("BIOVFM_FUZZ_SEED", "0")), least=100)
    print(report)
    formats = {name for name, _ in report.outcomes}
    assert len(formats) >= 30 and report.files >= 100
    assert sum(report.outcomes[name, "read"] > 0 for name in formats) >= 0.9 * len(formats)  # the good ones
    assert not report.plain_stopped  # what is decoded in the commands' own process
    assert not [outcome for outcome in report.outcomes if outcome[1] == "time"]
    assert report.peak <= LIMITS.memory
