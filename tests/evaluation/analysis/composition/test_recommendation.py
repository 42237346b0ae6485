"""The recommended mixture: on known responses, with limits, and if there is nothing to recommend."""

import numpy as np
import pytest

from evaluation.analysis.composition.designs import held_out_draws, lattice
from evaluation.analysis.composition.picture import draw_mixture
from evaluation.analysis.composition.recommendation import recommend, recommendation_lines
from evaluation.analysis.composition.runs import MixtureRuns

BEST = np.array([0.5, 0.3, 0.2])


def made(noise=0.001, effect=0.25, limits=(1, 1, 1), groups=3, seed=0):
    random = np.random.default_rng(seed)
    design = lattice(groups, 3)
    shares = np.concatenate([design, np.full((3, groups), 1 / groups), held_out_draws(design, np.ones(groups), 6)])
    best = np.resize(BEST, groups) / np.resize(BEST, groups).sum()
    scores = 0.9 - effect * ((shares - best) ** 2).sum(axis=1) + random.normal(0, noise, len(shares))
    held_out = np.arange(len(shares)) >= len(shares) - 6
    return MixtureRuns([f"g{k}" for k in range(groups)], shares, scores, held_out, np.array(limits, float))


def test_a_quadratic_optimum_is_found_with_an_interval_that_holds_it():
    report = recommend(made(), resamples=60).report
    assert report["chosen"] == "scheffe"
    for share, best in zip(report["shares"].values(), BEST, strict=True):
        assert share["value"] == pytest.approx(best, abs=0.06)
        assert share["low"] <= best + 0.03 and share["high"] >= best - 0.03
    assert report["differ"]["p"] < 0.01 and report["gain_over_uniform"]["low"] > 0
    assert report["responses"]["linear"]["lack_of_fit"]["p"] < report["responses"]["scheffe"]["lack_of_fit"]["p"]
    assert not report["at_limit"]


def test_limits_bind_and_are_reported():
    report = recommend(made(limits=(0.35, 1, 1)), resamples=30).report
    assert report["shares"]["g0"]["value"] == pytest.approx(0.35, abs=0.01) and report["at_limit"] == ["g0"]
    assert report["shares"]["g0"]["high"] <= 0.35 + 1e-6
    assert any("at its limit" in line for line in recommendation_lines(report))


def test_mixtures_that_do_not_matter_do_not_differ_significantly():
    flat = [recommend(made(noise=0.01, effect=0, seed=seed), resamples=20).report for seed in range(4)]
    assert sum(report["differ"]["p"] < 0.05 for report in flat) <= 1
    assert sum(report["gain_over_uniform"]["low"] > 0.004 for report in flat) <= 1
    wide = [share["high"] - share["low"] for report in flat for share in report["shares"].values()]
    assert np.median(wide) > 0.3


@pytest.mark.parametrize("groups", [3, 4])
def test_pictures_have_a_description(tmp_path, groups):
    runs = made(limits=(1,) * groups, groups=groups)
    draw_mixture(tmp_path / "mixture.png", runs, recommend(runs, 20), "task")
    words = (tmp_path / "mixture.txt").read_text()
    assert "held out: error" in words and "over the uniform mixture" in words
    assert (tmp_path / "mixture.png").stat().st_size > 10_000
