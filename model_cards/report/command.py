"""`biovfm report`: one HTML page of data, training and results that opens from disk."""

import argparse
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from biovfm_hf.errors import UserError
from biovfm_hf.files import write_text

from .. import formats
from ..inputs.dataset import summarise_dataset
from ..inputs.kinds import Inputs, find_inputs
from ..inputs.model import summarise_model
from ..inputs.results import load_comparisons, load_results
from ..inputs.run import RunSummary, summarise_run
from ..templating import TEMPLATES, template_environment
from . import sections
from .pictures import PictureStore

MAX_BYTES = 10_000_000
PICTURE_BYTES = 7_500_000
EPILOG = """examples:
  biovfm report results --out report.html
  biovfm report data run results scaling --out report.html
  biovfm report run-dino run-mae --title "DINOv2 against MAE" --out compare.html

Several runs or models are laid over each other. A folder that holds such folders (a quickstart's output) is
searched two levels deep.
"""


def gather(inputs: Inputs, store: PictureStore, seed: int) -> dict[str, Any]:
    """Read every input and return the template's variables.

    Raises:
        UserError: an input is damaged.
    """
    runs = [summarise_run(path) for path in inputs.runs]
    by_folder = dict(zip((path.resolve() for path in inputs.runs), runs, strict=True))
    records = [record for path in inputs.results for record in load_results(path)]
    comparisons = [row for path in inputs.results if path.is_dir() for row in load_comparisons(path)]
    pictures = [picture for path in inputs.results if path.is_dir() for picture in sections.figures(path, store)]
    context: dict[str, Any] = {
        "datasets": [sections.dataset_section(summarise_dataset(path), store, seed) for path in inputs.datasets],
        "training": sections.training_section(_distinct(runs), store) if runs else None,
        "models": [
            sections.model_rows(summarise_model(path), by_folder.get(path.resolve().parent)) for path in inputs.models
        ],
        "evaluation": sections.evaluation_section(records, comparisons) if records else None,
        "pictures": pictures,
        "scalings": [sections.scaling_section(path, store) for path in inputs.scalings],
    }
    context["glance"] = _at_a_glance(context, runs)
    context["left_out"] = store.left_out
    return context


def _distinct(runs: list[RunSummary]) -> list[RunSummary]:
    """The runs, with a number after names that occur twice."""
    seen: dict[str, int] = {}
    named = []
    for run in runs:
        seen[run.name] = seen.get(run.name, 0) + 1
        named.append(run if seen[run.name] == 1 else replace(run, name=f"{run.name} ({seen[run.name]})"))
    return named


def _at_a_glance(context: dict[str, Any], runs: list[RunSummary]) -> list[tuple[str, str]]:
    facts = []
    for data in context["datasets"]:
        facts.append(("Images", formats.count(data["summary"].rows)))
        if data["considered"]:
            facts.append(
                ("Inputs left out", formats.count(data["considered"] - dict(data["outcomes"]).get("kept", 0)))
            )
    if len(runs) > 1:
        facts.append(("Training runs", str(len(runs))))
    for run in runs if len(runs) == 1 else []:
        facts.append(("Steps", formats.count(run.steps)))
        facts.append(("Images seen", formats.count(run.images)))
        facts.append(("Training time", formats.duration(run.seconds)))
    for model in context["models"][:1]:
        facts.append(("Parameters", formats.short_count(model["summary"].parameters)))
    if context["evaluation"]:
        tables = context["evaluation"]["tables"]
        facts.append(("Models scored", str(len(context["evaluation"]["models"]))))
        facts.append(("Tasks", str(len({task for table in tables for task, _ in table["tasks"]}))))
    return facts


def render_report(context: dict[str, Any], title: str, made: str) -> str:
    """The HTML page. What came from a file is escaped, and the page's own CSP lets it load nothing."""
    environment = template_environment(
        autoescape=True, short=formats.short_count, pvalue=formats.p_value, breakable=formats.breakable
    )
    style = (TEMPLATES / "report.css").read_text(encoding="utf-8")
    return environment.get_template("report.html.j2").render(**context, title=title, made=made, style=style)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="biovfm report",
        description="Write one self-contained HTML page from what you give: dataset folders, training runs, model "
        "folders, results and scaling studies, in any number. It opens from disk, loads nothing from the network, "
        "works on a phone and stays below 10 MB.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "inputs", nargs="+", type=Path, metavar="RESULTS", help="folder or results file, of any kind above"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the HTML file to write")
    parser.add_argument("--title", default="BioVFM-HF report", help="heading of the page (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="draws the sample images (default: %(default)s)")
    return parser


def main(argv: list[str]) -> int:
    """`biovfm report`. Returns the exit status."""
    options = _parser().parse_args(argv)
    if options.out.is_dir():
        raise UserError(
            f"{options.out}: is a folder; name the file to write, for instance {options.out / 'report.html'}"
        )
    if options.out.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"{options.out}: a report is an HTML page; name a file that ends in .html")
    store = PictureStore(PICTURE_BYTES)
    context = gather(find_inputs(options.inputs), store, options.seed)
    page = render_report(context, options.title, datetime.now(UTC).date().isoformat())
    size = len(page.encode())
    if size > MAX_BYTES:
        raise UserError(
            f"{options.out}: the page would take {size / 1e6:.1f} MB, more than 10; give fewer folders at once"
        )
    write_text(options.out, page)
    for line in store.left_out:
        print(f"note: picture {line}")
    print(f"{options.out}: {formats.file_size(size)}")
    return 0
