"""The `biovfm scaling mixture` command: designs of pretraining mixtures, their runs, and a recommended mixture."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from biovfm_hf.errors import OptionError, UserError
from biovfm_hf.options import CommandParser, argument, check_options, option, parse_options, required
from biovfm_hf.writing.files import write_text

from ..scaling.tables import write_rows
from .designs import MAX_EPOCHS, dirichlet, lattice, limits_of
from .recommendation import Recommendation, recommend, recommendation_lines
from .runner import DESCRIPTION as RUN_DESCRIPTION
from .runner import MixtureRunOptions, plan_lines, run_mixtures
from .runs import read_runs

NAME = "biovfm scaling mixture"
DESCRIPTION = """\
Fit how a score depends on the shares of the pretraining data, and recommend a mixture.

MIXTURES.csv has one column of shares for each group; the shares of a row sum to 1. Once the runs are done, it also has
a column `score` (higher is better) and a column `held_out`: 1 for mixtures that test the responses, 0 for the others.
A column `run` may name the runs. Rows with the same mixture are runs with different seeds, which show the variation by
chance."""
EXAMPLES = """\
examples:
  biovfm scaling mixture run mixture.yaml --out mixture        design, pretrain, probe, fit; resumes when run again
  biovfm scaling mixture design --groups a,b,c --out mixtures.csv        mixtures for your own pretraining
  biovfm scaling mixture mixtures.csv --out mixture.json       fit scores that you have
  biovfm scaling mixture mixtures.csv --images 9000,400,2000 --seen 20000 --out mixture.json

A picture with the same name is written beside FILE.json."""


@dataclass(frozen=True)
class DesignOptions:
    """Options of `biovfm scaling mixture design`."""

    groups: tuple[str, ...] = required("modalities, anatomies or sources", metavar="NAME,...", commas=True)
    out: Path = required("the mixtures file to write", metavar="MIXTURES.csv")
    images: tuple[int, ...] = option((), "number of images of each group: draws mixtures around their shares",
                                     metavar="N,...", commas=True, least=1)  # fmt: skip
    degree: int = option(2, "degree of the lattice, whose shares are multiples of 1 / degree", least=1)
    runs: int = option(24, "number of draws", least=2)
    seed: int = option(0, "random seed of the draws", least=0)

    def __post_init__(self) -> None:
        check_options(self)
        if len(set(self.groups)) < max(len(self.groups), 2):
            raise OptionError("groups", "give two or more different names")
        if self.images and len(self.images) != len(self.groups):
            raise OptionError("images", f"{len(self.images)} numbers for {len(self.groups)} groups; give one for each")


@dataclass(frozen=True)
class MixtureOptions:
    """Options of `biovfm scaling mixture MIXTURES.csv`."""

    runs: Path = argument("mixtures with their scores", metavar="MIXTURES.csv")
    out: Path = required("the JSON file to write", metavar="FILE.json")
    images: tuple[int, ...] = option((), "number of images of each group, to bound its share", metavar="N,...",
                                     commas=True, least=1)  # fmt: skip
    seen: int | None = option(None, "number of images that each run sees; needs --images", least=1)
    epochs: float = option(float(MAX_EPOCHS), "most passes over a group; needs --images", above=0)
    resamples: int = option(200, "resamples of the residuals for the intervals, and shuffles for p", least=20)
    seed: int = option(0, "random seed of resamples, shuffles and candidate mixtures", least=0)

    def __post_init__(self) -> None:
        check_options(self)
        if bool(self.images) != (self.seen is not None):
            raise UserError("images and seen bound shares together; give both or neither")


def main(argv: list[str]) -> int:
    """Run `biovfm scaling mixture`. Returns 0; failures are raised as UserError."""
    actions = {"design": _design, "run": _run}
    if argv and argv[0] in actions:
        return actions[argv[0]](argv[1:])
    options = parse_options(CommandParser(NAME, DESCRIPTION, EXAMPLES), MixtureOptions, argv)
    print("\n".join(recommendation_lines(fit_mixtures(options).report)))
    return 0


def _design(argv: list[str]) -> int:
    options = parse_options(CommandParser(f"{NAME} design", "Write mixtures to pretrain on."), DesignOptions, argv)
    print(f"{len(write_design(options))} mixtures in {options.out}; pretrain each on equally many images")
    return 0


def _run(argv: list[str]) -> int:
    options = parse_options(CommandParser(f"{NAME} run", RUN_DESCRIPTION), MixtureRunOptions, argv)
    if options.dry_run:
        print("\n".join(plan_lines(options)))
        return 0
    run_mixtures(options)
    return 0


def write_design(options: DesignOptions) -> np.ndarray:
    """Write the mixtures (runs, groups) of a lattice, or draws around the natural shares. Returns them."""
    if options.images:
        shares = dirichlet(np.array(options.images, np.float64), options.runs, options.seed)
    else:
        shares = lattice(len(options.groups), options.degree)
    rows = [dict(zip(options.groups, (round(float(s), 6) for s in row), strict=True)) for row in shares]
    write_rows(options.out, options.groups, rows)
    return shares


def fit_mixtures(options: MixtureOptions) -> Recommendation:
    """Fit the runs of a file, and write the recommended mixture with a picture beside it.

    Raises:
        UserError: as `runs.read_runs`, or the limits do not match the groups or leave no mixture.
    """
    from .picture import draw_mixture  # loads matplotlib

    runs = read_runs(options.runs)
    if options.images and options.seen:
        if len(options.images) != len(runs.groups):
            raise OptionError(
                "images", f"{len(options.images)} numbers for {len(runs.groups)} groups; give one for each"
            )
        limits = limits_of(np.array(options.images, np.float64), options.seen, options.epochs)
        runs = replace(runs, limits=limits)
    recommendation = recommend(runs, options.resamples, options.seed)
    write_report(options.out, recommendation.report)
    draw_mixture(options.out.with_suffix(".png"), runs, recommendation, options.runs.stem)
    return recommendation


def write_report(path: Path, report: dict[str, Any]) -> None:
    """Write a report as JSON."""
    write_text(path, json.dumps(report, indent=1) + "\n")
