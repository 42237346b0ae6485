"""Recommends a mixture from fitted responses, with its uncertainty, and tests the responses on held-out mixtures."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from .designs import within_limits
from .noise import lack_of_fit, mixtures_differ
from .responses import RESPONSES, Form, Response, fit_quality
from .runs import MixtureRuns

CANDIDATES = 5000
NEAR = 1e-3  # a share this close to its limit is decided by the limit
LEVEL = 0.05  # highest p of a significant gain
ROUNDING = 1e-9


@dataclass(frozen=True)
class Recommendation:
    """A recommended mixture, with the data for its picture.

    Attributes:
        report: dictionary described in `recommend`.
        response: the chosen response, a function from shares to losses.
        optima: (resamples, groups) best mixture of each resample.
    """

    report: dict[str, Any]
    response: Response
    optima: np.ndarray


def recommend(runs: MixtureRuns, resamples: int = 100, seed: int = 0) -> Recommendation:
    """Fit every response, judge each on the held-out mixtures, and take the best mixture of the best response.

    The best response is the one whose predictions lie nearest to the held-out scores. The candidates are 5,000
    mixtures drawn uniformly, the corners, the uniform mixture and those of the runs, all within the limits.

    Intervals come from refits. Since the design is fixed, each refit takes the fitted scores plus resampled residuals,
    which are enlarged by the fit's degrees of freedom, and chooses its own best mixture. The intervals of shares are
    percentiles of these. A refit also overestimates its best mixture, by what it predicts there more than the fit that
    it was drawn from. The score and the gain are lowered by the mean of this excess, and their intervals by its
    percentiles. They hold if the response has the right form.

    The gain over the uniform mixture is also tested against chance: the scores are shuffled over all runs, and
    response and mixture are chosen again. `p` is the share of shuffles, the observed order included, with as large a
    gain in units of the residuals. So of studies whose mixtures do not matter at most 5 % have a p of 0.05 or less.

    Args:
        runs: runs with scores.
        resamples: number of refits for the intervals, and of shuffles.
        seed: random seed of the refits, the shuffles and the candidates.

    Returns:
        A recommendation whose `report` has these keys: "responses" {name: quality on held-out runs, with
        "lack_of_fit"}, "chosen", "differ" (analysis of variance between mixtures against seeds), "shares" {group:
        {"value", "low", "high"}}, "score" (likewise), "gain_over_uniform" (likewise, with "p"), "best_seen",
        "limits", "at_limit" (groups whose share the limit decides) and "seed".
    """
    shares, losses = runs.fitted
    forms = {name: form for name, form in RESPONSES.items() if len(shares) >= form.least_runs}
    responses = {name: form.fit(shares, losses) for name, form in forms.items()}
    held_out = runs.shares[runs.held_out], runs.scores[runs.held_out]
    quality = {name: fit_quality(-response(held_out[0]), held_out[1]) for name, response in responses.items()}
    chosen = min(quality, key=lambda name: quality[name]["mae"])
    numbers = {name: form.parameters(len(runs.groups)) for name, form in forms.items()}
    random = np.random.default_rng(seed)
    candidates = _candidates(runs, random)
    predicted = responses[chosen](candidates)
    best = int(predicted.argmin())
    optima, score, gain = _resampled(runs, RESPONSES[chosen], candidates, resamples, random)
    low, high = np.quantile(optima, [0.025, 0.975], axis=0)
    report = {
        "responses": {
            name: {**entry, "lack_of_fit": lack_of_fit(shares, -losses, -responses[name](shares), numbers[name])}
            for name, entry in quality.items()
        },
        "chosen": chosen,
        "differ": mixtures_differ(runs.shares, runs.scores),
        "shares": {name: {"value": float(candidates[best, k]), "low": float(low[k]), "high": float(high[k])}
                   for k, name in enumerate(runs.groups)},
        "score": score,
        "gain_over_uniform": {**gain, "p": _chance(runs, forms, candidates, resamples, random)},
        "best_seen": float(runs.scores.max()),
        "limits": dict(zip(runs.groups, runs.limits.tolist(), strict=True)),
        "at_limit": [name for k, name in enumerate(runs.groups)
                     if runs.limits[k] < 1 and candidates[best, k] > runs.limits[k] - NEAR],
        "seed": seed,
    }  # fmt: skip
    return Recommendation(report, responses[chosen], optima)


def _candidates(runs: MixtureRuns, random: np.random.Generator) -> np.ndarray:
    groups = len(runs.groups)
    drawn = np.concatenate(
        [random.dirichlet(np.ones(groups), CANDIDATES), np.eye(groups), _uniform(runs), runs.shares]
    )
    return within_limits(drawn, runs.limits)


def _uniform(runs: MixtureRuns) -> np.ndarray:
    """Equal shares (1, groups), within the limits."""
    return within_limits(np.full((1, len(runs.groups)), 1 / len(runs.groups)), runs.limits)


def _resampled(
    runs: MixtureRuns, form: Form, candidates: np.ndarray, resamples: int, random: np.random.Generator
) -> tuple[np.ndarray, dict[str, float], dict[str, float]]:
    """The optimum (groups,) of each resample, and the entries of the score and of the gain over uniform."""
    shares, losses = runs.fitted
    uniform, fit = _uniform(runs), form.fit(shares, losses)
    residuals = (losses - fit(shares)) * (len(shares) / _free(form, shares)) ** 0.5
    again = form.fit(shares, fit(shares) + random.choice(residuals, (resamples, len(residuals))))
    predicted, repredicted = fit(candidates), again(candidates)
    best = repredicted.argmin(axis=1)
    excess = predicted[best] - repredicted.min(axis=1)  # of the score that a resample predicts for its own optimum
    gained = excess + again(uniform)[:, 0] - fit(uniform)[0]
    score, gain = -predicted.min(), fit(uniform)[0] - predicted.min()
    return candidates[best], _lowered(score, excess), _lowered(gain, gained)


def _free(form: Form, shares: np.ndarray) -> int:
    """Degrees of freedom that a fit to the runs leaves, at least 1."""
    return max(len(shares) - (form.parameters(shares.shape[1]) or 0), 1)


def _lowered(value: float, excess: np.ndarray) -> dict[str, float]:
    """A value lowered by the mean excess (B,) of such values in resamples, its interval by the percentiles."""
    low, high = value - np.quantile(excess, [0.975, 0.025])
    return {"value": float(value - excess.mean()), "low": float(low), "high": float(high)}


def _chance(
    runs: MixtureRuns, forms: dict[str, Form], candidates: np.ndarray, shuffles: int, random: np.random.Generator
) -> float:
    """The p of the chosen gain among those of scores shuffled over the runs, where all is chosen again."""
    shuffled = random.permuted(np.tile(runs.scores, (shuffles, 1)), axis=1)
    gains = _chosen_gains(runs, forms, candidates, np.concatenate([runs.scores[None], shuffled]))
    return float((gains >= gains[0] * (1 - ROUNDING)).mean())


def _chosen_gains(runs: MixtureRuns, forms: dict[str, Form], candidates: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """For each of some scores (B, runs), the best gain over the uniform mixture by the response that then is chosen.

    The unit is the standard deviation of the residuals: without it, scores that follow a response give larger gains
    when they are shuffled.
    """
    (shares, _), uniform = runs.fitted, _uniform(runs)
    losses, held_out = -scores[:, ~runs.held_out], -scores[:, runs.held_out]
    errors, gains = [], []
    for form in forms.values():
        response = form.fit(shares, losses)
        errors.append(np.abs(response(runs.shares[runs.held_out]) - held_out).mean(axis=1))
        spread = (((response(shares) - losses) ** 2).sum(axis=1) / _free(form, shares)) ** 0.5
        gain = response(uniform)[:, 0] - response(candidates).min(axis=1)
        gains.append(gain / np.maximum(spread, np.finfo(float).tiny))
    return np.array(gains)[np.argmin(errors, axis=0), np.arange(len(scores))]


def gain_text(report: dict[str, Any]) -> str:
    """The gain over the uniform mixture as text; it is significant by its p and by its interval, or not at all."""
    gain = report["gain_over_uniform"]
    verdict = "" if gain["p"] <= LEVEL and gain["low"] > 0 else ": not significant"
    return (f"{gain['value']:+.4f} ({gain['low']:+.4f}, {gain['high']:+.4f}), p {gain['p']:.3f}, over the uniform "
            f"mixture{verdict}")  # fmt: skip


def recommendation_lines(report: dict[str, Any]) -> list[str]:
    """The report as lines for the screen."""
    lines = []
    for name, quality in report["responses"].items():
        lack = quality["lack_of_fit"]
        misfit = f", lack of fit p {lack['p']:.3f}" if "p" in lack else ""
        lines.append(f"{name:<12} held out: error {quality['mae']:.4f}, R2 {quality['r2']:.3f}, "
                     f"rank {quality['spearman']:.3f}{misfit}")  # fmt: skip
    differ = report["differ"]
    lines.append(
        differ.get("reason") or f"mixtures against seeds: p {differ['p']:.3f} (SD of seeds {differ['seed_sd']:.4f})"
    )
    for name, share in report["shares"].items():
        bound = ", at its limit" if name in report["at_limit"] else ""
        lines.append(f"{name:<20} {share['value']:.3f} ({share['low']:.3f}, {share['high']:.3f}){bound}")
    score = report["score"]
    lines.append(f"predicted score {score['value']:.4f} ({score['low']:.4f}, {score['high']:.4f}) by "
                 f"{report['chosen']}, {gain_text(report)}")  # fmt: skip
    return lines
