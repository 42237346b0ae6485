"""Paired comparisons between the models of a results folder, on the same test cases, corrected over tasks."""

import hashlib
import json
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from biovfm_hf.errors import UserError
from biovfm_hf.files import write_text

from .bootstrap import Resampler, bounds
from .compare import delong, holm, paired_bootstrap
from .metrics import dice, jaccard, read_split
from .probes.segment import case_scores
from .results import Record, clean, locked, read_scores
from .tasks import SEGMENTATION

METRICS = ("auc", "accuracy", "balanced_accuracy", "mcc", "f1_macro", "dice", "jaccard")
FORMAT = 2  # of the rows: raise it when they change, so that those kept in `comparisons/` are made anew
SAME = ("task", "data", "method", "protocol", "seed", "settings")


def compare_models(out: Path, records: list[Record], resamples: int = 1000, seed: int = 0) -> list[Record]:
    """Compare every two models that were scored alike on a task, and write comparisons.json.

    Each row: `task`, `method`, `metric`, `model_a`, `model_b`, `difference` (a - b) with its 95 % interval `low`,
    `high`, `p` of the paired bootstrap, and `p_holm`, corrected over the tasks of the same method, metric, seed and
    pair of models; of AUCs also `p_delong`. What was compared before is kept in `comparisons/`, one file per pair.
    """
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(json.dumps([record.get(name) for name in SAME], sort_keys=True), []).append(record)
    rows: list[dict[str, Any]] = []
    for group in groups.values():
        for first, second in combinations(group, 2):
            rows += _pair_rows(out, first, second, resamples, seed)
    _add_holm(rows)
    with locked(out):
        write_text(out / "comparisons.json", json.dumps(clean(rows), indent=1) + "\n")
    return rows


def _pair_rows(out: Path, first: Record, second: Record, resamples: int, seed: int) -> list[dict[str, Any]]:
    measured = [first["scores"], second["scores"], first["revision"], second["revision"], first["data"]]
    names = json.dumps([*measured, resamples, seed, FORMAT])
    path = out / "comparisons" / f"{hashlib.blake2b(names.encode(), digest_size=10).hexdigest()}.json"
    if path.is_file():
        return json.loads(path.read_text(encoding="utf-8"))
    held = [read_scores(out, record) for record in (first, second)]
    if first["method"].startswith("fewshot"):
        found = _few_shot(held, resamples, seed)
    elif first["kind"] == SEGMENTATION:
        found = _segmentation(held, resamples, seed)
    else:
        found = _scores(first, held, resamples, seed)
    common = {name: first[name] for name in ("task", "method", "protocol", "seed")}
    rows = [
        {**common, "metric": metric, "model_a": first["model"], "model_b": second["model"], **entry}
        for metric, entry in found.items()
        if metric in METRICS and entry["difference"] is not None
    ]
    write_text(path, json.dumps(clean(rows), indent=1) + "\n")
    return rows


def _scores(record: Record, held: list[dict[str, np.ndarray]], resamples: int, seed: int) -> dict[str, dict[str, Any]]:
    clusters = held[0].get("test_subjects")
    found = paired_bootstrap(
        record["kind"],
        held[0]["test_labels"],
        held[0]["test_scores"],
        held[1]["test_scores"],
        held[0]["thresholds"],
        held[1]["thresholds"],
        n=resamples,
        seed=seed,
        clusters=clusters,
    )
    found["auc"]["p_delong"] = _delong_p(record["kind"], held, clusters)
    return found


def _delong_p(kind: str, held: list[dict[str, np.ndarray]], clusters: np.ndarray | None) -> float | None:
    """DeLong's p-value of the difference in AUC; None where a label or class has fewer than two cases."""
    first, second = (read_split(kind, arrays["test_labels"], arrays["test_scores"]) for arrays in held)
    try:
        return delong(first.columns, first.scores, second.scores, clusters).p
    except UserError:
        return None


def _few_shot(held: list[dict[str, np.ndarray]], resamples: int, seed: int) -> dict[str, dict[str, Any]]:
    """Differences draw by draw: what the draw of training subjects leaves open, on this test split."""
    names = [name for name in held[0] if name.startswith("draw_") and name in held[1]]
    return {
        name.removeprefix("draw_"): paired_means(held[0][name] - held[1][name], resamples, seed)
        for name in names
        if len(held[0][name]) == len(held[1][name])
    }


def _segmentation(held: list[dict[str, np.ndarray]], resamples: int, seed: int) -> dict[str, dict[str, Any]]:
    found = {}
    for name, metric in (("dice", dice), ("jaccard", jaccard)):
        values = case_scores(metric(held[0]["test_counts"])) - case_scores(metric(held[1]["test_counts"]))
        found[name] = paired_means(values, resamples, seed, held[0].get("test_subjects"))
    return found


def paired_means(
    differences: np.ndarray, resamples: int = 1000, seed: int = 0, clusters: np.ndarray | None = None
) -> dict[str, Any]:
    """The mean of per-case differences with its percentile interval and two-sided bootstrap p, as `compare` gives.

    Args:
        differences: (cases,); NaN where a case does not define the score.
        resamples: how many.
        seed: of the draws.
        clusters: (cases,) subjects, to draw whole subjects.
    """
    known = np.isfinite(differences)
    if not known.any():
        return {"difference": None, "low": None, "high": None, "p": None, "reason": "no case defines the score"}
    filled, drawn = np.where(known, differences, 0.0), []
    for weights in Resampler(len(differences), "fast", seed, clusters).blocks(resamples):
        with np.errstate(invalid="ignore"):
            drawn.append((weights.T @ filled) / (weights.T @ known))
    means = np.concatenate(drawn)
    means = means[np.isfinite(means)]
    low, high = bounds(means, "fast")
    beyond = min((means <= 0).sum(), (means >= 0).sum())
    p = min(1.0, 2 * (int(beyond) + 1) / (len(means) + 1))
    return {"difference": float(differences[known].mean()), "low": low, "high": high, "p": p}


def _add_holm(rows: list[dict[str, Any]]) -> None:
    families: dict[tuple, list[dict[str, Any]]] = {}
    for row in rows:
        family = tuple(row[name] for name in ("method", "protocol", "seed", "metric", "model_a", "model_b"))
        families.setdefault(family, []).append(row)
    for members in families.values():
        adjusted = holm(np.array([np.nan if row["p"] is None else row["p"] for row in members], float))
        for row, p in zip(members, adjusted, strict=True):
            row["p_holm"] = None if np.isnan(p) else float(p)
