"""Bootstrap intervals: the BioVFM authors' exact rules, and a better-founded alternative.

Protocol `biovfm` repeats the published evaluation: resample i drawn by `RandomState(i).randint(0, n, n)`, interval
from the 25th to the 975th of 1,000 sorted values. Protocol `fast` draws independent streams from one seed, can
resample within strata and by subject, and takes interpolated percentiles of the resamples that define the metric, by
the same rule for all metrics as on a whole split.

How such intervals behave: they cover the sampling of test cases, not of training seeds. In 1,000 simulated studies
with normal scores, the nominal 95 % interval of the AUC contained the true value 94 % of the time with 100 positives
and 100 negatives (AUC 0.76), 91 % with 10 positives of 200, 86 % with 5 of 100, and 79 % with 10 of 200 at AUC 0.96;
that of balanced accuracy 94, 94, 83 and 68 %. So intervals for rare classes, and near 0 or 1, are too narrow. If cases
of one subject resemble each other, they are far too narrow unless subjects are resampled (`clusters`). Resampling
biases the calibration error upwards (repeated cases make bins noisier), so its interval may lie above its point value.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from biovfm_hf.errors import UserError

from .metrics import Scorer
from .split import ScoredSplit
from .undefined import lone_classes, reasons

PROTOCOLS = ("biovfm", "fast")
BLOCK_BYTES = 24 * 2**20
KEPT_BLOCKS = 32  # of at most 128 resamples
ALONE = "one case or subject alone gives no interval"
Interval = dict[str, Any]


def draws_as(protocol: str) -> str:
    """The protocol of `PROTOCOLS` that draws the resamples for a protocol of `biovfm probe`."""
    return protocol if protocol == "biovfm" else "fast"


def check_protocol(protocol: str) -> None:
    """Raise a UserError unless `protocol` is one of `PROTOCOLS`."""
    if protocol not in PROTOCOLS:
        raise UserError(f"unknown protocol {protocol!r}; choose one of: {', '.join(PROTOCOLS)}")


class Resampler:
    """Counts how often bootstrap resamples draw each of n samples; equal arguments give equal draws.

    Args:
        n: number of samples.
        protocol: `biovfm` (the authors' draws) or `fast`.
        seed: random seed, for protocol `fast`.
        clusters: (n,) subject of each sample; whole subjects are drawn. Protocol `fast` only.
        stratify: (n,) stratum of each sample, such as its label. Every resample keeps the size of each stratum, or
            with `clusters` its number of subjects; a subject must then lie in one stratum. Protocol `fast` only.

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
        self._content = (protocol, seed, self.units.tobytes(), *(members.tobytes() for members in self.strata))
        self._authors = np.random.RandomState(0)  # seeded anew by each resample: a new one takes 14 times as long

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Resampler) and self._content == other._content

    def __hash__(self) -> int:
        return hash(self._content)

    def count_units(self, known: np.ndarray | slice = slice(None)) -> int:
        """Number of units (samples or subjects) that are drawn from; counts only the samples `known` (n,) if given."""
        return len(np.unique(self.units[known]))

    def counts(self, resample: int) -> np.ndarray:
        """How often resample number `resample` draws each sample: (n,) int64."""
        if self.protocol == "biovfm":
            self._authors.seed(resample)
            drawn = self._authors.randint(0, self.n, self.n)
            return np.bincount(drawn, minlength=self.n)
        rng = np.random.default_rng([self.seed, resample])
        totals = np.zeros(int(self.units.max()) + 1, np.int64)
        for members in self.strata:
            drawn = rng.integers(0, len(members), len(members))
            totals[members] = np.bincount(drawn, minlength=len(members))
        return totals[self.units]

    def blocks(self, resamples: int) -> Iterator[np.ndarray]:
        """Yield the counts of resamples 0..resamples-1 as float arrays (n, B), not to be changed; memory limits B."""
        width = int(np.clip(BLOCK_BYTES // (4 * self.n), 1, 128))
        draw = _kept_block if 4 * self.n * resamples <= BLOCK_BYTES else _block
        for start in range(0, resamples, width):
            yield draw(self, start, min(start + width, resamples))


def _block(resampler: Resampler, start: int, stop: int) -> np.ndarray:
    dtype = np.float32 if resampler.n < 2**23 else np.float64
    rows = [resampler.counts(number) for number in range(start, stop)]
    block = np.ascontiguousarray(np.stack(rows).astype(dtype).T)
    block.flags.writeable = False
    return block


# every metric of every model on one split, and every comparison of two, draws the same
_kept_block = lru_cache(maxsize=KEPT_BLOCKS)(_block)


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
    """Metrics of every resample: {name: (resamples,) float64}, NaN where a resample leaves a metric undefined.

    Under `fast` that is where the same cases as a split of their own would leave it undefined (`metrics.reasons`), so
    recall, F1 and MCC leave out the resamples that AUC leaves out. Under `biovfm` they are 0 there, as its authors
    count them.
    """
    value = scorer if resampler.protocol == "biovfm" else scorer.defined
    blocks = [value(weights) for weights in resampler.blocks(resamples)]
    return {name: np.concatenate([block[name] for block in blocks]) for name in scorer.names}


def resampled_means(values: np.ndarray, resampler: Resampler, resamples: int) -> np.ndarray:
    """Mean over cases (cases,) in every resample: (resamples,) float64, NaN if a resample has no case with a value."""
    known = np.isfinite(values)
    filled = np.where(known, values, 0.0)
    means = []
    for weights in resampler.blocks(resamples):
        with np.errstate(invalid="ignore"):
            means.append((weights.T @ filled) / (weights.T @ known))
    return np.concatenate(means)


def bounds(values: np.ndarray, protocol: str = "biovfm", tail: float = 0.05) -> tuple[float, float]:
    """Ends of the bootstrap interval that leaves out `tail` (0.05 for a 95 % interval) of the values (n,).

    `biovfm` takes elements int(tail / 2 * n) - 1 and int((1 - tail / 2) * n) - 1 of all sorted values, with undefined
    values last; `fast` takes interpolated percentiles of the defined values. NaN if no value is defined.
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
    """How intervals are made.

    Attributes:
        protocol: `biovfm` or `fast`, see the top of this file.
        resamples: number of resamples.
        seed: random seed, for protocol `fast`.

    Raises:
        UserError: the protocol is unknown, or there are no resamples.
    """

    protocol: str = "biovfm"
    resamples: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        check_protocol(self.protocol)
        if self.resamples < 1:
            raise UserError(f"{self.resamples} resamples give no interval; ask for 1000")

    def of(self, split: ScoredSplit) -> Resampler:
        """The resampler for a split, which draws whole subjects and keeps strata if the split has them.

        Raises:
            UserError: as `Resampler`.
        """
        return Resampler(split.size, self.protocol, self.seed, split.subjects, split.strata)


def intervals(split: ScoredSplit, resampling: Resampling, extra: bool = False) -> dict[str, Interval]:
    """Point values and 95 % bootstrap intervals of all metrics of one test split.

    Args:
        split: the test split, with its thresholds (`ScoredSplit.decided_at`).
        resampling: how to resample.
        extra: also compute the metrics that are not published ones.

    Returns:
        {name: {"value": point value, "mean": mean over resamples, "low", "high"}}. All are None, with a "reason", if
        the split leaves the metric undefined. The ends are None, with a "reason", if too many resamples leave it
        undefined, or under `fast` if the metric rests on a class of one case or subject. "undefined_resamples" counts
        resamples that leave it undefined.

    Raises:
        UserError: subjects or strata do not fit, or the protocol does not allow them.
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
    """The record of a metric that a single case or subject decides, so that all its resamples are the same."""
    kept = {name: value for name, value in entry.items() if name != "undefined_resamples"}
    return {"reason": reason, **kept, "low": None, "high": None}


def interval_notes(intervals: dict[str, Interval], resamples: int) -> list[str]:
    """Notes on metrics without an interval, and on those whose intervals use fewer than 95 % of the resamples."""
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
        values: (cases,) or (cases, K) scores; NaN where a case leaves the score undefined, which the mean leaves out.
        resampling: number of resamples and seed; the resamples are always drawn as under protocol `fast`.
        clusters: (cases,) subjects, to draw whole subjects.
        tail: share of resamples outside the interval.

    Returns:
        K records of {"value", "mean", "low", "high", "cases"}; the values are None if no case defines the score.
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
