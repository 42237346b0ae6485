"""A dataset of thousands of shards to the Hub, killed halfway, over HTTP against tests/hub_server.

Run by hand: `pytest tests/benchmarks/test_push_many_shards.py -m slow -s`. Prints commits, uploads and CPU time of
the push itself.
"""

import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.hub_server.server import HubServer

ROOT = Path(__file__).parents[2]
SHARDS = 5_000
CARD = """---
license: other
configs:
- config_name: full
  data_files:
  - split: train
    path: data/*.parquet
---
"""
PUSH = "import sys; from biovfm_hf.cli import main; sys.exit(main(['push', *sys.argv[1:]]))"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_thousands_of_shards_once_each(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    (folder / "data").mkdir(parents=True)
    for number in range(SHARDS):
        (folder / "data" / f"s-{number:05d}.parquet").write_bytes(b"PAR1" + os.urandom(2_000))
    (folder / "README.md").write_text(CARD)
    command = [sys.executable, "-c", PUSH, str(folder), "owner/images"]
    with HubServer() as hub:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        environment |= {"PYTHONPATH": str(ROOT), "HF_ENDPOINT": hub.url, "HF_TOKEN": hub.token}
        environment |= {
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HOME": str(tmp_path / "hf"),
        }
        first = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
        while len(hub.sent("PUT", "lfs-store")) < SHARDS // 2 and first.poll() is None:
            time.sleep(0.01)
        first.kill()
        first.wait()
        killed_at = len(hub.sent("PUT", "lfs-store"))
        for _ in range(2):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            print(f"\n{done.stdout.splitlines()[0]}\n{cpu:.1f} s of CPU")
        repo, sent = hub.repos["dataset", "owner/images"], len(hub.sent("PUT", "lfs-store"))
        print(f"{SHARDS} shards, killed after {killed_at}: {sent} uploads, {len(repo.commits) - 1} commits")
        assert len(repo.at("main").files) == SHARDS + 2
        assert SHARDS <= sent <= SHARDS + 4
