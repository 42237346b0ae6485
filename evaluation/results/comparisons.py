"""Paired comparisons between the models of a results folder, on the same test cases, corrected over tasks."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from biovfm_hf.errors import UserError
from biovfm_hf.reading.documents import read_json
from biovfm_hf.results.record import Record
from biovfm_hf.results.significance import holm
from biovfm_hf.writing.files import write_text

from ..statistics.bootstrap import Resampler
from ..statistics.kinds import DETECTION, SEGMENTATION
from ..statistics.masks import known_metrics, paired_difference
from ..statistics.metrics import find_metric, is_lower_better, titles
from ..statistics.significance import (
    SeedSpread,
    delong,
    lowest_p,
    paired_bootstrap,
    paired_interval,
    spread_of_mean,
)
from ..statistics.split import ScoredSplit
from ..statistics.undefined import lone_classes
from .records import clean, grouped, locked, read_scores, stored_split
from .seeds import box_draws, case_draws, spreads

Row = dict[str, Any]  # a row of comparisons.json
Pair = tuple[dict[str, np.ndarray], dict[str, np.ndarray]]  # the score arrays of two models

FORMAT = 6  # of the rows; increase it when they change, so that rows kept in `comparisons/` are made again
SAME = attrgetter("task", "data", "method", "protocol", "settings")
FAMILY = attrgetter("method", "protocol", "settings")


def compare_models(out: Path, records: list[Record], resamples: int = 1000, seed: int = 0) -> list[Row]:
    """Compare all pairs of models with comparable records on a task, and write comparisons.json.

    A row has `task`, `method`, `protocol`, `settings`, `seed`, `metric`, its `title` and `lower_is_better`,
    `model_a`, `model_b`, `difference` (a - b) with its 95 % interval `low`, `high`, `p` of the paired bootstrap, and
    `p_holm`, which is corrected over the tasks of the same method, settings, metric, seed and pair of models; for AUCs
    also `p_delong`.

    For models with several seeds there is a further row. Its `seed` is the list of seeds; its difference, interval and
    p include the variation between seeds; and it has `seed_sd` and `case_se` (see `significance.SeedSpread`). Few-shot
    rows have the mean difference over draws in the same way, with `draw_sd` instead of `seed_sd`. Finished comparisons
    are kept in `comparisons/`.

    `resamples` is a minimum: many tasks take more (see `enough_resamples`).
    """
    families = tasks_alike(records)
    rows: list[Row] = []
    for group in grouped(records, SAME):
        count = enough_resamples(families[_family(group[0])], resamples)
        for first, second in model_pairs(group):
            rows += _pair_rows(out, first, second, count, seed)
    _add_holm(rows)
    for row in rows:
        row["lower_is_better"] = is_lower_better(row["metric"])
        row["title"] = titles([row["metric"]]).get(row["metric"])
    with locked(out):
        write_text(out / "comparisons.json", json.dumps(clean(rows), indent=1) + "\n")
    return rows


def tasks_alike(records: list[Record]) -> dict[str, int]:
    """The number of tasks on which each `_family` of records was scored; Holm's correction is over these tasks."""
    tasks: dict[str, set[str]] = {}
    for record in records:
        tasks.setdefault(_family(record), set()).add(record.task)
    return {name: len(kinds) for name, kinds in tasks.items()}


def _family(record: Record) -> str:
    return json.dumps(FAMILY(record), sort_keys=True)


def enough_resamples(tasks: int, resamples: int) -> int:
    """A multiple of `resamples` with which the lowest p of a bootstrap stays below 0.05 after Holm's correction.

    With n resamples that p is 2 / (n + 1), times the number of tasks: 0.052 with 1,000 resamples and 26 tasks, so that
    no difference could be real. 80 resamples per task give 0.025. The number is a multiple so that a further task
    seldom requires all pairs to be compared again.
    """
    return resamples * -(-80 * tasks // resamples)


def model_pairs(group: list[Record]) -> list[tuple[list[Record], list[Record]]]:
    """Every two models of records that differ in model and seed: for each seed they share, then for all of these."""
    by_model: dict[tuple[str, str], dict[int, Record]] = {}
    for record in group:
        by_model.setdefault((record.model, record.revision), {})[record.seed or 0] = record
    pairs = []
    for first, second in combinations(by_model.values(), 2):
        shared = sorted(set(first) & set(second))
        pairs += [([first[number]], [second[number]]) for number in shared]
        if len(shared) > 1:
            pairs.append(([first[number] for number in shared], [second[number] for number in shared]))
    return pairs


def _pair_rows(out: Path, firsts: list[Record], seconds: list[Record], resamples: int, seed: int) -> list[Row]:
    """The rows of two models, from one record of each or from the records of several seeds."""
    first, second = firsts[0], seconds[0]
    measured = [value for record in (*firsts, *seconds) for value in (record.scores, record.revision)]
    names = json.dumps([*measured, first.data, resamples, seed, FORMAT])
    path = out / "comparisons" / f"{hashlib.blake2b(names.encode(), digest_size=10).hexdigest()}.json"
    if path.is_file():
        return read_json(path, remedy="remove it and run the same command again")
    entries = _compare(out, firsts, seconds, resamples, seed)
    common = {name: getattr(first, name) for name in ("task", "method", "protocol", "settings", "seed")}
    if len(firsts) > 1:
        common["seed"] = [record.seed for record in firsts]
    rows = [
        {**common, "metric": metric, "model_a": first.model, "model_b": second.model, **entry}
        for metric, entry in entries.items()
        if _compared(metric) and entry["difference"] is not None
    ]
    write_text(path, json.dumps(clean(rows), indent=1) + "\n")
    return rows


@dataclass
class ResampledMetrics:
    """Each metric of records over resamples of their test cases, computed once for all comparisons.

    `out` is the results folder; all records of a task have the same `resamples`.
    """

    out: Path
    resamples: int
    made: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)

    def of(self, records: Sequence[Record], metric: str) -> np.ndarray:
        """A metric's value followed by its values over resamples (1 + resamples,), averaged over seeds."""
        for record in records:
            if record.scores not in self.made:
                self.made[record.scores] = case_draws(record, read_scores(self.out, record), self.resamples)
        return np.mean([self.made[record.scores][metric] for record in records], axis=0)


