"""`biovfm scaling mixture`: designs of pretraining mixtures, and the mixture that fitted responses recommend."""

import argparse
import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from biovfm_hf.errors import UserError
from biovfm_hf.options import argument, check_options, option, parse_options, required
from biovfm_hf.writing.files import write_text

from ..scaling.tables import write_rows
from .designs import dirichlet, lattice
from .responses import RESPONSES, fit_quality

DESCRIPTION = """\
Fit how a score depends on the shares of the pretraining data, and recommend a mixture.

MIXTURES.csv has a column of shares for each group, summing to 1 in each row, and, once the runs are done, a column
`score` (higher is better) and one `held_out` with 1 for the mixtures that responses are judged on, 0 for the others.
`biovfm scaling mixture design --groups a,b,c --out MIXTURES.csv` writes mixtures to pretrain on."""
CANDIDATES, LEAST_HELD_OUT, LEAST_RUNS = 5000, 3, 5


@dataclass(frozen=True)
class DesignOptions:
    """What `biovfm scaling mixture design` takes."""

    groups: tuple[str, ...] = required("modalities, anatomies or sources", metavar="NAME,...", commas=True)
    out: Path = required("the mixtures file to write", metavar="MIXTURES.csv")
    images: tuple[int, ...] = option((), "natural numbers, for draws, not a lattice", metavar="N,...", commas=True,
                                     least=1)  # fmt: skip
    degree: int = option(2, "of the lattice: shares are multiples of 1 / degree", least=1)
    runs: int = option(24, "how many draws", least=2)
    seed: int = option(0, "of the draws", least=0)

    def __post_init__(self) -> None:
        check_options(self)
        if len(set(self.groups)) < max(len(self.groups), 2):
            raise UserError("groups: give two or more different names")
        if self.images and len(self.images) != len(self.groups):
            raise UserError(f"images: {len(self.images)} numbers for {len(self.groups)} groups; give one for each")


@dataclass(frozen=True)
class MixtureOptions:
    """What `biovfm scaling mixture MIXTURES.csv` takes."""

    runs: Path = argument("mixtures with their scores", metavar="MIXTURES.csv")
    out: Path = required("the JSON file to write", metavar="FILE.json")
    resamples: int = option(100, "of the runs, for intervals", least=20)
    seed: int = option(0, "of resamples and candidates", least=0)

    def __post_init__(self) -> None:
        check_options(self)


def main(argv: list[str]) -> int:
    """Run `biovfm scaling mixture`. Returns 0; failures are raised as UserError."""
    if argv[:1] == ["design"]:
        parser = argparse.ArgumentParser("biovfm scaling mixture design", description="Write mixtures to pretrain on.")
        design = parse_options(parser, DesignOptions, argv[1:])
        print(f"{len(write_design(design))} mixtures in {design.out}; pretrain each on equally many images")
        return 0
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("biovfm scaling mixture", description=DESCRIPTION, formatter_class=formatter)
    options = parse_options(parser, MixtureOptions, argv)
    report = recommend(options)
    for name, quality in report["responses"].items():
        print(
            f"{name:<12} held out: error {quality['mae']:.4f}, R2 {quality['r2']:.3f}, rank {quality['spearman']:.3f}"
        )
    for name, share in report["shares"].items():
        print(f"{name:<20} {share['value']:.3f} ({share['low']:.3f}, {share['high']:.3f})")
    score = report["score"]
    print(f"predicted score {score['value']:.4f} ({score['low']:.4f}, {score['high']:.4f}) by {report['chosen']}")
    return 0


def write_design(options: DesignOptions) -> np.ndarray:
    """Write the mixtures (runs, groups) of a lattice, or of draws around natural shares."""
    if options.images:
        shares = dirichlet(np.array(options.images, np.float64), options.runs, options.seed)
    else:
        shares = lattice(len(options.groups), options.degree)
    rows = [dict(zip(options.groups, (round(float(s), 6) for s in row), strict=True)) for row in shares]
    write_rows(options.out, options.groups, rows)
    return shares


def read_runs(path: Path) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray]:
    """The groups, shares (n, M), scores (n,), and which runs are held out (n,) bool.

    Raises:
        UserError: the file is no such list, a row's shares do not sum to 1, or there are too few runs.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            rows = list(csv.DictReader(stream))
        groups = [name for name in rows[0] if name not in ("score", "held_out")]
        shares = np.array([[float(row[name]) for name in groups] for row in rows])
        scores = np.array([float(row["score"]) for row in rows])
        held_out = np.array([row["held_out"].strip() == "1" for row in rows])
    except (OSError, UnicodeDecodeError, csv.Error, KeyError, IndexError, ValueError, TypeError) as error:
        raise UserError(f"{path}: no list of shares with the columns score and held_out ({error!r})") from error
    wrong = np.flatnonzero((np.abs(shares.sum(axis=1) - 1) > 1e-3) | (shares < 0).any(axis=1) | ~np.isfinite(scores))
    if len(wrong):
        raise UserError(
            f"{path}, line {wrong[0] + 2}: shares must be 0 or more with the sum 1, and the score a number"
        )
    if held_out.sum() < LEAST_HELD_OUT or (~held_out).sum() < max(LEAST_RUNS, len(groups) + 2):
        raise UserError(f"{path}: {(~held_out).sum()} runs to fit and {held_out.sum()} held out; give at least "
                        f"{max(LEAST_RUNS, len(groups) + 2)} and {LEAST_HELD_OUT}")  # fmt: skip
    return groups, shares, scores, held_out


def recommend(options: MixtureOptions) -> dict[str, Any]:
    """Fit every response, judge it on the held-out mixtures, and write the best mixture of the best.

    Intervals are percentiles over resamples of the fitted runs; those of shares are of each resample's own optimum.

    Returns:
        {"responses": {name: quality on held-out runs}, "chosen", "shares": {group: {"value", "low", "high"}}, "score":
        the same, "best_seen": the highest score of any run}.

    Raises:
        UserError: as `read_runs`.
    """
    groups, shares, scores, held_out = read_runs(options.runs)
    fitted, losses = shares[~held_out], -scores[~held_out]
    quality = {
        name: fit_quality(-fit(fitted, losses)(shares[held_out]), scores[held_out]) for name, fit in RESPONSES.items()
    }
    chosen = min(quality, key=lambda name: quality[name]["mae"])
    random = np.random.default_rng(options.seed)
    candidates = np.concatenate([random.dirichlet(np.ones(len(groups)), CANDIDATES), np.eye(len(groups)), shares])
    predicted = RESPONSES[chosen](fitted, losses)(candidates)
    best = int(predicted.argmin())
    optima, values = [], []
    for _ in range(options.resamples):
        drawn = random.integers(0, len(fitted), len(fitted))
        again = RESPONSES[chosen](fitted[drawn], losses[drawn])(candidates)
        optima.append(candidates[again.argmin()])
        values.append(-again[best])
    low, high = np.quantile(optima, [0.025, 0.975], axis=0)
    ends = np.quantile(values, [0.025, 0.975])
    report = {
        "responses": quality, "chosen": chosen, "best_seen": float(scores.max()), "seed": options.seed,
        "shares": {name: {"value": float(candidates[best, k]), "low": float(low[k]), "high": float(high[k])}
                   for k, name in enumerate(groups)},
        "score": {"value": float(-predicted[best]), "low": float(ends[0]), "high": float(ends[1])},
    }  # fmt: skip
    write_text(options.out, json.dumps(report, indent=1) + "\n")
    return report
