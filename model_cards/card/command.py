"""The `biovfm card` command: writes a model card from the recorded facts."""

import json
from dataclasses import dataclass
from pathlib import Path

from biovfm_hf.cards.provenance import write_provenance
from biovfm_hf.options import CommandParser, parse_options
from biovfm_hf.writing.files import write_text

from ..ending import end_command
from ..inputs.results import results_rows
from .earlier import kept_text, written_text
from .facts import CardFacts, gather
from .figures import carry_figures
from .model_index import leaderboard_yaml
from .options import CardOptions
from .render import render_card

EPILOG = """examples:
  biovfm card run/model --results results --run run --dataset data
  biovfm card run/model --results results --repo-id you/biovfm-tiny --license apache-2.0
  biovfm card run/model --results results --run run --watts 700 --grid 380
"""


@dataclass(frozen=True)
class WrittenCard:
    """A written card: its file, how many results and pictures it shows, and remarks for the user."""

    path: Path
    results: int
    pictures: int
    notes: tuple[str, ...] = ()


def card(options: CardOptions) -> WrittenCard:
    """Write the model folder's README.md, and its results in machine-readable form beside it.

    Raises:
        UserError: a folder is not of the kind that its option needs, or the results are of another model.
    """
    folder = options.model_dir
    readme = folder / "README.md"
    facts = gather(options)
    text, kept, notes = render_card(facts), kept_text(readme), _notes(facts, folder)
    carry_figures(facts.figures, folder, written_text(readme))
    write_provenance(folder, facts.provenance)
    write_text(readme, text + (f"\n{kept}\n" if kept else ""))
    _write_results(facts, folder, options.benchmark)
    return WrittenCard(readme, len(facts.records), len(facts.figures.pictures), notes)


def _notes(facts: CardFacts, folder: Path) -> tuple[str, ...]:
    notes = []
    if not facts.records and (folder / "results" / "biovfm.json").is_file():
        notes.append("the earlier card's scores and pictures are removed, since no results were given")
    for name in dict.fromkeys(base.name for base in facts.bases or () if not base.on_hub):
        notes.append(
            f"base_model is left out for {name}, which is no name on the Hub; if the Hub has it: "
            f"--base-model {name}=OWNER/NAME"
        )
    if facts.figures.left_out:
        notes.append(
            f"{len(facts.figures.left_out)} pictures of test images of private tasks are left out of the card; to "
            "show them: --private-images"
        )
    if facts.figures.private_tasks:
        notes.append(f"the card shows test images of private tasks: {', '.join(facts.figures.private_tasks)}")
    return tuple(notes)


def _write_results(facts: CardFacts, folder: Path, benchmark: str | None) -> None:
    """Write the card's records as a results file, and in the Hub's form for `benchmark`; earlier ones are removed."""
    results, board = folder / "results" / "biovfm.json", folder / ".eval_results" / "biovfm.yaml"
    for file in (results, board):
        file.unlink(missing_ok=True)
    if facts.records:
        write_text(results, json.dumps(results_rows(facts.records, facts.model_id), indent=1) + "\n")
        if benchmark:
            write_text(board, leaderboard_yaml(facts.records, benchmark))


def main(argv: list[str]) -> int:
    """`biovfm card`. Returns the exit status."""
    parser = CommandParser(
        prog="biovfm card",
        description="Write MODEL_DIR/README.md, the model card, from what actually happened: the model's own config, "
        "the results file, the training run and the dataset folder. What is not given is said to be not recorded; no "
        "number is filled in. Text below the card's last line is kept when the card is written again.",
        epilog=EPILOG,
    )
    written = card(parse_options(parser, CardOptions, argv))
    return end_command(written.notes, f"{written.path}: {written.results} results, {written.pictures} pictures")
