"""`biovfm scaling study`: pretrains every family, size and data subset of a YAML, probes and analyses; resumable.

Each pretraining run is a process of its own under `accelerate launch`. The study therefore uses what the public
commands use and imports nothing of training. Finished runs and recorded probes are not repeated.
"""

import json
import math
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from itertools import product
from pathlib import Path
from typing import Any

import biovfm_hf
from biovfm_hf.errors import UserError
from biovfm_hf.flops import encoder_parameters
from biovfm_hf.front_door import counted_objectives
from biovfm_hf.options import CommandParser, argument, check_options, option, parse_options, required
from biovfm_hf.reading.documents import read_json, read_yaml
from biovfm_hf.results.record import Record
from biovfm_hf.writing.files import write_text

from ...commands import probe as probe_command
from ...commands.probe import RunOptions, options_class
from ...encoders.device import check_device
from ...probes.probe import Run as ProbeRun
from ...results.seeds import over_seeds
from ...results.table import metric_title
from ...statistics.kinds import DETECTION, SEGMENTATION
from ...statistics.metrics import find_metric
from ...tasks import GROUPS, read_records, resolve_names
from ..layers import command as analyse_command
from ..layers.command import AnalyseOptions
from .analysis import analyse
from .model_size import AXES, known_sizes, size_of
from .screen import screen_lines
from .tables import MEAN, POINT_COLUMNS, SCORE_COLUMNS, Point, read_points, read_properties, write_rows

NOT_OURS = ("model", "out", "list_tasks", "help", "h")
SCIENTIFIC = re.compile(r"[0-9.]+[eE][-+]?[0-9]+")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
PRETRAIN = ("biovfm_hf.cli", "pretrain")  # the module and the command
ONE_PROCESS = ["--num_processes", "1", "--num_machines", "1", "--dynamo_backend", "no"]
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
class Run:
    """One pretraining run of a study.

    Attributes:
        name: name of its folder and label of its model.
        family, size, subset: the combination it belongs to.
        objective: objective of the config; empty if the config file states it.
        config: YAML file or shipped name.
        data: dataset folder, Hub id or folder of images.
        overrides: config keys and values.
    """

    name: str
    family: str
    size: str
    subset: str
    objective: str
    config: str
    data: str
    overrides: dict[str, Any] = field(default_factory=dict)

    @property
    def series(self) -> str:
        """The family, together with its data if the study varies the data."""
        return f"{self.family} on {self.subset}" if self.subset else self.family

    def command(self, out: Path, launch: list[str]) -> list[str]:
        """The command line that trains it."""
        start = [sys.executable, "-m", "accelerate.commands.launch", *launch, "-m", PRETRAIN[0], PRETRAIN[1]]
        changed = {"method": self.objective} if self.objective else {}
        changes = [f"{key}={_plain(value)}" for key, value in (changed | self.overrides).items()]
        return [*start, self.config, "--data", self.data, "--out", str(out), *changes]

    def fingerprint(self) -> dict[str, Any]:
        """The settings that a finished run must match to count as this one."""
        return {"objective": self.objective, "config": self.config, "data": self.data, "overrides": self.overrides}


@dataclass(frozen=True)
class Plan:
    """A checked study file: its runs, and the settings for launching, probing and analysing them."""

    runs: list[Run]
    launch: list[str]
    probe: dict[str, Any]
    properties: Path | None
    axis: str
    metric: str = ""
    layers: dict[str, Any] = field(default_factory=dict)


