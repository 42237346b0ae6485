"""The `biovfm leaderboard` command: a page of models x tasks with intervals, real ranks, leakage and costs."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from biovfm_hf.errors import OptionError, UserError
from biovfm_hf.options import CommandParser, argument, check_options, option, parse_options, required
from biovfm_hf.writing.csv_text import csv_text
from biovfm_hf.writing.files import write_text

from .. import formats
from ..inputs.results import interval_text
from ..templating import TEMPLATES, template_environment
from .board import Board, make_boards
from .entries import read_entries
from .naming import apart
from .overlaps import read_overlaps

EPILOG = """examples:
  biovfm leaderboard results --out board
  biovfm leaderboard results-a results-b owner/model --out board --export space
  biovfm leaderboard results --out board --dataset ours=dataset/     flags where data and benchmark overlap

RESULTS are results files or folders of biovfm probe, model folders with a card or .eval_results, or Hub model
repositories. OUT receives index.html, leaderboard.json and leaderboard.csv, and for a Space its README.md."""
SPACE = """---
title: {title}
emoji: 🏥
colorFrom: blue
colorTo: green
sdk: static
pinned: false
---

Made by `biovfm leaderboard` of BioVFM-HF. Research use; not for the care of patients.
"""


@dataclass(frozen=True)
class LeaderboardOptions:
    """Options of `biovfm leaderboard`, keywords of `biovfm_hf.leaderboard`."""

    results: tuple[str, ...] = argument("results files or folders, model folders, Hub repositories", metavar="RESULTS")
    out: Path = required("folder for the page", metavar="DIR")
    export: str = option("page", "page: only the page; space: also a static Space", choices=("page", "space"))
    dataset: tuple[str, ...] = option(
        (), "the dataset that a model was pretrained on, a folder or a Hub id, to flag overlaps that its build.json "
        "tells; again for each model", metavar="MODEL=DATASET",
    )  # fmt: skip
    title: str = option("Biomedical vision leaderboard", "heading of the page")

    def __post_init__(self) -> None:
        check_options(self)
        if self.out.is_file():
            raise OptionError("out", f"{self.out} is a file; give a folder")
        if wrong := next((word for word in self.dataset if "=" not in word), None):
            raise OptionError("dataset", f"{wrong!r} does not name a model; give MODEL=DATASET")


def leaderboard(options: LeaderboardOptions) -> list[Board]:
    """Write the page, its tables and, for a Space, the README, to `options.out`.

    Returns:
        The boards: one for each method, settings and metric.

    Raises:
        UserError: an input is none of those known, damaged, or has no score, or `dataset` names an unknown model.
    """
    entries, comparisons = read_entries(options.results)
    if not entries:
        raise UserError(f"{', '.join(options.results)}: no score there; run biovfm probe first")
    entries = apart(entries)
    boards = make_boards(entries, comparisons, read_overlaps(options.dataset, entries))
    rows = board_rows(boards)
    write_text(options.out / "index.html", render(boards, options.title))
    write_text(options.out / "leaderboard.json", json.dumps(rows, indent=1) + "\n")
    write_text(options.out / "leaderboard.csv", csv_text(rows, list(rows[0])))
    if options.export == "space":
        write_text(options.out / "README.md", SPACE.format(title=json.dumps(options.title, ensure_ascii=False)))
    return boards


def board_rows(boards: list[Board]) -> list[dict[str, Any]]:
    """Every cell as a row of leaderboard.json."""
    return [
        {"model": model, "task": task, "method": board.method, "settings": board.settings, "seeds": cell.entry.seeds,
         "metric": board.metric, "value": cell.entry.score.value, "low": cell.entry.score.low,
         "high": cell.entry.score.high, "rank": cell.rank, "rank_first": cell.first, "rank_last": cell.last,
         "revision": cell.entry.revision, "modality": cell.entry.modality, "licence": cell.entry.licence,
         "leakage": cell.overlap.inside, "screened": cell.overlap.left_out, "seconds": cell.entry.cost,
         "source": cell.entry.source}
        for board in boards for (model, task), cell in board.cells.items()
    ]  # fmt: skip


def render(boards: list[Board], title: str) -> str:
    """The HTML page. Text from files is escaped, and the page's own CSP lets it load nothing."""
    environment = template_environment(autoescape=True, interval=interval_text)
    cells = [cell.entry for board in boards for cell in board.cells.values()]
    return environment.get_template("leaderboard/page.html.j2").render(
        title=title, boards=boards, style=(TEMPLATES / "report.css").read_text(encoding="utf-8"),
        modalities=sorted({entry.modality for entry in cells}),
        licences=sorted({entry.licence or "not told" for entry in cells}), duration=formats.duration,
    )  # fmt: skip


def main(argv: list[str]) -> int:
    """`biovfm leaderboard`. Returns the exit status."""
    parser = CommandParser(
        prog="biovfm leaderboard",
        description="Set models beside each other on tasks, with intervals, ranks that paired tests leave possible, "
        "overlaps of their pretraining data with benchmarks, costs, and filters; as a page or a static Space.",
        epilog=EPILOG,
    )
    options = parse_options(parser, LeaderboardOptions, argv)
    boards = leaderboard(options)
    print(f"{options.out / 'index.html'}: {len(boards)} tables, {sum(len(board.cells) for board in boards)} scores")
    return 0
