"""`biovfm scaling`: slopes of score against model size, what goes with steep ones, and the figures."""

import argparse
import sys
from pathlib import Path

from biovfm_hf.errors import UserError

from .model_size import AXES

DESCRIPTION = """\
Fit score = e^b size^a for every model family and task of a scaling study, and see which task properties go with
large a.

POINTS.csv has the columns family,params_millions,task,auc (AUC in percent) and may have low,high (95 % interval of
auc), subset (pretraining data), size (vit-tiny ... vit-giant) and images_millions. A file with family,task,slope
takes slopes that are fitted already. TASKS.csv has task and any of num_samples,num_classes,dbi,gzip,entropy.

DIR receives slopes.csv, correlations.csv, predictions.csv, gaps.csv, summary.json and figures as PNG, SVG and PDF."""
EXAMPLES = """\
examples:
  biovfm scaling points.csv --out scaling
  biovfm scaling points.csv --properties tasks.csv --out scaling --published
  biovfm scaling points.csv --axis published --out scaling     the paper's x: encoder + MAE decoder, both families
  biovfm scaling properties --data medmnist/ --out tasks.csv   measure task properties from MedMNIST files
  biovfm scaling sizes                                         parameters and compute of the named sizes
  biovfm scaling study study.yaml --out study                  pretrain, probe and analyse; resumes when run again

Four sizes leave two degrees of freedom: read the intervals before the slopes."""


def main(argv: list[str]) -> int:
    """Run `biovfm scaling`. Returns the exit status."""
    actions = {"properties": _properties, "sizes": _sizes, "study": _study}
    if argv and argv[0] in actions:
        return actions[argv[0]](argv[1:])
    return _analyse(argv)


def parser() -> argparse.ArgumentParser:
    """The command line of `biovfm scaling POINTS.csv`."""
    found = _parser("biovfm scaling", DESCRIPTION, EXAMPLES)
    found.add_argument("points", type=Path, metavar="POINTS.csv", help="scores, or slopes that are fitted already")
    found.add_argument("--properties", type=Path, metavar="TASKS.csv", help="task properties to correlate with slopes")
    found.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for tables and figures")
    found.add_argument("--axis", choices=AXES, default="given", help="what x is: the file's numbers (given), encoder "
                       "parameters, the published axis (encoder + MAE decoder), or pretraining compute")  # fmt: skip
    found.add_argument("--published", action="store_true", help="draw the BioVFM paper's results beside "
                       "yours, as far as axis and tasks agree")  # fmt: skip
    found.add_argument("--seed", type=int, default=0, help="of bootstrap and permutations (default: 0)")
    return found


def _parser(name: str, description: str, epilog: str | None = None) -> argparse.ArgumentParser:
    formatter = argparse.RawDescriptionHelpFormatter
    return argparse.ArgumentParser(name, description=description, epilog=epilog, formatter_class=formatter)


def _analyse(argv: list[str]) -> int:
    words = parser().parse_args(argv)
    from .tables import read_points, read_properties
    from .writing import write_study

    study = read_points(words.points)
    properties = read_properties(words.properties) if words.properties else {}
    for line in write_study(study, properties, words.out, words.axis, words.published, words.seed):
        print(line)
    return 0


def _properties(argv: list[str]) -> int:
    words = _parser("biovfm scaling properties", "Measure task properties from MedMNIST .npz files, streaming.")
    words.add_argument("--data", type=Path, required=True, metavar="DIR_OR_FILE", help="a .npz file or folder of them")
    words.add_argument("--out", type=Path, required=True, metavar="TASKS.csv", help="the properties file to write")
    words.add_argument("--images", type=int, default=2000, help="images per task for gzip and entropy; 0 for all "
                       "(default: 2000, evenly spaced)")  # fmt: skip
    said = words.parse_args(argv)
    from tqdm import tqdm

    from . import properties, tables

    files, others = properties.one_per_task(said.data.glob("*.npz")) if said.data.is_dir() else ([said.data], [])
    if not files:
        raise UserError(f"{said.data}: holds no .npz file; download the MedMNIST sets there first")
    for file in others:
        print(f"note: {file.name} is left out: its task is measured in a smaller size; give the file as --data for "
              "its own properties", file=sys.stderr)  # fmt: skip
    totals = [properties.count_images(file) for file in files]  # what cannot be measured is told before anything is
    rows = []
    for file, total in zip(files, totals, strict=True):
        with tqdm(total=2 * total, unit="img", desc=file.stem, file=sys.stderr) as bar:
            rows.append(properties.as_row(properties.measure(file, said.images, bar.update)))
    tables.write_rows(said.out, ("task", *tables.PROPERTIES), rows)
    print(f"{said.out}: properties of {len(rows)} tasks (dbi in pixels, at most 32 x 32)")
    return 0


def _sizes(argv: list[str]) -> int:
    _parser("biovfm scaling sizes", "Parameters and pretraining compute of the named sizes.").parse_args(argv)
    from biovfm_hf.flops import recipe_flops

    from .model_size import known_sizes

    print(f"{'size':<12}{'encoder M':>11}{'published M':>13}{'DINO GFLOP/img':>16}{'MAE GFLOP/img':>15}")
    for name, (encoder, printed) in known_sizes().items():
        flops = [recipe_flops(name, objective).total / 1e9 for objective in ("dino", "mae")]
        print(f"{name:<12}{encoder:>11.2f}{printed:>13.2f}{flops[0]:>16.1f}{flops[1]:>15.1f}")
    return 0


def _study(argv: list[str]) -> int:
    from .study import main as run_study

    return run_study(argv)
