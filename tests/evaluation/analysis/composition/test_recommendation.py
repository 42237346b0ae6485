"""The recommended mixture: on known responses, with limits, and if there is nothing to recommend."""

from dataclasses import replace

import numpy as np
import pytest

from evaluation.analysis.composition import recommendation
from evaluation.analysis.composition.designs import held_out_draws, lattice
from evaluation.analysis.composition.picture import draw_mixture
from evaluation.analysis.composition.recommendation import gain_text, recommend, recommendation_lines
from evaluation.analysis.composition.responses import RESPONSES
from evaluation.analysis.composition.runs import MixtureRuns

BEST = np.array([0.5, 0.3, 0.2])


def made(noise=0.001, effect=0.25, limits=None, groups=3, degree=3):
    random = np.random.default_rng(0)
    design = lattice(groups, degree)
    shares = np.concatenate([design, np.full((3, groups), 1 / groups), held_out_draws(design, np.ones(groups), 6)])
    best = np.resize(BEST, groups) / np.resize(BEST, groups).sum()
    scores = 0.9 - effect * ((shares - best) ** 2).sum(axis=1) + random.normal(0, noise, len(shares))
    held_out = np.arange(len(shares)) >= len(shares) - 6
    return MixtureRuns(
        [f"g{k}" for k in range(groups)], shares, scores, held_out, np.array(limits or [1] * groups, float)
    )


def test_a_quadratic_optimum_is_found_with_an_interval_that_holds_it():
    report = recommend(made(), resamples=60).report
    assert report["chosen"] == "scheffe"
    for share, best in zip(report["shares"].values(), BEST, strict=True):
        assert share["value"] == pytest.approx(best, abs=0.06)
        assert share["low"] <= best + 0.03 and share["high"] >= best - 0.03
    gain = report["gain_over_uniform"]
    true = 0.25 * ((BEST - 1 / 3) ** 2).sum()
    assert report["differ"]["p"] < 0.01 and gain["p"] < 0.02 and 0 < gain["low"] < true < gain["high"]
    assert "not significant" not in gain_text(report)
    assert report["responses"]["linear"]["lack_of_fit"]["p"] < report["responses"]["scheffe"]["lack_of_fit"]["p"]
    assert not report["at_limit"]


def test_limits_bind_and_are_reported():
    report = recommend(made(limits=(0.35, 1, 1)), resamples=30).report
    assert report["shares"]["g0"]["value"] == pytest.approx(0.35, abs=0.01) and report["at_limit"] == ["g0"]
    assert report["shares"]["g0"]["high"] <= 0.35 + 1e-6
    assert any("at its limit" in line for line in recommendation_lines(report))


def test_noise_gives_a_significant_gain_in_at_most_a_twentieth_of_studies(monkeypatch):
    """An interval at the chosen mixture alone, with the choice held fixed, gave one in 21 of these 60."""
    monkeypatch.setattr(recommendation, "RESPONSES", {name: RESPONSES[name] for name in ("linear", "scheffe")})
    runs, random = made(groups=4, degree=2), np.random.default_rng(0)
    flat = []
    for seed in range(60):
        scores = random.normal(0.8, 0.016, len(runs.scores))
        flat.append(recommend(replace(runs, scores=scores), resamples=40, seed=seed).report)
    found = ["not significant" not in gain_text(report) for report in flat]
    assert sum(found) <= 5
    ps = [report["gain_over_uniform"]["p"] for report in flat]
    assert 0.3 < np.mean(ps) < 0.7 and min(ps) >= 1 / 41
    wide = [share["high"] - share["low"] for report in flat for share in report["shares"].values()]
    assert np.median(wide) > 0.3


@pytest.mark.parametrize("groups", [3, 4])
def test_pictures_have_a_description(tmp_path, groups):
    runs = made(groups=groups)
    draw_mixture(tmp_path / "mixture.png", runs, recommend(runs, 20), "task")
    words = (tmp_path / "mixture.txt").read_text()
    assert "held out: error" in words and "over the uniform mixture" in words
    assert (tmp_path / "mixture.png").stat().st_size > 10_000
