"""The registry of screening rules: every rule keeps an image or gives a reason, and a further rule is one entry."""

import importlib

import numpy as np
import pyarrow.parquet as pq
import pytest

from dataset_builder.build import build
from dataset_builder.readers.picture import Picture, whole
from dataset_builder.screening.rules import RULES, judged


def slice_of(pixels: np.ndarray) -> Picture:
    return Picture(pixels, "axial", 3, (1.0, 1.0), pixels.shape[1], pixels.shape[0])


GOOD = np.arange(64 * 64, dtype=np.uint8).reshape(64, 64)
DROPPED = {
    "aspect_ratio": (whole(np.tile(GOOD, (1, 3))), "aspect ratio"),
    "large_enough": (whole(GOOD[:20, :20]), "too small"),
    "not_constant": (whole(GOOD * 0 + 7), "blank"),
    "not_padding": (slice_of(np.where(np.arange(64 * 64).reshape(64, 64) < 9, 200, 0).astype(np.uint8)), "padding"),
}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_every_rule_keeps_or_states_why_not(rule):
    assert rule.__name__ in DROPPED, "add a picture that it drops, and the reason, to DROPPED"
    picture, reason = DROPPED[rule.__name__]
    assert rule(picture) == reason and rule.__doc__.startswith("Drop ")
    assert rule(whole(GOOD)) is None and rule(slice_of(GOOD)) is None
    assert judged(picture, RULES) == reason and judged(whole(GOOD), RULES) is None


@pytest.mark.parametrize("workers", [0, 1])
def test_a_rule_is_added_by_one_entry(tmp_path, make, monkeypatch, workers):
    (tmp_path / "more_rules.py").write_text(
        "def too_dark(picture):\n    return 'too dark' if picture.pixels.mean() < 60 else None\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    more_rules = importlib.import_module("more_rules")
    monkeypatch.setattr("dataset_builder.pipeline.RULES", [*RULES, more_rules.too_dark])
    make.png(tmp_path / "raw" / "own" / "bright.png", make.picture(1))
    make.png(tmp_path / "raw" / "own" / "dark.png", make.picture(2) // 8)
    record = make.record(tmp_path, "own")
    summary = build(tmp_path / "raw", tmp_path / "out", [record], workers=workers, size=32)
    assert summary["outcomes"] == {"kept": 1, "too dark": 1}
    assert pq.read_table(tmp_path / "out" / "manifest.parquet")["outcome"].to_pylist() == ["kept", "too dark"]
