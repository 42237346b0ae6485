"""The `biovfm report` command: one HTML page of data, training and results that opens from disk."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from markupsafe import Markup

from biovfm_hf.errors import OptionError, UserError
from biovfm_hf.options import CommandParser, argument, check_options, option, parse_options, required
from biovfm_hf.writing.files import write_text

from .. import formats
from ..ending import end_command
from ..inputs.kinds import find_inputs
from ..inputs.results import labels_of
from ..templating import TEMPLATES, template_environment
from .material import Material, read_material
from .pictures import PictureStore
from .sections import SECTIONS

MAX_BYTES = 10_000_000
PICTURE_BYTES = 7_500_000
EPILOG = """examples:
  biovfm report results --out report.html
  biovfm report data run results scaling --out report.html
  biovfm report run-dino run-mae --title "DINOv2 against MAE" --out compare.html

Several runs or models are laid over each other. A folder that holds such folders (a quickstart's output) is
searched two levels deep.
"""


def at_a_glance(material: Material) -> list[tuple[str, str]]:
    """A few numbers for the page's head: (name, value)."""
    facts = []
    for data in material.datasets:
        facts.append(("Images", formats.count(data.rows)))
        if outcomes := data.outcomes:
            facts.append(("Inputs left out", formats.count(sum(outcomes.values()) - outcomes.get("kept", 0))))
    if len(material.runs) > 1:
        facts.append(("Training runs", str(len(material.runs))))
    for run in material.runs if len(material.runs) == 1 else []:
        facts.append(("Steps", formats.count(run.steps)))
        facts.append(("Images seen", formats.count(run.images)))
        facts.append(("Training time", formats.duration(run.seconds)))
    for model, _ in material.models[:1]:
        facts.append(("Parameters", formats.short_count(model.parameters)))
    if material.records:
        facts.append(("Models scored", str(len({record.model for record in material.records}))))
        facts.append(("Tasks", str(len({record.task for record in material.records}))))
    return facts


def render_report(material: Material, title: str, made: str) -> str:
    """The HTML page. What came from a file is escaped, and the page's own CSP lets it load nothing."""
    environment = template_environment(
        autoescape=True,
        short=formats.short_count,
        pvalue=formats.p_value,
        breakable=formats.breakable,
        label=labels_of(material.records),
    )
    parts = []
    for section in SECTIONS:
        variables = section.variables(material)
        if variables is not None:
            body = environment.get_template(f"report/{section.name}.html.j2").render(**variables)
            parts.append((section, Markup(body)))
    style = (TEMPLATES / "report.css").read_text(encoding="utf-8")
    head = {"title": title, "made": made, "style": style, "glance": at_a_glance(material)}
    return environment.get_template("report/page.html.j2").render(
        **head, parts=parts, left_out=material.store.left_out
    )


@dataclass(frozen=True)
class ReportOptions:
    """Options of a report: its inputs and its file."""

    inputs: tuple[Path, ...] = argument("folder or results file, of any kind above", metavar="RESULTS")
    out: Path = required("the HTML file to write", metavar="FILE")
    title: str = option("BioVFM-HF report", "heading of the page")
    seed: int = option(0, "random seed of the sample images", least=0)
    private_images: bool = option(False, "show images of private sources and tasks too (default: leave them out)")

    def __post_init__(self) -> None:
        check_options(self)
        if self.out.suffix.lower() not in (".html", ".htm"):
            raise OptionError("out", f"{self.out}: a report is an HTML page; name a file that ends in .html")


@dataclass(frozen=True)
class WrittenReport:
    """A written report: its file, its size in bytes, and the pictures that were left out, with the reasons."""

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
    material = read_material(find_inputs(list(options.inputs)), store, options.seed, options.private_images)
    page = render_report(material, options.title, datetime.now(UTC).date().isoformat())
    size = len(page.encode())
    if size > MAX_BYTES:
        raise UserError(
            f"{options.out}: the page would take {size / 1e6:.1f} MB, more than 10; give fewer folders at once"
        )
    write_text(options.out, page)
    return WrittenReport(options.out, size, tuple(store.left_out))


def main(argv: list[str]) -> int:
    """`biovfm report`. Returns the exit status."""
    parser = CommandParser(
        prog="biovfm report",
        description="Write one self-contained HTML page from what you give: dataset folders, training runs, model "
        "folders, results and scaling studies, in any number. It opens from disk, loads nothing from the network, "
        "works on a phone and stays below 10 MB.",
        epilog=EPILOG,
    )
    written = report(parse_options(parser, ReportOptions, argv))
    notes = (f"picture {line}" for line in written.left_out)
    return end_command(notes, f"{written.path}: {formats.file_size(written.size)}")