def read_plan(path: str | Path) -> Plan:
    """Read and check a whole study file before anything runs, because pretraining takes days.

    Raises:
        UserError: the YAML cannot be read, keys are missing or unknown, values have the wrong type, the axis or a task
            is unknown, `biovfm probe` refuses its options, or the properties file cannot be used.
    """
    path = Path(path)
    content = read_yaml(path, remedy="see: biovfm scaling study --help")
    known = ("families", "sizes", "subsets", "overrides", "launch", "probe", "metric", "properties", "layers", "axis")
    unknown = [str(key) for key in content if key not in known]
    if unknown:
        raise UserError(f"{path}: unknown key {', '.join(unknown)}; known are: {', '.join(known)}")
    families, sizes, subsets = (_named(path, content, key) for key in ("families", "sizes", "subsets"))
    probe = content.get("probe")
    if not isinstance(probe, dict) or "tasks" not in probe:
        raise UserError(f"{path}: probe must be a mapping that names tasks; see: biovfm scaling study --help")
    shared = _mapping(path, "overrides", content.get("overrides") or {})
    runs = [
        _run(path, family, size, subset, shared, len(subsets) > 1)
        for family, size, subset in product(families.items(), sizes.items(), subsets.items())
    ]
    launch = content.get("launch", ONE_PROCESS)
    if not isinstance(launch, list):
        raise UserError(f"{path}: launch must be a list of arguments for accelerate launch")
    described = content.get("properties")
    plan = Plan(
        runs, [str(word) for word in launch], probe_values(path, probe),
        Path(resolve(path, str(described))) if described else None, str(content.get("axis", "given")),
        str(content.get("metric") or ""), _layers(path, content.get("layers") or {}, probe),
    )  # fmt: skip
    _check_axis(path, plan)
    _check_probe(path, plan)
    if plan.properties:
        read_properties(plan.properties)
    return plan


def _layers(path: Path, layers: Any, probe: dict[str, Any]) -> dict[str, Any]:
    """The options of `biovfm analyse` for the study's models, checked."""
    if not layers:
        return {}
    if not isinstance(layers, dict) or "task" not in layers:
        raise UserError(f"{path}: layers must be a mapping that names a task; see: biovfm scaling study --help")
    places = {"task": _resolve_tasks(path, layers["task"])[0], "data": resolve(path, str(probe.get("data", ".")))}
    given = {**layers, **places}
    known = [item.name for item in fields(AnalyseOptions) if item.name not in ("models", "out", "images")]
    if unknown := [key for key in given if key not in known]:
        raise UserError(f"{path}: layers: unknown option {unknown[0]}; known are: {', '.join(known)}")
    try:
        AnalyseOptions(models=("any",), out=Path("OUT"), **given)
    except UserError as error:
        raise UserError(f"{path}: layers: {error}") from error
    return given


def _check_axis(path: Path, plan: Plan) -> None:
    if plan.axis not in AXES:
        raise UserError(f"{path}: unknown axis {plan.axis!r}; choose one of: {', '.join(AXES)}")
    counted = counted_objectives() if plan.axis == "compute" else []
    for run in plan.runs if plan.axis == "compute" else ():
        if run.objective not in counted:
            what = f"the objective {run.objective!r}" if run.objective else "no named objective"
            raise UserError(f"{path}: families: {run.family} has {what}, but axis compute counts only "
                            f"{' and '.join(counted)}; give one of these, or another axis")  # fmt: skip


def _check_probe(path: Path, plan: Plan) -> None:
    for key in plan.probe:
        if key in NOT_OURS:
            raise UserError(f"{path}: probe: {key} is set by the study itself; remove it")
    known = [item.name for item in fields(options_class()) if item.name not in NOT_OURS]
    if unknown := [key for key in plan.probe if key not in known]:
        raise UserError(f"{path}: probe: unknown option {unknown[0]}; known are: {', '.join(known)}")
    try:
        options = probe_options(plan, Path("OUT"))
        resolve_names(options.tasks)
    except UserError as error:
        raise UserError(f"{path}: probe: {error}") from error
    if plan.metric and find_metric(plan.metric) is None:
        raise UserError(
            f"{path}: metric: no metric is called {plan.metric}; table.md of a results folder has the names"
        )


def _named(path: Path, content: dict[str, Any], key: str) -> dict[str, Any]:
    entries = content.get(key)
    if not isinstance(entries, dict) or not entries:
        raise UserError(f"{path}: {key} must be a mapping with names as keys; see: biovfm scaling study --help")
    for name in entries:
        if not NAME.fullmatch(str(name)):
            raise UserError(f"{path}: {key}: {name!r} cannot name a folder; use letters, digits, . _ + -")
    return {str(name): value for name, value in entries.items()}


