"""The radiology study's score of masks: torchmetrics' numbers, and ours beside them."""

import json

import numpy as np
import pytest

from evaluation.statistics.masks import dice, jaccard, pooled_scores, segmentation_counts

PAIRS = {
    "base": ("pred", "target"),
    "absent_both": ("pred_absent_both", "target"),
    "half_empty": ("pred", "target_half_empty"),
}


@pytest.fixture(scope="module")
def cases(reference_dir):
    found = []
    for path in sorted(reference_dir.glob("seed2_dice_*.npz")):
        stored, figures = np.load(path, allow_pickle=False), json.loads(path.with_suffix(".json").read_text())
        found += [
            (f"{path.stem} {name}", counts_of(stored[decided], stored[truth], len(figures[name]["tp"])), figures[name])
            for name, (decided, truth) in PAIRS.items()
            if name in figures
        ]
    assert found, f"no Dice references in {reference_dir}"
    return found


def counts_of(decided, truth, classes):
    return np.stack([segmentation_counts(d, t, classes) for d, t in zip(decided, truth, strict=True)])


def test_reference_score_and_its_parts(cases):
    for label, counts, wanted in cases:
        found = pooled_scores(counts.sum(0))
        for name in ("dice", "jaccard"):
            assert found[f"radiology_{name}"] == pytest.approx(wanted[f"torchmetrics_{name}"], abs=1e-6), label
        both = (wanted["torchmetrics_dice"] + wanted["torchmetrics_jaccard"]) / 2
        assert found["radiology"] == pytest.approx(both, abs=1e-6), label


def test_reference_ordinary_figures(cases):
    for label, counts, wanted in cases:
        for name, metric in (("dice", dice), ("jaccard", jaccard)):
            values = np.array([np.nan if value is None else value for value in wanted[f"per_class_{name}"]])
            np.testing.assert_allclose(metric(counts.sum(0)), values, atol=1e-6, err_msg=label)
            assert np.nanmean(values[1:]) == pytest.approx(wanted[f"nanmean_fg_{name}"], abs=1e-6)