def mean_difference(
    draws: ResampledMetrics, firsts: Sequence[Sequence[Record]], seconds: Sequence[Sequence[Record]], metric: str
) -> Row:
    """The difference of two models in a metric, or in its mean over tasks, by any method.

    Args:
        draws: draws of the results folder.
        firsts: for each task, one model's records of every seed.
        seconds: the other model's records of the same tasks and seeds, in the same order.
        metric: name of the metric.

    Returns:
        `difference` (first minus second), `low`, `high`, `p`, and a `reason` if there is no p.
    """
    for first, second in zip(firsts, seconds, strict=True):
        if first[0].data != second[0].data:
            return _no_p(None, f"{first[0].task}: the two were not scored on the same data")
    if len(firsts) == 1:
        return _compare(draws.out, list(firsts[0]), list(seconds[0]), draws.resamples, 0)[metric]
    drawn, units = [], 0
    for number, pair in enumerate(zip(firsts, seconds, strict=True)):
        first_draws, second_draws = (draws.of(records, metric) for records in pair)
        difference = first_draws - second_draws
        drawn.append(np.r_[difference[0], np.roll(difference[1:], 97 * number)])  # tasks draw from the same streams
        units += _test_units(pair[0][0], read_scores(draws.out, pair[0][0]))
    mean = np.mean(drawn, axis=0)
    return paired_interval(float(mean[0]), mean[1:], units)


def _compared(name: str) -> bool:
    metric = find_metric(name)
    return metric is not None and metric.compared


def _compare(out: Path, firsts: list[Record], seconds: list[Record], resamples: int, seed: int) -> dict[str, Row]:
    """The difference of two models in each metric, from one record of each or from the records of several seeds."""
    pairs = [(read_scores(out, a), read_scores(out, b)) for a, b in zip(firsts, seconds, strict=True)]
    record = firsts[0]
    if record.few_shot:
        rows = _few_shot(record, pairs)
    elif record.kind == SEGMENTATION:
        rows = _over_seeds(record, pairs, resamples) if len(pairs) > 1 else _segmentation(pairs[0], resamples, seed)
    elif record.kind == DETECTION:
        rows = _over_seeds(record, pairs, resamples) if len(pairs) > 1 else _detection(record, pairs[0], resamples)
    elif len(pairs) > 1:
        rows = _over_seeds(record, pairs, resamples)
    else:
        rows = _scores(record, pairs[0], resamples, seed)
    if record.kind in (SEGMENTATION, DETECTION):
        return rows
    alone = _lone_classes(record, pairs[0][0])
    return {name: _no_p(row["difference"], alone[name]) if name in alone and row["difference"] is not None else row
            for name, row in rows.items()}  # fmt: skip


def _lone_classes(record: Record, arrays: dict[str, np.ndarray]) -> dict[str, str]:
    """{metric: reason} for metrics whose difference has no test, because a class has one test case or subject."""
    split = stored_split(record, arrays)
    return lone_classes(split, Resampler(split.size, "fast", clusters=split.subjects).units)


def _over_seeds(record: Record, pairs: list[Pair], resamples: int) -> dict[str, Row]:
    """Mean differences over seeds; all seeds share the resamples, and the variances of both are added."""
    units = _test_units(record, pairs[0][0])
    drawn = []
    for pair in pairs:
        first, second = (case_draws(record, arrays, resamples) for arrays in pair)
        drawn.append({name: first[name] - second[name] for name in first})
    return {name: _spread_row(spread, units, "seed_sd") for name, spread in spreads(drawn).items()}


