"""`biovfm scaling study`: pretrains every family, size and data subset of a YAML, probes and analyses; resumable."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from biovfm_hf.errors import UserError
from biovfm_hf.options import CommandParser, argument, check_options, option, parse_options, required
from biovfm_hf.reading.documents import read_json
from biovfm_hf.writing.files import check_writable, write_text

from ...commands import probe as probe_command
from ...commands.probe_options import RunOptions
from ...encoders.device import check_device
from ...results.seeds import over_seeds
from ..layers import command as analyse_command
from ..layers.command import AnalyseOptions
from ..scaling.analysis import analyse_scaling
from ..scaling.screen import screen_lines
from ..scaling.tables import MEAN, POINT_COLUMNS, SCORE_COLUMNS, read_points, read_properties, write_rows
from .plan import StudyPlan, read_study_plan
from .points import check_size, model_facts, points
from .pretraining import named_models, planned_lines, pretrain
from .probing import by_method, probe_options

DESCRIPTION = """\
Run a whole scaling study: pretrain every combination of families, sizes and data subsets, probe all models on the
same tasks, then fit, correlate and draw. After a kill or stop, the same command continues with the missing parts.

STUDY.yaml holds

  families:                 # name: config (file or shipped name), objective if the file lacks it, config overrides
    DINO: {objective: dino, config: dino_smoke}
    MAE: {objective: mae, config: mae_smoke}
  sizes:                    # name: config overrides
    narrow: {model.hidden_size: 96, model.num_attention_heads: 3}
    wide: {model.hidden_size: 192, model.num_attention_heads: 3}
  subsets:                  # name: dataset folder, Hub id or folder of images (relative to this file, or as given)
    all: data/biovfm
  overrides: {steps: 400}   # optional, for every run
  launch: [--num_processes, "8"]   # arguments of accelerate launch, optional (default: one process)
  probe:                    # options of biovfm probe
    tasks: pneumoniamnist,busi     # paths are relative to this file, or as given
    data: data
    method: linear          # several (linear,knn) are analysed separately: points-knn.csv, scaling-knn/ ...
    seed: 0,1,2             # several seeds are averaged, and widen the intervals
  metric: mcc               # optional, from 0 to 1 (default: AUC, Dice of masks, AP of boxes)
  properties: tasks.csv     # optional, see biovfm scaling --help
  layers: {task: busi, max_images: 500}   # optional, options of biovfm analyse: also fit slopes by layer
  axis: given               # optional"""


@dataclass(frozen=True)
class StudyOptions:
    """Options of `biovfm scaling study`."""

    study: Path = argument("file with the families, sizes, subsets and the probe", metavar="STUDY.yaml")
    out: Path = required("folder for runs/, results/ and scaling/", metavar="DIR")
    dry_run: bool = option(False, "print the runs with their commands and the options of the probe, and stop")

    def __post_init__(self) -> None:
        check_options(self)


def main(argv: list[str]) -> int:
    """Run `biovfm scaling study`. Returns the exit status."""
    parser = CommandParser("biovfm scaling study", description=DESCRIPTION)
    options = parse_options(parser, StudyOptions, argv)
    if options.dry_run:
        print("\n".join(study_lines(options)))
    else:
        run_study(options)
    return 0


def study_lines(options: StudyOptions) -> list[str]:
    """The planned work: every run, and the options that all models are probed with.

    Raises:
        UserError: the study file is wrong, or a run's folder was made with other settings.
    """
    plan = read_study_plan(options.study)
    runs = planned_lines(plan.runs, options.out, plan.launch)
    return [*runs, f"# probe of all models: {json.dumps(plan.probe, default=str)}"]


def run_study(options: StudyOptions) -> None:
    """Pretrain, probe and analyse what the study file names; finished work is not repeated.

    Raises:
        UserError: the study file is wrong, a pretraining run fails, or no model has a score.
    """
    check_writable(options.out, folder=True)
    plan, out = read_study_plan(options.study), options.out
    probing = probe_options(plan.runs, plan.probe, out)
    if probing.device:
        check_device(probing.device)
    tasks = [task.name for task in probe_command.open_tasks(probing)]  # report missing files first
    if any(task.lower() == MEAN for task in tasks):
        raise UserError("a task of the study is called mean, as is the mean over tasks in slopes.csv; rename it")
    pretrain(plan.runs, plan.launch, out, lambda run: check_size(plan.axis, out, run))  # after the first, not the last
    groups = _probed_points(plan, probing, tasks)
    for method, rows in groups.items():
        if rows:
            _analyse(plan, rows, out, f"-{method}" if len(groups) > 1 else "")
    if plan.layers:
        analyse_layers(plan, out)


def _probed_points(plan: StudyPlan, probing: RunOptions, tasks: list[str]) -> dict[str, list[dict[str, Any]]]:
    """Probe all models. Returns the rows of the points file by method.

    Raises:
        UserError: some records failed, or no method has a score.
    """
    out = probing.out.parent
    runs = probe_command.make_runs(probing)  # may occupy a GPU, which training used until now
    groups = by_method(probe_command.probe(probing), runs, tasks)
    joined = {method: over_seeds(probing.out, records, probing.resamples) for method, records in groups.items()}
    rows = {method: points(plan.runs, records, out, plan.metric) for method, records in joined.items()}
    if not any(rows.values()):
        what = plan.metric or "AUC, Dice or AP"
        raise UserError(f"{probing.out}: holds no {what} above 0 of the study's models, so there is nothing to fit")
    return rows


def analyse_layers(plan: StudyPlan, out: Path) -> None:
    """Measure the layers of every model, unless this is done, and fit slopes at each depth."""
    from ..scaling.layer_slopes import write_layer_slopes  # loads matplotlib

    models = named_models(out, plan.runs)
    stamp, settings = out / "layers" / "asked.json", json.dumps([list(models), plan.layers], sort_keys=True)
    if not stamp.is_file() or stamp.read_text(encoding="utf-8") != settings:
        analyse_command.analyse(AnalyseOptions(models=models, out=out / "layers", **plan.layers))
        write_text(stamp, settings)
    rows = read_json(out / "layers" / "layers.json")["rows"]
    sizes = {run.name: (run.series, model_facts(out, run)[0]) for run in plan.runs}
    lines = write_layer_slopes(out / "layers", rows, sizes)
    print("\n".join(["", *lines, f"tables and pictures of layers are in {out / 'layers'}"]))


def _analyse(plan: StudyPlan, rows: list[dict[str, Any]], out: Path, ending: str) -> None:
    """Write the points of one method, then fit, correlate and draw them."""
    from ..scaling.writing import write_study  # loads matplotlib

    first = SCORE_COLUMNS if "score" in rows[0] else POINT_COLUMNS
    columns = [*first, "low", "high", "images_millions"]
    columns += [name for name in ("subset", "objective") if any(name in row for row in rows)]
    write_rows(out / f"points{ending}.csv", columns, rows)
    study = read_points(out / f"points{ending}.csv")
    properties = read_properties(plan.properties) if plan.properties else {}
    analysis = analyse_scaling(study, properties, plan.axis)
    write_study(analysis, out / f"scaling{ending}")
    for note in analysis.notes:
        print(f"note: {note}", file=sys.stderr)
    print("\n".join(screen_lines(analysis)))
    print(f"\ntables and figures are in {out / f'scaling{ending}'}")
