"""Combines several seeds of one model, task and method: their mean, with an interval that includes the seeds."""

import json
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np

from biovfm_hf.results.record import MEANS_FILE, Record
from biovfm_hf.writing.files import write_text

from ..statistics.bootstrap import Resampler, Resampling, draws_as, resampled_metrics
from ..statistics.detection import class_figures, group_boxes, match_all, mean_figures, resampled_figures
from ..statistics.kinds import DETECTION, SEGMENTATION
from ..statistics.masks import COUNTS, draw_metric, known_metrics
from ..statistics.metrics import BOX_FIGURES, Scorer, find_metric
from ..statistics.significance import SeedSpread, seed_spread
from .records import clean, grouped, read_scores, stored_split


def over_seeds(out: Path, records: list[Record], resamples: int = 1000) -> list[Record]:
    """Join records that differ only in their seed; other records stay as they are, in order.

    A joined record has the seeds in `joined`. Each metric is the mean over seeds with a 95 % interval (`low`, `high`,
    by Student's t, within the metric's range) that covers both the sampling of test cases and the seeds; `seed_sd` and
    `case_se` are the two parts (see `significance.SeedSpread`). Few-shot results become the mean and the percentiles
    of all draws. The scores that a joined record names are those of its first seed.

    Args:
        out: the results folder, which contains the scores.
        records: records of `results.json`.
        resamples: number of bootstrap resamples.
    """
    groups = grouped(records, attrgetter("likeness"))
    return [group[0] if len(group) == 1 else join_seeds(out, group, resamples) for group in groups]


def write_means(out: Path, joined: list[Record]) -> None:
    """Write the means over seeds among `joined` (`over_seeds`) to seeds.json, from which cards and pages take them."""
    means = [clean(record.to_json()) for record in joined if record.joined]
    if means:
        write_text(out / MEANS_FILE, "[\n" + ",\n".join(map(json.dumps, means)) + "\n]\n")
    else:
        (out / MEANS_FILE).unlink(missing_ok=True)


def join_seeds(out: Path, group: list[Record], resamples: int) -> Record:
    """One record of several seeds, see `over_seeds`."""
    group = sorted(group, key=lambda record: record.seed or 0)
    score_files = [read_scores(out, record) for record in group]
    if group[0].few_shot:
        entries = _pooled_draws(score_files)
    else:
        parts = spreads([case_draws(*pair, resamples) for pair in zip(group, score_files, strict=True)])
        entries = {name: _entry(part, *_range(name)) for name, part in parts.items()}
        for name in entries:  # several seeds cannot replace test cases that give no interval
            if any(None in record.metrics.get(name, {}).values() for record in group):
                entries[name] |= {"low": None, "high": None}
    shared = set.intersection(*(set(record.metrics) for record in group))
    metrics = {name: entry for name, entry in entries.items() if name in shared}
    seconds = sum(record.seconds or 0.0 for record in group)
    further = {name: value for name, value in group[0].further.items() if name != "robustness"}  # it is of one seed
    seeds = tuple(record.seed or 0 for record in group)
    undefined = {name: why for record in group for name, why in (record.undefined or {}).items()}
    measured = replace(group[0], joined=seeds, metrics=metrics, undefined=undefined)
    return replace(measured, seconds=seconds, further=further)


def case_draws(record: Record, arrays: dict[str, np.ndarray], resamples: int) -> dict[str, np.ndarray]:
    """For each metric its point value followed by its values over resamples, which all seeds and models share."""
    if record.kind == SEGMENTATION:
        return _mask_draws(arrays, resamples)
    if record.kind == DETECTION:
        return box_draws(record, arrays, resamples)
    split = stored_split(record, arrays)
    scorer = Scorer(split, extra=True)
    drawn = resampled_metrics(scorer, Resampling(draws_as(record.protocol), resamples).of(split), resamples)
    point = scorer(np.ones((split.size, 1), np.float32))
    return {name: np.concatenate([point[name], drawn[name]]) for name in drawn}


def box_draws(record: Record, arrays: dict[str, np.ndarray], resamples: int) -> dict[str, np.ndarray]:
    """As `case_draws`, for boxes."""
    images, names = len(arrays["test_images"]), record.classes or []
    boxes = group_boxes(arrays["test_truth"], arrays["test_detections"], images, len(names))
    classes = [match_all(each) for each in boxes]
    point = mean_figures([class_figures(each) for each in classes])
    drawn = resampled_figures(classes, resamples, 0, arrays.get("test_subjects"))
    return {name: np.concatenate([[point[name]], drawn[name]]) for name in BOX_FIGURES}


def _mask_draws(arrays: dict[str, np.ndarray], resamples: int) -> dict[str, np.ndarray]:
    resampler = Resampler(len(arrays[COUNTS]), "fast", 0, arrays.get("test_subjects"))
    return {metric.name: draw_metric(metric, arrays, resampler, resamples) for metric in known_metrics(arrays)}


def spreads(drawn: list[dict[str, np.ndarray]]) -> dict[str, SeedSpread]:
    """The spread of each metric over seeds and cases, from the results of `case_draws` for each seed."""
    spread_of = {}
    for name in drawn[0]:
        rows = np.stack([each[name] for each in drawn])
        rows = rows[:, ~np.isnan(rows).any(axis=0)]
        if rows.shape[1] > 2:
            spread_of[name] = seed_spread(rows)
    return spread_of


def _range(name: str) -> tuple[float, float]:
    """The lowest and the highest value that a metric can take."""
    metric = find_metric(name)
    if metric is None:
        return 0.0, 1.0
    return metric.lowest, float("inf") if metric.highest is None else metric.highest


def _entry(spread: SeedSpread, lowest: float, highest: float) -> dict[str, Any]:
    half = spread.half_width()
    return {
        "value": spread.mean,
        "low": max(spread.mean - half, lowest),
        "high": min(spread.mean + half, highest),
        "seed_sd": spread.seed_sd,
        "case_se": spread.case_se,
        "seeds": spread.seeds,
    }


def _pooled_draws(runs: list[dict[str, np.ndarray]]) -> dict[str, dict[str, Any]]:
    entries = {}
    for name in (name for name in runs[0] if name.startswith("draw_")):
        values = np.concatenate([arrays[name] for arrays in runs])
        if np.isfinite(values).all():
            low, high = np.quantile(values, [0.025, 0.975])
            entry = {"value": float(values.mean()), "low": float(low), "high": float(high)}
            seed_sd = float(np.std([arrays[name].mean() for arrays in runs], ddof=1))
            entries[name.removeprefix("draw_")] = {**entry, "seed_sd": seed_sd, "seeds": len(runs)}
    return entries
