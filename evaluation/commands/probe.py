"""The `biovfm probe` command: scores encoders on tasks."""

import json
import sys
from dataclasses import fields
from itertools import product
from pathlib import Path

from biovfm_hf.cards.provenance import Provenance, add_provenance
from biovfm_hf.errors import UserError
from biovfm_hf.options import CommandParser, parse_options
from biovfm_hf.results.record import Record
from biovfm_hf.writing.files import check_writable

from ..encoders.device import check_device, default_device, default_precision
from ..encoders.load import check_labels, check_place
from ..encoders.processes import process_group
from ..pictures.robustness import draw_robustness
from ..pictures.scores import discard_all
from ..probes.frozen import benchmark_of
from ..probes.probe import Probe, ProbeRun, find_probes, probe_classes, probe_names
from ..probes.suite import run_suite
from ..results.comparisons import compare_models
from ..results.records import merge_records
from ..results.seeds import over_seeds, write_means
from ..results.table import write_tables
from ..results.trust.records import GROUPS_FILE, check_columns, write_groups
from ..tasks import Task, TaskRecord, open_task, resolve_names
from ..tasks.classes import told_order, told_positive
from ..tasks.listing import Listing
from .drawing import draw
from .features import LEFT_OUT, write_left_out
from .lists import LISTS, list_line
from .naming import why_withheld
from .probe_options import RunOptions, options_class

EXAMPLES = """\
examples:
  biovfm probe --model runs/tiny/model --tasks pneumoniamnist --data data/medmnist --out results
  biovfm probe --model runs/tiny/model --model dinov2-b --tasks medmnist --data data --out results --protocol biovfm
  biovfm probe --model ours=runs/tiny/model --tasks my_scans/ --out results --method linear,knn
  biovfm probe --model ours=runs/tiny/model --tasks my_masks/ --out results --method segment --decoder unet
  biovfm probe --model dinov2-b --tasks busi --data data --out results --method fewshot --shots 4

a task of your own is one of
  - a folder {train,val,test}/{class}/IMAGE
  - a CSV file with the columns image,label,split[,subject], or with the column names that you give
  - for segmentation, a folder {train,val,test}/{images,masks}/NAME.png
  - a record NAME.yaml like those of evaluation/tasks/records, which adds metric, licence and citation to one of these
    or to a known set

OUT receives results.json (one record per model, task and method), comparisons.json (paired differences between
models), table.md, table.tex, table.csv, scores/*.npz and figures/; with several seeds also seeds.json (their means);
with --by also groups.json (gaps between groups); with --skip-unreadable also TASK.left_out.csv.
Run the same command again to continue.
On several GPUs:
  accelerate launch -q --num_processes 4 --num_machines 1 --mixed_precision no --dynamo_backend no \\
    -m biovfm_hf.cli probe ..."""


ProbeOptions = options_class()


def main(argv: list[str]) -> int:
    """Run `biovfm probe`. Returns 0; failures are raised as UserError."""
    parser = build_parser()
    if listing := next((LISTS[word] for word in argv if word in LISTS), None):
        rows = listing()
        print(json.dumps(rows, indent=1) if "--json" in argv else "\n".join(map(list_line, rows)))
        return 0
    options = parse_options(parser, options_class(), argv)
    records = probe(options)
    if records and process_group().takes(0):
        print(f"{len(records)} records in {options.out / 'results.json'}; table in {options.out / 'table.md'}")
    return 0


def build_parser() -> CommandParser:
    """The command's parser, without its options."""
    titles = probe_titles()
    width = max(map(len, titles)) + 2
    methods = "\n".join(f"  {name:<{width}}{title}" for name, title in titles.items())
    parser = CommandParser(
        prog="biovfm probe",
        description="Score frozen (or fine-tuned) encoders on benchmark tasks. Features are computed once per model "
        "and task; every metric comes with a 95 % bootstrap interval, and models are compared on the same test cases.",
        epilog=f"methods:\n{methods}\n\n{EXAMPLES}",
    )
    lists = parser.add_argument_group("lists")
    lists.add_argument("--list-tasks", action="store_true", default=None, help="list the named tasks and stop")
    lists.add_argument(
        "--list-encoders", action="store_true", default=None, help="list the short names of encoders and stop"
    )
    lists.add_argument("--json", action="store_true", default=None, help="list as JSON, with all fields")
    return parser


def probe_titles() -> dict[str, str]:
    """{method: title} of all methods."""
    titles = {kind.name: kind.title for kind in probe_classes().values()}
    return {name: titles[name] for name in probe_names()}


def probe(options: RunOptions) -> list[Record]:
    """Make the missing records in `options.out`, then comparisons, tables and pictures of all its records.

    If one model fails on one task, the others continue; the failure is raised at the end.

    Args:
        options: an instance of `options_class()`.

    Returns:
        Every record of the results folder.

    Raises:
        UserError: a task or a model cannot be opened, or some records failed.
    """
    if not (options.out / "results.json").is_file():  # a model that was scored may be gone
        for model in options.model:
            check_place(model)
    check_labels(options.model)
    for folder in (options.out, options.features_folder):
        check_writable(folder, folder=True)
    tasks, runs = open_tasks(options), make_runs(options)
    failure, processes = None, process_group()
    if processes.takes(0):
        for task in tasks:
            write_task_left_out(options.out, task)
    try:
        run_suite(list(options.model), tasks, runs, options.out, options.features_folder)
    except UserError as error:
        failure = error
    records = summarise(options, tasks) if processes.takes(0) else []
    processes.wait()  # a launcher ends all processes if one of them fails
    if failure is not None:
        raise failure
    return records


