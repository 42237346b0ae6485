"""What a process has used, on systems that tell it and on others."""

import subprocess
import sys

from biovfm_hf.usage import peak_memory

WITHOUT = """
import sys
sys.modules["resource"] = None  # as on Windows
import biovfm_hf.reading.limited, dataset_builder.plan.folders
from biovfm_hf.usage import limit_addresses, peak_memory, thread_waits
limit_addresses(1)
print(peak_memory(), thread_waits())
"""


def test_modules_that_count_or_limit_can_be_imported_where_the_system_has_no_limits():
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["None", "0"]


def test_peak_memory_is_in_bytes():
    assert 10 << 20 < peak_memory() < 1 << 40
