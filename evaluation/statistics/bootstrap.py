"""Decision thresholds and bootstrap intervals: the BioVFM authors' exact rules, and a better-founded set.

Protocol `biovfm` repeats the published evaluation (thresholds by validation MCC over scikit-learn's ROC thresholds;
resample i drawn by `RandomState(i).randint(0, n, n)`; the interval is the 25th and 975th of 1,000 sorted values).
Protocol `fast` takes thresholds midway between validation scores, draws independent streams from one seed, can
resample within strata and by subject, and takes interpolated percentiles of the resamples that define the metric.

How such intervals behave: they hold the sampling of test cases, not of training seeds. In 1,000 simulated studies of
normal scores the nominal 95 % interval of the AUC held the truth 94 % of the time with 100 positives and 100
negatives (AUC 0.76), 91 % with 10 positives of 200, 86 % with 5 of 100, and 79 % with 10 of 200 at AUC 0.96; balanced
accuracy 94, 94, 83 and 68 %. So read intervals over rare classes, and near 0 or 1, as too narrow. Where cases of one
subject resemble each other they are far too narrow unless subjects are resampled (`clusters`). The calibration error
is biased upwards by resampling (repeats make bins noisier), so that its interval may lie above its point value.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from biovfm_hf.errors import UserError

from .kinds import BINARY, MULTILABEL
from .metrics import Scorer, binary_metrics, lone_classes, reasons
from .split import ScoredSplit

PROTOCOLS = ("biovfm", "fast")
MAX_CANDIDATES = 1000
BLOCK_BYTES = 24 * 2**20
ALONE = "one case or subject alone gives no interval"
Interval = dict[str, Any]


def draws_as(protocol: str) -> str:
    """The protocol of `PROTOCOLS` by which resamples are drawn under any protocol of `biovfm probe`."""
    return protocol if protocol == "biovfm" else "fast"


def choose_thresholds(val: ScoredSplit, protocol: str = "biovfm") -> np.ndarray:
    """Decision thresholds with the highest MCC on validation: one per label, `[0.5]` for multi-class tasks.

    Under `biovfm` the candidates are the scores that scikit-learn's `roc_curve` keeps, every k-th of them where there
    are 2,000 or more; a score is positive at a candidate it equals here, and is not when `score > threshold` decides
    on test. Under `fast` the candidates lie midway between neighbouring scores, so that both rules agree.

    Args:
        val: the validation split.
        protocol: `biovfm` or `fast`.

    Returns:
        (L,) float64.

    Raises:
        UserError: no label has both positive and negative validation samples.
    """
    check_protocol(protocol)
    if val.task not in (BINARY, MULTILABEL):
        return np.array([0.5])
    positives = val.labels.sum(axis=0)
    if not ((positives > 0) & (positives < val.size)).any():
        raise UserError("val_labels holds one class only, so no decision threshold can be chosen; "
                        "give a validation split with both classes")  # fmt: skip
    columns = zip(val.labels.T, val.scores.T, strict=True)
    return np.array([_best_threshold(labels, scores, protocol) for labels, scores in columns])


def threshold_notes(val: ScoredSplit) -> list[str]:
    """In words, the labels whose validation samples are all of one class, so that their thresholds mean nothing."""
    if val.task not in (BINARY, MULTILABEL):
        return []
    positives = val.labels.sum(axis=0)
    lacking = np.flatnonzero((positives == 0) | (positives == val.size))
    return [f"val: label {k} has one class only; its threshold is the lowest validation score" for k in lacking]


def _best_threshold(labels: np.ndarray, scores: np.ndarray, protocol: str) -> float:
    order = np.argsort(-scores, kind="stable")
    ordered, hits = scores[order], np.cumsum(labels[order])
    last = np.flatnonzero(np.append(np.diff(ordered) != 0, True))
    tp = hits[last].astype(np.float64)
    fp = last + 1 - tp
    values = ordered[last]
    if protocol == "biovfm":
        kept = _roc_corners(tp, fp)
        tp, fp, values = tp[kept], fp[kept], values[kept]
    tp, fp, values = tp[::-1], fp[::-1], values[::-1]  # ascending thresholds: the first of equal maxima is the lowest
    step = max(1, len(values) // MAX_CANDIDATES) if protocol == "biovfm" and len(values) > MAX_CANDIDATES else 1
    positives, total = hits[-1], len(scores)
    counts = np.stack([tp, fp, positives - tp, total - positives - fp], axis=-1)[::step, None, :]
    best = int(np.argmax(binary_metrics(counts)["mcc"])) * step
    if protocol == "biovfm" or best == 0:
        return float(values[best])
    return float((values[best - 1] + values[best]) / 2)


def _roc_corners(tp: np.ndarray, fp: np.ndarray) -> np.ndarray:
    """Indices of the ROC points that scikit-learn's `roc_curve` keeps: the ends, and wherever a step changes."""
    if len(tp) <= 2:
        return np.arange(len(tp))
    turns = (np.diff(fp, 2) != 0) | (np.diff(tp, 2) != 0)
    return np.flatnonzero(np.concatenate([[True], turns, [True]]))


