"""Settings every test shares: no network, one thread, and where reference numbers lie."""

import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest


@pytest.fixture(scope="session")
def reference_dir() -> Path:
    """Numbers from the reference implementations: `BIOVFM_REFERENCE_DIR`, or the copies in tests/reference."""
    return Path(os.environ.get("BIOVFM_REFERENCE_DIR", Path(__file__).parent / "reference"))
