"""`biovfm report`: one HTML page of data, training and results that opens from disk."""

import argparse
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from biovfm_hf.errors import UserError
from biovfm_hf.files import write_text
from biovfm_hf.options import argument, check_options, option, parse_options, required

from .. import formats
from ..inputs.dataset import summarise_dataset
from ..inputs.kinds import Inputs, find_inputs
from ..inputs.model import summarise_model
from ..inputs.results import load_comparisons, load_results, metric_label
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
        autoescape=True,
        short=formats.short_count,
        pvalue=formats.p_value,
        breakable=formats.breakable,
        label=metric_label,
    )
    style = (TEMPLATES / "report.css").read_text(encoding="utf-8")
    return environment.get_template("report.html.j2").render(**context, title=title, made=made, style=style)


@dataclass(frozen=True)
class ReportOptions:
    """What a report is made of, and where it goes."""

    inputs: tuple[Path, ...] = argument("folder or results file, of any kind above", metavar="RESULTS")
    out: Path = required("the HTML file to write", metavar="FILE")
    title: str = option("BioVFM-HF report", "heading of the page")
    seed: int = option(0, "draws the sample images", least=0)

    def __post_init__(self) -> None:
        check_options(self)
        if self.out.suffix.lower() not in (".html", ".htm"):
            raise UserError(f"out: {self.out}: a report is an HTML page; name a file that ends in .html")


@dataclass(frozen=True)
class WrittenReport:
    """A report that was written: its file, its size in bytes, and the pictures that were left out, and why."""

    path: Path
    size: int
    left_out: tuple[str, ...]


def report(options: ReportOptions) -> WrittenReport:
    """Write one HTML page of everything in `options.inputs`.

    Raises:
        UserError: an input is missing, damaged or of no known kind, or the page would be larger than 10 MB.
    """
    if options.out.is_dir():
        raise UserError(
            f"{options.out}: is a folder; name the file to write, for instance {options.out / 'report.html'}"
        )
    store = PictureStore(PICTURE_BYTES)
    context = gather(find_inputs(list(options.inputs)), store, options.seed)
    page = render_report(context, options.title, datetime.now(UTC).date().isoformat())
    size = len(page.encode())
    if size > MAX_BYTES:
        raise UserError(
            f"{options.out}: the page would take {size / 1e6:.1f} MB, more than 10; give fewer folders at once"
        )
    write_text(options.out, page)
    return WrittenReport(options.out, size, tuple(store.left_out))


def main(argv: list[str]) -> int:
    """`biovfm report`. Returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="biovfm report",
        description="Write one self-contained HTML page from what you give: dataset folders, training runs, model "
        "folders, results and scaling studies, in any number. It opens from disk, loads nothing from the network, "
        "works on a phone and stays below 10 MB.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    written = report(parse_options(parser, ReportOptions, argv))
    for line in written.left_out:
        print(f"note: picture {line}")
    print(f"{written.path}: {formats.file_size(written.size)}")
    return 0