def check_protocol(protocol: str) -> None:
    """Raise a UserError unless `protocol` is one of `PROTOCOLS`."""
    if protocol not in PROTOCOLS:
        raise UserError(f"unknown protocol {protocol!r}; choose one of: {', '.join(PROTOCOLS)}")


class Resampler:
    """Draw counts of bootstrap resamples of n samples, the same for everything that is resampled with the same values.

    Args:
        n: number of samples.
        protocol: `biovfm` (the authors' draws) or `fast`.
        seed: of protocol `fast`.
        clusters: (n,) subject of each sample; whole subjects are drawn. Protocol `fast` only.
        stratify: (n,) stratum of each sample, such as its label; each keeps its size (its number of subjects, with
            `clusters`, and a subject then lies in one stratum). Protocol `fast` only.

    Raises:
        UserError: lengths differ, a subject lies in two strata, or `biovfm` is combined with clusters or strata.
    """

    def __init__(
        self,
        n: int,
        protocol: str = "biovfm",
        seed: int = 0,
        clusters: np.ndarray | None = None,
        stratify: np.ndarray | None = None,
    ):
        check_protocol(protocol)
        if protocol == "biovfm" and (clusters is not None or stratify is not None):
            raise UserError("protocol biovfm draws images independently, as its authors did; "
                            "for clusters or strata use protocol fast")  # fmt: skip
        self.n, self.protocol, self.seed = n, protocol, seed
        self.units = np.arange(n) if clusters is None else _codes(clusters, n, "clusters")
        self.strata = _unit_strata(self.units, stratify, n)

    def count_units(self, known: np.ndarray | slice = slice(None)) -> int:
        """How many units (samples or subjects) are drawn from; of the samples `known` (n,) alone, if given."""
        return len(np.unique(self.units[known]))

    def counts(self, resample: int) -> np.ndarray:
        """How often each sample is drawn in resample number `resample`: (n,) int64."""
        if self.protocol == "biovfm":
            drawn = np.random.RandomState(resample).randint(0, self.n, self.n)
            return np.bincount(drawn, minlength=self.n)
        rng = np.random.default_rng([self.seed, resample])
        totals = np.zeros(int(self.units.max()) + 1, np.int64)
        for members in self.strata:
            drawn = rng.integers(0, len(members), len(members))
            totals[members] = np.bincount(drawn, minlength=len(members))
        return totals[self.units]

    def blocks(self, resamples: int) -> Iterator[np.ndarray]:
        """Yield the counts of resamples 0..resamples-1 as float arrays (n, B), B bounded by memory."""
        dtype = np.float32 if self.n < 2**23 else np.float64
        width = int(np.clip(BLOCK_BYTES // (4 * self.n), 1, 128))
        for start in range(0, resamples, width):
            rows = [self.counts(i) for i in range(start, min(start + width, resamples))]
            yield np.ascontiguousarray(np.stack(rows).astype(dtype).T)


def _codes(values: np.ndarray, n: int, name: str) -> np.ndarray:
    values = np.asarray(values).reshape(-1)
    if len(values) != n:
        raise UserError(f"{name} has {len(values)} entries for {n} samples; give one per sample")
    return np.unique(values, return_inverse=True)[1]


def _unit_strata(units: np.ndarray, stratify: np.ndarray | None, n: int) -> list[np.ndarray]:
    """The units (samples or subjects) of each stratum."""
    count = int(units.max()) + 1
    if stratify is None:
        return [np.arange(count)]
    codes = _codes(stratify, n, "stratify")
    of_unit = np.zeros(count, np.int64)
    of_unit[units] = codes
    if not np.array_equal(of_unit[units], codes):
        raise UserError("a subject lies in two strata; stratify by something that is constant within subjects")
    return [np.flatnonzero(of_unit == stratum) for stratum in range(int(codes.max()) + 1)]


def resampled_metrics(scorer: Scorer, resampler: Resampler, resamples: int) -> dict[str, np.ndarray]:
    """Metrics of every resample: {name: (resamples,) float64}, NaN if a resample leaves a metric undefined."""
    blocks = [scorer(weights) for weights in resampler.blocks(resamples)]
    return {name: np.concatenate([block[name] for block in blocks]) for name in scorer.names}


def resampled_means(values: np.ndarray, resampler: Resampler, resamples: int) -> np.ndarray:
    """Mean over cases (cases,) of every resample: (resamples,) float64, NaN if it draws no case with a value."""
    known = np.isfinite(values)
    filled = np.where(known, values, 0.0)
    means = []
    for weights in resampler.blocks(resamples):
        with np.errstate(invalid="ignore"):
            means.append((weights.T @ filled) / (weights.T @ known))
    return np.concatenate(means)


def bounds(values: np.ndarray, protocol: str = "biovfm", tail: float = 0.05) -> tuple[float, float]:
    """Ends of the bootstrap interval that leaves out `tail` (0.05 for a 95 % interval) of the values (n,).

    `biovfm` takes elements int(tail / 2 * n) - 1 and int((1 - tail / 2) * n) - 1 of all sorted values, undefined ones
    last; `fast` interpolated percentiles of the defined values. NaN if there is none.
    """
    if protocol == "biovfm":
        ordered, n = np.sort(values), len(values)
        return float(ordered[max(int(tail / 2 * n) - 1, 0)]), float(ordered[max(int((1 - tail / 2) * n) - 1, 0)])
    defined = values[~np.isnan(values)]
    if not len(defined):
        return float("nan"), float("nan")
    low, high = np.quantile(defined, [tail / 2, 1 - tail / 2])
    return float(low), float(high)


@dataclass(frozen=True)
class Resampling:
    """How intervals are made: the `protocol` (see the head of this file), how many `resamples`, `seed` of `fast`.

    Raises:
        UserError: another protocol, or no resamples.
    """

    protocol: str = "biovfm"
    resamples: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        check_protocol(self.protocol)
        if self.resamples < 1:
            raise UserError(f"{self.resamples} resamples give no interval; ask for 1000")

    def of(self, split: ScoredSplit) -> Resampler:
        """The draws from a split: of its subjects, within its strata, where it has them.

        Raises:
            UserError: as `Resampler`.
        """
        return Resampler(split.size, self.protocol, self.seed, split.subjects, split.strata)


def intervals(split: ScoredSplit, resampling: Resampling, extra: bool = False) -> dict[str, Interval]:
    """Point values and 95 % bootstrap intervals of all metrics of one test split.

    Args:
        split: with its thresholds (`ScoredSplit.decided_at`).
        resampling: how.
        extra: also the metrics that are not the published ones.

    Returns:
        {name: {"value": point value, "mean": mean over resamples, "low", "high"}}; all None, with a "reason", where
        the split leaves the metric undefined; ends None, with a "reason", where too many resamples do, or under
        `fast` where the metric rests on a class of one case or subject; "undefined_resamples" where some do.

    Raises:
        UserError: subjects or strata do not fit, or the protocol takes none.
    """
    scorer, protocol = Scorer(split, extra), resampling.protocol
    point = scorer(np.ones((split.size, 1), np.float32))
    resampler = resampling.of(split)
    values = resampled_metrics(scorer, resampler, resampling.resamples)
    undefined = reasons(split)
    entries = {k: _interval(float(point[k][0]), values[k], protocol, undefined.get(k)) for k in scorer.names}
    alone = dict.fromkeys(entries, ALONE) if resampler.count_units() == 1 else {}
    if protocol == "fast":
        alone = lone_classes(split, resampler.units) | alone
    return {k: without_interval(entry, alone[k]) if k in alone else entry for k, entry in entries.items()}


def without_interval(entry: Interval, reason: str) -> Interval:
    """The record of what a single case or subject decides, whose resamples are all the same."""
    kept = {name: value for name, value in entry.items() if name != "undefined_resamples"}
    return {"reason": reason, **kept, "low": None, "high": None}


def interval_notes(intervals: dict[str, Interval], resamples: int) -> list[str]:
    """In words, the metrics without an interval, and those whose intervals rest on fewer than 95 % of resamples."""
    whole = {
        name: entry for name, entry in intervals.items() if None not in (entry["value"], entry["low"], entry["high"])
    }
    without: dict[str, list[str]] = {}
    for name, entry in intervals.items():
        if name not in whole and entry["value"] is not None:
            without.setdefault(entry["reason"], []).append(name)
    notes = [f"no interval of {', '.join(names)}: {reason}" for reason, names in without.items()]
    lacking = {name: entry.get("undefined_resamples", 0) for name, entry in whole.items()}
    if names := [name for name, count in lacking.items() if count > 0.05 * resamples]:
        most = max(lacking.values())
        notes.append(
            f"intervals of {', '.join(names)} leave out up to {most} of {resamples} resamples, which lack a class"
        )
    return notes


def _interval(point: float, values: np.ndarray, protocol: str, reason: str | None) -> Interval:
    if reason is not None or np.isnan(point):
        return {"value": None, "mean": None, "low": None, "high": None, "reason": reason or "undefined on this split"}
    lacking = int(np.isnan(values).sum())
    low, high = bounds(values, protocol)
    mean = float(np.nanmean(values)) if lacking < len(values) else None
    interval: Interval = {"value": point, "mean": mean, "low": _or_none(low), "high": _or_none(high)}
    if lacking:
        interval["undefined_resamples"] = lacking
    if interval["low"] is None or interval["high"] is None:
        interval["reason"] = f"{lacking} of {len(values)} resamples lack a class; protocol fast leaves such out"
    return interval


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else value


def mean_intervals(
    values: np.ndarray, resampling: Resampling, clusters: np.ndarray | None = None, tail: float = 0.05
) -> list[Interval]:
    """Means over cases with bootstrap intervals, for per-case scores such as Dice.

    Args:
        values: (cases,) or (cases, K); NaN if a case leaves the score undefined, which is left out of the mean.
        resampling: how many resamples, and their seed; they are always drawn as under protocol `fast`.
        clusters: (cases,) subjects, to draw whole subjects.
        tail: share of resamples outside the interval.

    Returns:
        K records of {"value", "mean", "low", "high", "cases"}; values None if no case defines the score.
    """
    values = np.asarray(values, dtype=np.float64)
    values = values[:, None] if values.ndim == 1 else values
    if len(values) == 0:
        raise UserError("no cases to average; the split is empty")
    known = ~np.isnan(values)
    filled = np.where(known, values, 0.0)
    means = []
    resampler = Resampler(len(values), "fast", resampling.seed, clusters)
    for weights in resampler.blocks(resampling.resamples):
        counts = weights.T.astype(np.float64)
        with np.errstate(invalid="ignore"):
            means.append((counts @ filled) / (counts @ known))
    drawn = np.concatenate(means)
    entries = [_mean_record(values[:, k], drawn[:, k], tail) for k in range(values.shape[1])]
    alone = [resampler.count_units(known[:, k]) == 1 for k in range(values.shape[1])]
    return [without_interval(entry, ALONE) if single else entry for entry, single in zip(entries, alone, strict=True)]


def _mean_record(values: np.ndarray, drawn: np.ndarray, tail: float) -> Interval:
    defined = values[~np.isnan(values)]
    if not len(defined):
        empty: Interval = {"value": None, "mean": None, "low": None, "high": None, "cases": 0}
        return empty | {"reason": "no case defines the score"}
    low, high = bounds(drawn, "fast", tail)
    return {"value": float(defined.mean()), "mean": float(np.nanmean(drawn)), "low": low, "high": high,
            "cases": len(defined)}  # fmt: skip
