"""Compares the recommended mixture with the uniform and the natural one by fresh runs."""

from typing import Any

import numpy as np

from .plan import Mixture, MixturePlan

FIRST_SEED = 101  # first seed of fresh runs, above all seeds of the design


def fresh_mixtures(plan: MixturePlan, report: dict[str, Any]) -> list[Mixture]:
    """The recommended, the uniform and the natural mixture, each with as many fresh seeds as the plan states."""
    seeds = [plan.seed + FIRST_SEED + number for number in range(plan.content["confirm"])]
    best = np.round([share["value"] for share in report["shares"].values()], 6)
    named = {"recommended": best / best.sum(), "uniform": plan.uniform, "natural": plan.natural_within_limits}
    return [Mixture(f"{name}-{seed}", shares, seed) for name, shares in named.items() for seed in seeds]


def compare_fresh(scores: np.ndarray, report: dict[str, Any]) -> dict[str, Any]:
    """Compare the scores of `fresh_mixtures`, given in the same order.

    Returns:
        {"scores": {mixture: list by seed}, "differences": {other: {"value", "low", "high", "p"}}, "regret"}. A
        difference is the recommended mixture minus the other, with Welch's t interval. The regret is the best score of
        the design minus the mean of the recommended mixture.
    """
    names = ("recommended", "uniform", "natural")
    values = dict(zip(names, scores.reshape(len(names), -1), strict=True))
    best = values["recommended"]
    return {
        "scores": {name: row.tolist() for name, row in values.items()},
        "differences": {name: welch(best, values[name]) for name in names[1:]},
        "regret": report["best_seen"] - float(best.mean()),
    }


def welch(first: np.ndarray, second: np.ndarray) -> dict[str, float | None]:
    """The difference of two means with Welch's 95 % interval and p; None if either side has fewer than two values."""
    from scipy.stats import ttest_ind

    value = float(first.mean() - second.mean())
    if min(len(first), len(second)) < 2 or max(np.ptp(first), np.ptp(second)) == 0:
        return {"value": value, "low": None, "high": None, "p": None}
    test = ttest_ind(first, second, equal_var=False)
    low, high = test.confidence_interval(0.95)
    return {"value": value, "low": float(low), "high": float(high), "p": float(test.pvalue)}


def confirmation_lines(confirmed: dict[str, Any]) -> list[str]:
    """The result of the confirmation as lines of text."""
    lines = ["", f"recommended mixture, {len(confirmed['scores']['recommended'])} fresh seeds: mean score "
             f"{np.mean(confirmed['scores']['recommended']):.4f}, regret {confirmed['regret']:+.4f}"]  # fmt: skip
    for name, entry in confirmed["differences"].items():
        if entry["low"] is None:
            lines.append(f"minus the {name} mixture: {entry['value']:+.4f}, one seed gives no interval")
            continue
        verdict = "" if entry["low"] > 0 else ": worse" if entry["high"] < 0 else ": not significant"
        lines.append(
            f"minus the {name} mixture: {entry['value']:+.4f} ({entry['low']:+.4f}, {entry['high']:+.4f}){verdict}"
        )
    return lines