def open_tasks(options: RunOptions) -> list[Task]:
    """Open the tasks that the options name.

    Raises:
        UserError: files of a task are missing or broken, two tasks share a name, or no method applies to a task.
    """
    listing = options if isinstance(options, Listing) else None
    tasks = [
        open_task(name, options.data, options.size, options.features_folder, options.download, listing)
        for name in resolve_names(options.tasks)
    ]
    names = [task.name for task in tasks]
    if repeated := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"two tasks are called {repeated}; rename one of the folders")
    check_columns(tasks, options.by)
    probes = [probe() for name in options.method for probe in find_probes(name, options.protocol)]
    for task in tasks:
        if not any(probe.suits(task) for probe in probes):
            cases = "one image" if task.splits["train"].case_of_image is None else "several images"
            raise UserError(
                f"task {task.name} is of kind {task.record.kind} with {cases} a case; "
                f"no method of {', '.join(options.method)} applies"
            )
        if options.corrupt and any(probe.corrupts and probe.suits(task) for probe in probes):
            benchmark_of(task, options.corruptions)
        for warning, examples in task.warnings.items():
            print(f"WARNING: task {task.name}: {warning}{examples and f' ({examples})'}", file=sys.stderr)
        _check_positive(task.record, listing.positive if listing else None)
        if task.record.layout == "folder" and (order := told_order(task.record)):
            print(order, file=sys.stderr)
    return tasks


def write_task_left_out(out: Path, task: Task) -> None:
    """List in `out` what of a task's list was left out; nothing if the task has no list of the user's.

    A file below a patient's folder is listed by its number there if, as for `embed`, names of that folder may tell of
    a person.
    """
    if task.record.layout != "folder":
        return
    folders = {each.folder for each in task.left_out if each.folder is not None}
    told = {folder: why_withheld(folder) for folder in folders}
    names = [each.anonymous if each.folder and told[each.folder] else each.where for each in task.left_out]
    path = out / f"{task.name}.{LEFT_OUT}.csv"
    write_left_out(path, dict(zip(names, (each.reason for each in task.left_out), strict=True)))
    if names:
        print(f"task {task.name}: {len(names)} left out, see {path}", file=sys.stderr)


def _check_positive(record: TaskRecord, positive: str | None) -> None:
    """Print which class of a user's own binary task is positive, unless the user named it."""
    if positive is None:
        line = told_positive(record) if record.layout == "folder" else None
        if line is not None:
            print(f"{line}; --positive or a record's order changes it", file=sys.stderr)
    elif record.positive != positive:
        raise UserError(
            f"task {record.name}: --positive {positive} is for a list or folder of two classes, without a record; "
            "probe this one apart"
        )


def make_runs(options: RunOptions) -> list[ProbeRun]:
    """One run for each method, combination of settings, and seed.

    Raises:
        UserError: torch cannot use the device.
    """
    device = options.device or default_device()
    check_device(device)
    precision = options.precision or default_precision(device)
    shared = {item.name for item in fields(ProbeRun)} & {item.name for item in fields(RunOptions)}
    common = {name: getattr(options, name) for name in shared - {"seed", "device", "precision"}}
    return [
        ProbeRun(probe, seed=seed, device=device, precision=precision, **common)
        for name in dict.fromkeys(options.method)
        for seed in dict.fromkeys(options.seed)
        for kind in find_probes(name, options.protocol)
        for probe in make_probes(kind, options)
    ]


def make_probes(kind: type[Probe], options: RunOptions) -> list[Probe]:
    """The probes of one class, one for each combination of the settings that have several values."""
    given = {item.name: getattr(options, item.name, None) for item in fields(kind) if item.init}
    choices = {
        name: dict.fromkeys(value) if isinstance(value, tuple) else [value]
        for name, value in given.items()
        if value is not None
    }
    return [kind(**dict(zip(choices, values, strict=True))) for values in product(*choices.values())]


def summarise(options: RunOptions, tasks: list[Task]) -> list[Record]:
    """Write comparisons, tables and pictures of all records in the results folder. Returns the records."""
    own = tuple(task.name for task in tasks if task.record.is_private)
    add_provenance(options.out, Provenance(private_tasks=own))
    records = merge_records(options.out)
    comparisons = compare_models(options.out, records, options.resamples)
    if records:
        joined = over_seeds(options.out, records, options.resamples)
        write_means(options.out, joined)
        write_tables(options.out, records, joined, comparisons)
        if options.by or (options.out / GROUPS_FILE).is_file():
            write_groups(options.out, records, tasks, options.by)
        if options.no_figures:
            discard_all(options.out)
        else:
            draw(options, tasks, joined)
            draw_robustness(options.out, records)
    return records
