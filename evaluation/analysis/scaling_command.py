"""The `biovfm scaling` command: slopes of score against model size, correlations with task properties, figures."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from biovfm_hf.errors import UserError
from biovfm_hf.front_door import counted_objectives, objective_title, recipe_flops
from biovfm_hf.options import CommandParser, argument, check_options, option, parse_options, required
from biovfm_hf.writing.files import check_writable

from .composition.command import main as mixture_main
from .scaling import properties
from .scaling.analysis import ScalingAnalysis, analyse_scaling
from .scaling.model_size import AXES, known_sizes
from .scaling.screen import screen_lines
from .scaling.tables import PROPERTIES, read_points, read_properties, write_rows
from .study.command import main as study_main

DESCRIPTION = """\
Fit score = e^b size^a for every model family and task of a scaling study, and correlate a with task properties.

POINTS.csv has the columns family,params_millions,task,auc (AUC in percent). Instead of auc it may have metric,score
(any metric from 0 to 1, such as Dice or AP). Optional columns are low,high (95 % interval of the score), subset
(pretraining data), size (vit-tiny ... vit-giant) and images_millions. A file with family,task,slope gives slopes that
are already fitted. TASKS.csv has the column task and any of num_samples,num_classes,dbi,gzip,entropy.

DIR receives slopes.csv, correlations.csv, predictions.csv, gaps.csv, summary.json and figures as PNG, SVG and PDF."""
EXAMPLES = """\
examples:
  biovfm scaling points.csv --out scaling
  biovfm scaling points.csv --properties tasks.csv --out scaling --published
  biovfm scaling points.csv --axis published --out scaling     the paper's x: encoder + MAE decoder, both families
  biovfm scaling properties --data medmnist/ --out tasks.csv   measure task properties from MedMNIST files
  biovfm scaling sizes                                         parameters and compute of the named sizes
  biovfm scaling mixture runs.csv --out mixture.json           recommend a data mixture from runs on several mixtures
  biovfm scaling study study.yaml --out study                  pretrain, probe and analyse; resumes when run again

Four sizes leave two degrees of freedom, so read the intervals before the slopes."""


def main(argv: list[str]) -> int:
    """Run `biovfm scaling`. Returns the exit status."""
    actions = {"properties": _properties, "sizes": _sizes, "study": study_main, "mixture": mixture_main}
    if argv and argv[0] in actions:
        return actions[argv[0]](argv[1:])
    return _analyse(argv)


@dataclass(frozen=True)
class ScalingOptions:
    """Options of `biovfm scaling POINTS.csv`, keywords of `biovfm_hf.scaling`."""

    points: Path = argument("scores, or slopes that are already fitted", metavar="POINTS.csv")
    out: Path = required("folder for tables and figures", metavar="DIR")
    properties: Path | None = option(None, "task properties to correlate with slopes", metavar="TASKS.csv")
    axis: str = option(
        "given",
        "what x is: the file's numbers (given), encoder parameters, the published axis (encoder + MAE decoder), or "
        "pretraining compute",
        choices=AXES,
    )
    published: bool = option(False, "draw the BioVFM paper's results beside yours where axis and tasks agree")
    seed: int = option(0, "random seed of the bootstrap and the permutations", least=0)

    def __post_init__(self) -> None:
        check_options(self)


def _analyse(argv: list[str]) -> int:
    parser = CommandParser("biovfm scaling", DESCRIPTION, EXAMPLES)
    options = parse_options(parser, ScalingOptions, argv)
    analysis = scaling(options)
    for note in analysis.notes:
        print(f"note: {note}", file=sys.stderr)
    print("\n".join(screen_lines(analysis)))
    print(f"\ntables and figures are in {options.out}")
    return 0


def scaling(options: ScalingOptions) -> ScalingAnalysis:
    """Fit score = e^b size^a for every family and task, correlate the slopes, and write tables and figures.

    Returns:
        The analysis that the files in `options.out` show.

    Raises:
        UserError: a file cannot be used, or the points allow no fit.
    """
    check_writable(options.out, folder=True)
    from .scaling.writing import write_study  # loads matplotlib

    study = read_points(options.points)
    properties = read_properties(options.properties) if options.properties else {}
    analysis = analyse_scaling(study, properties, options.axis, options.seed)
    write_study(analysis, options.out, options.published)
    return analysis


@dataclass(frozen=True)
class PropertiesOptions:
    """Options of `biovfm scaling properties`."""

    data: Path = required(".npz file, or folder of .npz files", metavar="DIR_OR_FILE")
    out: Path = required("properties file to write", metavar="TASKS.csv")
    images: int = option(2000, "evenly spaced images per task for gzip and entropy; 0 for all", least=0)

    def __post_init__(self) -> None:
        check_options(self)


def _properties(argv: list[str]) -> int:
    parser = CommandParser("biovfm scaling properties", "Measure task properties from MedMNIST .npz files, streaming.")
    options = parse_options(parser, PropertiesOptions, argv)
    rows = measure_properties(options)
    print(f"{options.out}: properties of {len(rows)} tasks (dbi in pixels, at most 32 x 32)")
    return 0


def measure_properties(options: PropertiesOptions) -> list[dict[str, Any]]:
    """Measure the properties of every set and write the properties file. Returns its rows.

    Raises:
        UserError: there is no .npz file, or one of them is not a MedMNIST set.
    """
    from tqdm import tqdm

    check_writable(options.out)
    data = options.data
    files, others = properties.one_per_task(data.glob("*.npz")) if data.is_dir() else ([data], [])
    if not files:
        raise UserError(f"{data}: holds no .npz file; download the MedMNIST sets there first")
    for file in others:
        print(f"note: {file.name} is left out: its task is measured in a smaller size; give the file as --data for "
              "its own properties", file=sys.stderr)  # fmt: skip
    totals = [
        properties.count_images(file) for file in files
    ]  # report files that cannot be measured before measuring any
    rows = []
    for file, total in zip(files, totals, strict=True):
        with tqdm(total=2 * total, unit="img", desc=file.stem, disable=None) as bar:
            rows.append(properties.as_row(properties.measure(file, options.images, bar.update)))
    write_rows(options.out, ("task", *PROPERTIES), rows)
    return rows


def _sizes(argv: list[str]) -> int:
    CommandParser("biovfm scaling sizes", "Parameters and pretraining compute of the named sizes.").parse_args(argv)
    columns = {objective: f"  {objective_title(objective)} GFLOP/img" for objective in counted_objectives()}
    sizes = known_sizes()
    width = max(map(len, sizes))
    print(f"{'size':<{width}}{'encoder M':>11}{'published M':>13}{''.join(columns.values())}")
    for name, (encoder, printed) in sizes.items():
        flops = [f"{recipe_flops(key, name) / 1e9:>{len(title)}.1f}" for key, title in columns.items()]
        print(f"{name:<{width}}{encoder:>11.2f}{printed:>13.2f}{''.join(flops)}")
    return 0
