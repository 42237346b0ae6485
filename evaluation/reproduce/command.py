"""The `biovfm reproduce` command: makes the tables and figures of the two papers, by name."""

import json
from collections.abc import Callable, Sequence
from typing import Any

from biovfm_hf.errors import UserError
from biovfm_hf.options import CommandParser, parse_options
from biovfm_hf.writing.files import check_writable

from ..encoders.processes import process_group
from . import corpus, facts, patches, scores
from .bench import Bench
from .needs import UTILISATION, Need, RecipeNeeds, find_needs
from .numbers import Outcome
from .options import ReproduceOptions
from .recipe import Recipe, find_recipe, recipe_names, resolve_items

DESCRIPTION = """\
Reproduce a table or figure of one of the two papers: the BioVFM-21M paper (biovfm-...) or the study of DINOv2 on
radiology benchmarks (radiology-...). The command first lists what an item needs. Available parts are run, missing
parts are listed with the reason, and the same command continues later. Tables show our numbers beside the printed
ones, with 95 % intervals and paired tests of differences, corrected over the item (Holm). The papers have neither."""
EXAMPLES = """\
examples:
  biovfm reproduce --list
  biovfm reproduce radiology-table3 --data data --dry-run
  biovfm reproduce radiology-table3 radiology-figure3 --data data --out papers
  biovfm reproduce biovfm-table1 --data data --out papers --model BioVFM=runs/huge/model --setting views=4

OUT receives the records (records/, scores/, results.json, as biovfm probe writes them), which all items share, and for
each item a folder with table.md, table.csv, table.tex, item.json and pictures.
On several GPUs:
  accelerate launch -q --num_processes 4 --num_machines 1 --mixed_precision no --dynamo_backend no \\
    -m biovfm_hf.cli reproduce ..."""
KINDS: dict[str, Callable[[Recipe, Bench], Outcome]] = {
    "scores": scores.produce,
    "patches": patches.produce,
    "corpus": corpus.produce,
    "tasks": facts.produce_tasks,
    "encoders": facts.produce_encoders,
}


def main(argv: Sequence[str]) -> int:
    """Run `biovfm reproduce`. Returns 0, or 1 if an available part failed."""
    parser = CommandParser(
        "biovfm reproduce",
        description=DESCRIPTION,
        epilog=EXAMPLES,
    )
    parser.add_argument("--list", action="store_true", default=None, help="list the items and stop")
    parser.add_argument("--json", action="store_true", default=None, help="list as JSON")
    if "--list" in argv:
        rows = list_items()
        print(
            json.dumps(rows, indent=1)
            if "--json" in argv
            else "\n".join(f"{r['item']:<19} {r['title']}" for r in rows)
        )
        return 0
    options = parse_options(parser, ReproduceOptions, argv)
    outcomes = reproduce(options)
    return int(any(outcome.failed for outcome in outcomes))


def list_items() -> list[dict[str, Any]]:
    """Every item with its title, its sets and its models."""
    recipes = [find_recipe(name) for name in recipe_names()]
    return [{"item": r.name, "title": r.title, "tasks": r.tasks, "models": r.models} for r in recipes]


def reproduce(options: ReproduceOptions) -> list[Outcome]:
    """Report the items' needs, make what is possible, and report the rest with reasons.

    Returns:
        The outcome of each item; an empty list for a dry run.

    Raises:
        UserError: no method has a given setting, or nothing of any item is available.
    """
    bench, recipes = Bench(options), [find_recipe(name) for name in resolve_items(options.items)]
    check_settings(recipes, bench)
    if not options.dry_run:
        check_writable(options.folder, folder=True)
    leads = process_group().takes(0)
    if leads:
        print("\n".join(needs_lines(find_needs(recipes, bench), options)), flush=True)
    if options.dry_run:
        return []
    outcomes = [KINDS[recipe.kind](recipe, bench) for recipe in recipes if leads or recipe.kind == "scores"]
    process_group().wait()
    if not leads:
        return []
    print("\n".join(line for outcome in outcomes for line in outcome_lines(outcome)), flush=True)
    if not any(outcome.made for outcome in outcomes):
        reasons = [reason for outcome in outcomes for reason in (*outcome.failed, *outcome.missing)]
        raise UserError(f"nothing could be made, the first because: {reasons[0] if reasons else 'nothing is there'}")
    return outcomes


def check_settings(recipes: list[Recipe], bench: Bench) -> None:
    """Raise a UserError if no method of the items has a changed setting, or a value is wrong."""
    known = {name for recipe in recipes for cell in recipe.cells.values() for name in bench.settings_of(cell)}
    for name in bench.options.settings:
        if name not in known:
            raise UserError(
                f"setting: {name!r} is not a setting of the items' methods; these have {', '.join(sorted(known))}"
            )


def needs_lines(needs: RecipeNeeds, options: ReproduceOptions) -> list[str]:
    """The items' needs as lines of text."""
    lines = []
    for title, group in (("sets", needs.tasks), ("models", needs.models)):
        lines += [f"{title}:", *(_need_line(need) for need in group)] if group else []
    if needs.hours or needs.uncounted:
        lines.append(
            f"time: about {_hours(needs.hours)} on one {options.gpu} at {UTILISATION:.0%} of its peak: an estimate by "
            "operations, of all that the items name, whether it is there or not"
        )
    if needs.uncounted:
        shown = ", ".join(needs.uncounted[:4]) + (", ..." if len(needs.uncounted) > 4 else "")
        lines.append(f"not counted in it, their size being unknown: {shown}")
    return lines


def _need_line(need: Need) -> str:
    return f"  {need.state:<9} {need.name:<22} {need.about}"


def _hours(hours: float) -> str:
    return (
        f"{hours:,.0f} hours" if hours >= 10 else f"{hours:.1f} hours" if hours >= 0.1 else f"{60 * hours:.1f} minutes"
    )


def outcome_lines(outcome: Outcome) -> list[str]:
    """The outcome of an item as lines of text."""
    lines = [f"{outcome.item}: {outcome.made} of {outcome.total} made; {outcome.folder}"]
    for title, reasons in (("missing", outcome.missing), ("failed", outcome.failed)):
        lines += [f"  {title}: {reason}" for reason in reasons]
    return lines
