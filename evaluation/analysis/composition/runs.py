"""Runs on mixtures: the shares of their data, their scores, and whether they are held out."""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from biovfm_hf.errors import UserError

LEAST_HELD_OUT, LEAST_RUNS = 3, 5
HELD_OUT = {"1": True, "1.0": True, "true": True, "0": False, "0.0": False, "false": False, "": False}
RESERVED = ("run", "score", "held_out")  # columns that are not groups


@dataclass(frozen=True)
class MixtureRuns:
    """Runs on mixtures.

    Attributes:
        groups: names of the groups.
        shares: (n, groups) shares of each run; each row sums to 1.
        scores: (n,) score of each run; higher is better.
        held_out: (n,) bool, true for runs that responses are not fitted to.
        limits: (groups,) highest share of each group that may be recommended.
    """

    groups: list[str]
    shares: np.ndarray
    scores: np.ndarray
    held_out: np.ndarray
    limits: np.ndarray

    @property
    def fitted(self) -> tuple[np.ndarray, np.ndarray]:
        """Shares and losses of the runs that responses are fitted to."""
        return self.shares[~self.held_out], -self.scores[~self.held_out]

    def check(self, where: str) -> "MixtureRuns":
        """Check the runs and return them.

        Raises:
            UserError: there are too few runs to fit or to test on; the message begins with `where`.
        """
        least, kept = max(LEAST_RUNS, len(self.groups) + 2), int((~self.held_out).sum())
        if self.held_out.sum() < LEAST_HELD_OUT or kept < least:
            raise UserError(
                f"{where}: {kept} runs to fit and {int(self.held_out.sum())} held out; give at least {least} and "
                f"{LEAST_HELD_OUT}"
            )
        return self


def read_runs(path: Path) -> MixtureRuns:
    """Read a file of runs: a column for each group, `score`, `held_out`, and optionally `run` with their names.

    `held_out` is 1 or true, 0, false or empty.

    Raises:
        UserError: the file is no such list, the shares of a row do not sum to 1, or there are too few runs.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            rows = list(csv.DictReader(stream))
        groups = [name for name in rows[0] if name not in RESERVED]
        shares = np.array([[float(row[name]) for name in groups] for row in rows])
        scores = np.array([float(row["score"]) for row in rows])
        held_out = np.array([HELD_OUT[row["held_out"].strip().lower()] for row in rows])
    except (OSError, UnicodeDecodeError, csv.Error, KeyError, IndexError, ValueError, TypeError) as error:
        raise UserError(f"{path}: no list of shares with the columns score and held_out ({error!r})") from error
    right = (np.abs(shares.sum(axis=1) - 1) <= 1e-3) & (shares >= 0).all(axis=1) & np.isfinite(scores)
    wrong = np.flatnonzero(~right)
    if len(wrong):
        raise UserError(
            f"{path}, line {wrong[0] + 2}: shares must be 0 or more with the sum 1, and the score a number"
        )
    return MixtureRuns(groups, shares, scores, held_out, np.ones(len(groups))).check(str(path))