def _test_units(record: Record, arrays: dict[str, np.ndarray]) -> int:
    """Number of test cases, or of subjects if they are known."""
    cases = arrays[{SEGMENTATION: "test_counts", DETECTION: "test_images"}.get(record.kind, "test_labels")]
    return Resampler(len(cases), "fast", clusters=arrays.get("test_subjects")).count_units()


def _spread_row(spread: SeedSpread, units: int, name: str) -> Row:
    """A mean difference with Student's interval and p; `name` (`seed_sd` or `draw_sd`) says what was repeated."""
    half, p = spread.half_width(), max(spread.p(), lowest_p(units))
    ends = {"difference": spread.mean, "low": spread.mean - half, "high": spread.mean + half, "p": p}
    return {**ends, name: spread.seed_sd, "case_se": spread.case_se}


def _scores(record: Record, pair: Pair, resamples: int, seed: int) -> dict[str, Row]:
    first, second = (stored_split(record, arrays) for arrays in pair)
    rows = paired_bootstrap(first, second, resamples, seed)
    rows["auc"]["p_delong"] = _delong_p(first, second)
    return rows


def _delong_p(first: ScoredSplit, second: ScoredSplit) -> float | None:
    """DeLong's p-value of the difference in AUC; None if a label or class has fewer than two cases."""
    try:
        return delong(first.columns, first.scores, second.scores, first.subjects).p
    except UserError:
        return None


def _few_shot(record: Record, pairs: list[Pair]) -> dict[str, Row]:
    """Mean differences over draws of training subjects; both models have the same draws and test cases.

    Draws count like seeds: the variance between draws and that of the test cases are added. With the draws alone, any
    two encoders would differ that happen to differ on the cases of this test split.
    """
    units, overlap = _test_units(record, pairs[0][0]), float(pairs[0][0].get("overlap", 0.0))
    names = [name.removeprefix("draw_") for name in pairs[0][0] if name.startswith("draw_")]
    return {name: _few_shot_row([_draw_differences(name, *pair) for pair in pairs], units, overlap) for name in names}


def _draw_differences(
    name: str, first: dict[str, np.ndarray], second: dict[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Differences in a metric for each draw (draws,), and of their means on each common resample (resamples,)."""
    drawn = [arrays[f"case_{name}"] for arrays in (first, second)]
    shared = min(map(len, drawn))  # resample i is the same in all records, even if their numbers of resamples differ
    return first[f"draw_{name}"] - second[f"draw_{name}"], drawn[0][:shared] - drawn[1][:shared]


def _few_shot_row(curves: list[tuple[np.ndarray, np.ndarray]], units: int, overlap: float) -> Row:
    """One metric's row from the `_draw_differences` of each seed; the draws of all seeds count alike."""
    points = np.concatenate([points for points, _ in curves])
    shared = min(len(resampled) for _, resampled in curves)
    resampled = np.mean([resampled[:shared] for _, resampled in curves], axis=0)
    if np.isnan(points).any():
        return _no_p(None, "undefined on this test split")
    if min(len(points), units) < 2:
        what = "draw" if units > 1 else "case or subject"
        return _no_p(float(points.mean()), f"one {what} alone gives no interval")
    resampled = resampled[~np.isnan(resampled)]
    if len(resampled) < 2:
        return _no_p(float(points.mean()), "every resample lacks a class")
    return _spread_row(spread_of_mean(points, resampled, overlap), units, "draw_sd")


def _no_p(difference: float | None, reason: str) -> Row:
    """The row of a difference without interval and p, with the reason in words."""
    return {"difference": difference, "low": None, "high": None, "p": None, "reason": reason}


def _detection(record: Record, arrays: Pair, resamples: int) -> dict[str, Row]:
    first, second = (box_draws(record, each, resamples) for each in arrays)
    units, rows = _test_units(record, arrays[0]), {}
    for name in first:
        difference, *drawn = first[name] - second[name]
        rows[name] = (
            _no_p(None, "no box in the truth")
            if np.isnan(difference)
            else paired_interval(float(difference), np.array(drawn), units)
        )
    return rows


def _segmentation(arrays: Pair, resamples: int, seed: int) -> dict[str, Row]:
    first, second = arrays
    subjects = first.get("test_subjects")
    return {
        metric.name: paired_difference(metric, first, second, resamples, seed, subjects)
        for metric in known_metrics(first)
        if metric.reads in second
    }


def _add_holm(rows: list[Row]) -> None:
    tested_together = itemgetter("method", "protocol", "settings", "seed", "metric", "model_a", "model_b")
    for members in grouped(rows, tested_together):
        adjusted = holm(np.array([np.nan if row["p"] is None else row["p"] for row in members], float))
        for row, p in zip(members, adjusted, strict=True):
            row["p_holm"] = None if np.isnan(p) else float(p)