def _mapping(path: Path, what: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{path}: {what} must map config keys to values")
    return {str(key): item for key, item in value.items()}


def _run(path: Path, family, size, subset, shared: dict[str, Any], named_subset: bool) -> Run:
    (family_name, recipe), (size_name, change), (subset_name, data) = family, size, subset
    recipe = _mapping(path, f"families: {family_name}", recipe)
    objective, config = recipe.pop("objective", ""), recipe.pop("config", None)
    if not isinstance(objective, str) or not isinstance(config, str):
        raise UserError(f"{path}: families: {family_name} needs a config (a file or a shipped name), and may name its "
                        "objective")  # fmt: skip
    if not isinstance(data, str):
        raise UserError(f"{path}: subsets: {subset_name} must be a dataset folder, Hub id or folder of images")
    overrides = {**shared, **recipe, **_mapping(path, f"sizes: {size_name}", change or {})}
    name = "_".join([family_name, size_name] + ([subset_name] if named_subset else []))
    config = resolve(path, config) if config.endswith((".yaml", ".yml")) else config
    return Run(name, family_name, size_name, subset_name if named_subset else "", objective, config,
               resolve(path, data), overrides)  # fmt: skip


def resolve(path: Path, value: str) -> str:
    """A path relative to the study file if it exists there, otherwise the value as it is (a Hub id, for instance)."""
    beside = path.parent / value
    return str(beside.resolve()) if beside.exists() else value


def probe_values(path: Path, probe: dict[str, Any]) -> dict[str, Any]:
    """The probe's options by their Python names, with paths of data and tasks relative to the study file.

    Numbers such as 1e-3, which YAML reads as text, become numbers.
    """
    values = {
        str(key).replace("-", "_"): float(value) if isinstance(value, str) and SCIENTIFIC.fullmatch(value) else value
        for key, value in probe.items()
    }
    places = {"data": resolve(path, str(probe.get("data", "."))), "tasks": _resolve_tasks(path, probe["tasks"])}
    return {**values, **places}


def _resolve_tasks(path: Path, tasks: Any) -> list[str]:
    """The names of `tasks`; paths among them become relative to the study file, known task names stay."""
    entries = tasks if isinstance(tasks, list) else str(tasks).split(",")
    names = [str(word).strip() for word in entries]
    known = {*GROUPS, *read_records()}
    return [name if name in known else resolve(path, name) for name in names if name]


def _plain(value: Any) -> str:
    return json.dumps(value) if isinstance(value, (list, dict, bool)) or value is None else str(value)


def pretrain(plan: Plan, out: Path) -> None:
    """Train the runs that are not trained yet, one after another.

    Raises:
        UserError: a run fails, or its folder was made with other settings.
    """
    for number, run in enumerate(plan.runs, 1):
        folder = out / "runs" / run.name
        stamp = out / "runs" / f"{run.name}.json"
        if stamp.is_file() and (folder / "model" / "config.json").is_file():
            if read_json(stamp) != run.fingerprint():
                raise UserError(f"{folder} was trained with other settings than the study file gives now; "
                                "move it away, or use another --out")  # fmt: skip
            print(f"[{number}/{len(plan.runs)}] {run.name}: trained already", flush=True)
            continue
        write_text(stamp, json.dumps(run.fingerprint(), indent=1) + "\n")
        command = run.command(folder, plan.launch)
        print(f"[{number}/{len(plan.runs)}] {run.name}: {shlex.join(command)}", flush=True)
        status = subprocess.run(command, check=False, env=_environment()).returncode
        if status or not (folder / "model" / "config.json").is_file():
            raise UserError(f"pretraining {run.name} ended with status {status} and left no model; correct the "
                            "error above, and run the same command again")  # fmt: skip
        _check_size(plan, run, folder)


def _environment() -> dict[str, str]:
    """This process's environment, extended so that child processes find this package even in a bare checkout."""
    places = [str(Path(biovfm_hf.__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, places))}


def _check_size(plan: Plan, run: Run, folder: Path) -> None:
    """Raise a UserError if the run's size has no place on the axis: after the first run instead of after the last."""
    if plan.axis == "given":
        return
    try:
        size_of(Point(run.family, _facts(folder)[0], "", math.nan), known_sizes())
    except UserError as error:
        raise UserError(f"{run.name}: axis {plan.axis} counts named sizes only ({error}); set axis: given in the "
                        "study file and run the same command again") from error  # fmt: skip


def probe_options(plan: Plan, out: Path) -> RunOptions:
    """The options of `biovfm probe` for all trained models.

    Raises:
        UserError: a value is wrong.
    """
    models = tuple(f"{run.name}={out / 'runs' / run.name / 'model'}" for run in plan.runs)
    return options_class()(model=models, out=out / "results", **plan.probe)


def probe_arguments(plan: Plan, out: Path) -> list[str]:
    """The same as arguments of a command line, to be shown."""
    options = probe_options(plan, out)
    arguments = [word for model in options.model for word in ("--model", model)]
    for key in plan.probe:
        value, flag = getattr(options, key), f"--{key.replace('_', '-')}"
        if value is True:
            arguments.append(flag)
        elif value is not False:
            arguments += [flag, ",".join(map(str, value)) if isinstance(value, tuple) else str(value)]
    return [*arguments, "--out", str(options.out)]


def by_method(records: Iterable[Record], runs: list[ProbeRun], tasks: list[str]) -> dict[str, list[Record]]:
    """The study's own records by method (fewshot-4 and fewshot-16 are two methods).

    A results folder keeps the records of every run of the study, including runs with other tasks, seeds or settings.
    """
    groups: dict[str, list[Record]] = {run.probe.record_name: [] for run in runs}
    identities = [(run.probe.record_name, run.protocol, run.seed, run.settings) for run in runs]
    for record in records:
        identity = (record.method, record.protocol, record.seed, record.settings)
        if identity in identities and record.task in tasks:
            groups[record.method].append(record)
    return groups


def points(plan: Plan, records: list[Record], out: Path) -> list[dict[str, Any]]:
    """Rows of the points file: a score with its interval, encoder parameters, images seen.

    The score is the plan's metric if it names one. Otherwise it is the AUC in percent, or for tasks of masks or boxes
    Dice or AP from 0 to 1. A score of 0 has no logarithm and is left out.

    Args:
        plan: the study.
        records: records of one method, with one seed or joined over seeds (`seeds.over_seeds`).
        out: the study's folder.
    """
    rows = []
    for run in plan.runs:  # families come in the order of the study file
        parameters, images = _facts(out / "runs" / run.name)
        for record in records:
            score = _score(record, plan.metric)
            if record.model != run.name or not score:
                continue
            row = {"family": run.family, "params_millions": parameters, "task": record.task, **score,
                   "images_millions": images}  # fmt: skip
            columns = {"subset": run.subset, "objective": run.objective}
            rows.append(row | {name: value for name, value in columns.items() if value})
    return rows


def _score(record: Record, metric: str) -> dict[str, Any]:
    """The columns of a point that come from a record; empty if the metric is missing or 0."""
    name = metric or {SEGMENTATION: "dice", DETECTION: "AP"}.get(record.kind, "auc")
    entry = record.metrics.get(name) or {}
    if not entry.get("value") or entry["value"] < 0:
        return {}
    whole = 100 if name == "auc" else 1
    ends = {end: None if entry.get(end) is None else max(whole * entry[end], 0.0) for end in ("low", "high")}
    value = whole * entry["value"]
    return {"auc": value, **ends} if name == "auc" else {"metric": metric_title(name), "score": value, **ends}


def _facts(folder: Path) -> tuple[float, float | None]:
    """Encoder parameters of a run and images it saw, both in millions."""
    from biovfm_hf.configuration_biovfm import BioVFMConfig

    parameters = encoder_parameters(BioVFMConfig.from_pretrained(folder / "model")) / 1e6
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    seen = [json.loads(line).get("images") for line in lines if line.strip()]
    known = [images for images in seen if isinstance(images, (int, float))]
    return parameters, max(known) / 1e6 if known else None


@dataclass(frozen=True)
class StudyOptions:
    """Options of `biovfm scaling study`."""

    study: Path = argument("file with the families, sizes, subsets and the probe", metavar="STUDY.yaml")
    out: Path = required("folder for runs/, results/ and scaling/", metavar="DIR")
    dry_run: bool = option(False, "print the commands and stop")

    def __post_init__(self) -> None:
        check_options(self)


def main(argv: list[str]) -> int:
    """Run `biovfm scaling study`. Returns the exit status."""
    parser = CommandParser("biovfm scaling study", description=DESCRIPTION)
    options = parse_options(parser, StudyOptions, argv)
    if options.dry_run:
        plan = read_plan(options.study)
        for run in plan.runs:
            print(shlex.join(run.command(options.out / "runs" / run.name, plan.launch)))
        print(shlex.join(["biovfm", "probe", *probe_arguments(plan, options.out)]))
        return 0
    run_study(options)
    return 0


def run_study(options: StudyOptions) -> None:
    """Pretrain, probe and analyse what the study file names; finished work is not repeated.

    Raises:
        UserError: the study file is wrong, a pretraining run fails, or no model has a score.
    """
    plan, out = read_plan(options.study), options.out
    probing = probe_options(plan, out)
    if probing.device:
        check_device(probing.device)
    tasks = [task.name for task in probe_command.open_tasks(probing)]  # report missing files first
    if any(task.lower() == MEAN for task in tasks):
        raise UserError("a task of the study is called mean, as is the mean over tasks in slopes.csv; rename it")
    pretrain(plan, out)
    runs = probe_command.make_runs(probing)  # may occupy a GPU, which training used until now
    groups = by_method(probe_command.probe(probing), runs, tasks)
    rows = {
        method: points(plan, over_seeds(out / "results", records, probing.resamples), out)
        for method, records in groups.items()
    }
    rows = {method: group for method, group in rows.items() if group}
    if not rows:
        what = plan.metric or "AUC, Dice or AP"
        raise UserError(
            f"{out / 'results'}: holds no {what} above 0 of the study's models, so there is nothing to fit"
        )
    for method, group in rows.items():
        _analyse(plan, group, out, f"-{method}" if len(groups) > 1 else "")
    if plan.layers:
        analyse_layers(plan, out)


def analyse_layers(plan: Plan, out: Path) -> None:
    """Measure the layers of every model, unless this is done, and fit slopes at each depth."""
    from .layer_slopes import write_layer_slopes  # loads matplotlib

    models = tuple(f"{run.name}={out / 'runs' / run.name / 'model'}" for run in plan.runs)
    stamp, settings = out / "layers" / "asked.json", json.dumps([list(models), plan.layers], sort_keys=True)
    if not stamp.is_file() or stamp.read_text(encoding="utf-8") != settings:
        analyse_command.analyse(AnalyseOptions(models=models, out=out / "layers", **plan.layers))
        write_text(stamp, settings)
    rows = read_json(out / "layers" / "layers.json")["rows"]
    sizes = {run.name: (run.series, _facts(out / "runs" / run.name)[0]) for run in plan.runs}
    lines = write_layer_slopes(out / "layers", rows, sizes)
    print("\n".join(["", *lines, f"tables and pictures of layers are in {out / 'layers'}"]))


def _analyse(plan: Plan, rows: list[dict[str, Any]], out: Path, ending: str) -> None:
    """Write the points of one method, then fit, correlate and draw them."""
    from .writing import write_study  # loads matplotlib

    first = SCORE_COLUMNS if "score" in rows[0] else POINT_COLUMNS
    columns = [*first, "low", "high", "images_millions"]
    columns += [name for name in ("subset", "objective") if any(name in row for row in rows)]
    write_rows(out / f"points{ending}.csv", columns, rows)
    study = read_points(out / f"points{ending}.csv")
    properties = read_properties(plan.properties) if plan.properties else {}
    analysis = analyse(study, properties, plan.axis)
    write_study(analysis, out / f"scaling{ending}")
    for note in analysis.notes:
        print(f"note: {note}", file=sys.stderr)
    print("\n".join(screen_lines(analysis)))
    print(f"\ntables and figures are in {out / f'scaling{ending}'}")
