"""Real images of seven kinds through the whole builder: training parts only, everything accounted for.

The records in real_records/ map the folders as they lie; ROSSA is the catalogue's own record. Run by hand with
-m slow, and look at `figures/` of what it leaves.
"""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from dataset_builder.build import build
from dataset_builder.dataset.check import faults

REAL = Path(__file__).resolve().parents[3] / "shared" / "real"
RECORDS = Path(__file__).with_name("real_records")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(not REAL.is_dir(), reason="the real images (../shared/real) are not here"),
]


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("real") / "out"
    sources = ["rossa", *sorted(str(path) for path in RECORDS.glob("*.yaml"))]
    build(REAL, out, [",".join(sources)], workers=1, leakage="paper")
    return out


def manifest(out: Path) -> list[dict]:
    return pq.read_table(out / "manifest.parquet").to_pylist()


def test_training_parts_and_nothing_else(built):
    taken = {line["path"] for line in manifest(built) if line["sha256"]}
    train = set((REAL / "bccd/BCCD/ImageSets/Main/train.txt").read_text().split())
    assert {Path(path).stem for path in taken if path.startswith("bccd/")} == train
    assert all("/Train/Original/Images/" in path for path in taken if path.startswith("fundus/"))
    assert all("/train_manual/image/" in path for path in taken if path.startswith("rossa/"))
    counts = json.loads((built / "build.json").read_text())["sources"]
    assert counts["rossa"] == {"kept": 100, "mask": 200, "not in the training part": 100}
    assert (
        sum(n for outcome, n in counts["fundus"].items() if outcome not in ("mask", "not in the training part")) == 74
    )


def test_accounting_and_card(built):
    outcomes, found = faults(built)
    assert found == []
    assert sum(outcomes.values()) == len(manifest(built))
    card = (built / "README.md").read_text()
    for modality in ("ct", "fundus", "microscopy", "mr", "octa", "ultrasound", "x-ray"):
        assert f"samples-{modality}.png" in card
        assert (built / "figures" / f"samples-{modality}.png").is_file()


def test_copies_within_a_source_are_found(built):
    """DR-HAGIS 24 is 32, as its authors say; BUSI repeats dozens of scans."""
    lines = {line["path"]: line for line in manifest(built)}
    copies = [line for path, line in lines.items() if path.startswith("fundus/") and "duplicate" in line["outcome"]]
    assert [Path(line["path"]).stem for line in copies] == ["32"]
    assert copies[0]["detail"].endswith("/24.jpg")
    assert sum("duplicate" in line["outcome"] for line in lines.values() if line["source"] == "busi") > 50
