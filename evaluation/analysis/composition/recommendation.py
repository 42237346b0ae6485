"""Recommends a mixture from fitted responses, with its uncertainty, and tests the responses on held-out mixtures."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from .designs import within_limits
from .noise import lack_of_fit, mixtures_differ
from .responses import RESPONSES, Response, fit_quality
from .runs import MixtureRuns

CANDIDATES = 5000
NEAR = 1e-3  # a share this close to its limit is decided by the limit


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
    mixtures drawn uniformly, the corners, and the mixtures of the runs, all within the limits.

    Intervals are percentiles over refits. Since the design is fixed, each refit takes the fitted scores plus resampled
    residuals, which are enlarged by the fit's degrees of freedom. The intervals of shares are percentiles of each
    refit's own optimum.

    Args:
        runs: runs with scores.
        resamples: number of refits for the intervals.
        seed: random seed of the refits and the candidates.

    Returns:
        A recommendation whose `report` has these keys: "responses" {name: quality on held-out runs, with
        "lack_of_fit"}, "chosen", "differ" (analysis of variance between mixtures against seeds), "shares" {group:
        {"value", "low", "high"}}, "score" and "gain_over_uniform" (likewise value, low and high), "best_seen",
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
    optima, values, gains = _resampled(runs, chosen, numbers[chosen], candidates, best, resamples, random)
    low, high = np.quantile(optima, [0.025, 0.975], axis=0)
    uniform = within_limits(np.full((1, len(runs.groups)), 1 / len(runs.groups)), runs.limits)
    report = {
        "responses": {
            name: {**entry, "lack_of_fit": lack_of_fit(shares, -losses, -responses[name](shares), numbers[name])}
            for name, entry in quality.items()
        },
        "chosen": chosen,
        "differ": mixtures_differ(runs.shares, runs.scores),
        "shares": {name: {"value": float(candidates[best, k]), "low": float(low[k]), "high": float(high[k])}
                   for k, name in enumerate(runs.groups)},
        "score": _entry(-predicted[best], values),
        "gain_over_uniform": _entry(responses[chosen](uniform)[0] - predicted[best], gains),
        "best_seen": float(runs.scores.max()),
        "limits": dict(zip(runs.groups, runs.limits.tolist(), strict=True)),
        "at_limit": [name for k, name in enumerate(runs.groups)
                     if runs.limits[k] < 1 and candidates[best, k] > runs.limits[k] - NEAR],
        "seed": seed,
    }  # fmt: skip
    return Recommendation(report, responses[chosen], optima)


def _candidates(runs: MixtureRuns, random: np.random.Generator) -> np.ndarray:
    groups = len(runs.groups)
    drawn = np.concatenate([random.dirichlet(np.ones(groups), CANDIDATES), np.eye(groups), runs.shares])
    return within_limits(drawn, runs.limits)


def _resampled(
    runs: MixtureRuns, chosen: str, parameters: int | None, candidates: np.ndarray, best: int, resamples: int,
    random: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """For each resample: its optimum, its score at the mixture `best`, and its gain there over the uniform mixture."""
    shares, losses = runs.fitted
    fitted = RESPONSES[chosen].fit(shares, losses)(shares)
    left = max(len(shares) - (parameters or 0), 1)
    residuals = (losses - fitted) * (len(shares) / left) ** 0.5
    uniform = within_limits(np.full((1, shares.shape[1]), 1 / shares.shape[1]), runs.limits)
    optima, values, gains = [], [], []
    for _ in range(resamples):
        response = RESPONSES[chosen].fit(shares, fitted + random.choice(residuals, len(residuals)))
        again = response(candidates)
        optima.append(candidates[again.argmin()])
        values.append(-again[best])
        gains.append(response(uniform)[0] - again[best])
    return np.array(optima), np.array(values), np.array(gains)


def _entry(value: float, drawn: np.ndarray) -> dict[str, float]:
    low, high = np.quantile(drawn, [0.025, 0.975])
    return {"value": float(value), "low": float(low), "high": float(high)}


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
    score, gain = report["score"], report["gain_over_uniform"]
    verdict = "" if gain["low"] > 0 else ": not significant"
    lines.append(
        f"predicted score {score['value']:.4f} ({score['low']:.4f}, {score['high']:.4f}) by {report['chosen']}, "
        f"{gain['value']:+.4f} ({gain['low']:+.4f}, {gain['high']:+.4f}) over the uniform mixture{verdict}"
    )
    return lines
