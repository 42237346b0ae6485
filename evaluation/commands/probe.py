"""The `biovfm probe` command: scores encoders on tasks."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields, make_dataclass
from itertools import product
from pathlib import Path
from typing import Any

from biovfm_hf.cards.provenance import Provenance, add_provenance
from biovfm_hf.errors import OptionError, UserError
from biovfm_hf.options import CommandParser, check_options, option, parse_options, required
from biovfm_hf.results.record import Record

from ..encoders.device import (
    COMPILE_HELP,
    DEVICE_HELP,
    PRECISION_HELP,
    PRECISIONS,
    check_device,
    default_device,
    default_precision,
)
from ..encoders.embed import embed_summaries
from ..encoders.encoder import Encoder
from ..encoders.lineup import LINEUP
from ..encoders.load import load_encoder, split_label
from ..encoders.own_code import TRUST_HELP
from ..encoders.pooling import POOL_HELP, POOLS, case_features
from ..encoders.processes import ProcessGroup, process_group
from ..pictures.encoders import draw_attention, draw_boxes, draw_embedding, draw_masks, draw_patch_colours
from ..pictures.figure import discard, figure_path
from ..pictures.robustness import draw_robustness
from ..pictures.scores import discard_all, draw_all, figure_blocks
from ..probes.frozen import benchmark_of
from ..probes.probe import ALL_PROTOCOLS, Probe, ProbeRun, find_probes, probe_classes, probe_names
from ..probes.suite import run_suite
from ..results.comparisons import compare_models
from ..results.records import merge_records
from ..results.seeds import over_seeds, write_means
from ..results.table import write_tables
from ..results.trust.records import GROUPS_FILE, check_columns, write_groups
from ..statistics.kinds import DETECTION, SEGMENTATION
from ..tasks import GROUPS, Task, TaskRecord, open_task, read_records, resolve_names
from ..tasks.classes import told_order, told_positive
from ..tasks.corruptions.benchmark import benchmarks
from ..tasks.listing import Listing
from ..tasks.medmnist import SIZES
from .features import LEFT_OUT, write_left_out
from .naming import why_withheld
from .settings import SETTINGS, method_options

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


WHAT, HOW, RUNNING = "what to score", "how", "running"


@dataclass(frozen=True)
class RunOptions:
    """Options of `biovfm probe` besides the methods' own settings, which `options_class` adds."""

    model: tuple[str, ...] = required(
        "a model folder, a Hub repository, a short name (dinov2-b, biomedclip, ...), timm:NAME or "
        "open_clip:hf-hub:REPO; for segmentation also scratch:unet, scratch:transunet or transunet:FILE.npz; can be "
        "repeated",
        metavar="[NAME=]MODEL",
        group=WHAT,
    )
    tasks: tuple[str, ...] = required(
        "task names, medmnist, medmnist3d, radiology, or paths", metavar="NAME,...", commas=True, group=WHAT
    )
    out: Path = required("results folder", metavar="DIR", group=WHAT)
    data: Path = option(Path(), "folder with the named sets", metavar="DIR", group=WHAT)
    size: int | None = option(None, "MedMNIST size (default: the largest available)", choices=SIZES, group=WHAT)
    download: bool = option(False, "download missing MedMNIST sets to --data", group=WHAT)
    method: tuple[str, ...] = option(
        ("linear",), "methods (default: linear); --help lists them below", metavar="NAME,...", commas=True,
        group=HOW,
    )  # fmt: skip
    protocol: str = option(
        "fast",
        "biovfm: as the authors probe, threshold and resample; fast: logistic regression on standardised features, "
        "subjects are resampled; radiology: linear, segment and fewshot as the study arXiv 2312.02366 trains them",
        choices=ALL_PROTOCOLS,
        group=HOW,
    )
    seed: tuple[int, ...] = option(
        (0,),
        "random seed; several run one after the other and are reported as one result with the seeds' share "
        "in its uncertainty (default: 0)",
        metavar="N,...",
        commas=True,
        least=0,
        group=HOW,
    )
    pool: str = option(
        "mean", f"{POOL_HELP}; attention over slices is learned: --method mil", choices=tuple(POOLS), group=HOW
    )
    batch_size: int = option(64, "images per batch", least=1, group=RUNNING)
    device: str | None = option(None, DEVICE_HELP, group=RUNNING)
    precision: str | None = option(None, PRECISION_HELP, choices=PRECISIONS, group=RUNNING)
    compile: bool = option(False, COMPILE_HELP, group=RUNNING)
    cache: Path | None = option(None, "folder for cached features (default: OUT/cache)", metavar="DIR", group=RUNNING)
    resamples: int = option(1000, "bootstrap resamples; comparisons on many tasks use more", least=1, group=RUNNING)
    stratify: bool = option(
        False,
        "keep the test split's class counts in every resample, for rare classes; intervals then hold for these counts "
        "(protocol fast; not for fewshot and segment)",
        group=RUNNING,
    )
    by: tuple[str, ...] = option(
        (), "also gaps between groups of test cases, such as sex,age,site: columns of a CSV list, or of a task's "
        "source", metavar="COLUMN,...", commas=True, group=RUNNING,
    )  # fmt: skip
    corrupt: bool = option(
        False,
        "also errors on corrupted test images: MedMNIST-C's corruptions at five severities (probes of frozen "
        "features; each corruption and severity embeds the test images once more)",
        group=HOW,
    )
    corruptions: str | None = option(
        None, "with --corrupt, the set of corruptions for tasks outside MedMNIST-C", choices=tuple(benchmarks()),
        metavar="SET", group=HOW,
    )  # fmt: skip
    save_masks: str | None = option(
        None,
        "segmentation: write every predicted mask to OUT/masks/ as nifti (volumes only), png, or auto, which is NIfTI "
        "for volumes and PNG for images; fewshot writes one folder per draw",
        choices=("auto", "nifti", "png"),
        group=RUNNING,
    )
    no_figures: bool = option(False, "draw no pictures, and remove those of earlier scores", group=RUNNING)
    trust_remote_code: str | None = option(None, TRUST_HELP, metavar="REVISION", group=RUNNING)

    def __post_init__(self) -> None:
        check_options(self)
        probes = [probe for name in self.method for probe in find_probes(name, self.protocol)]
        if self.stratify and self.protocol == "biovfm":
            raise OptionError("stratify", "needs protocol fast; protocol biovfm resamples as its authors did")
        if self.stratify and not any(probe.stratifies for probe in probes):
            raise OptionError("stratify", f"has no effect on {', '.join(self.method)}")
        if self.corrupt and not any(probe.corrupts for probe in probes):
            raise OptionError(
                "corrupt", f"has no effect on {', '.join(self.method)}; it is for probes of frozen features"
            )
        if self.corruptions and not self.corrupt:
            raise OptionError("corruptions", "has no effect without corrupt")
        if self.out.exists() and not self.out.is_dir():
            raise OptionError("out", f"{self.out} is a file; give a folder")
        _refuse_idle_settings(self, probes)

    @property
    def features_folder(self) -> Path:
        """The folder for cached features."""
        return self.cache or self.out / "cache"


def _refuse_idle_settings(options: RunOptions, probes: Sequence[type[Probe]]) -> None:
    """Raise a UserError for a setting that none of the chosen methods has."""
    known = {item.name for probe in probes for item in fields(probe) if item.init}
    for item in fields(options):
        value = getattr(options, item.name)
        given = value is not None and value is not False  # a switch that is off is False
        if given and item.metadata.get("group") == SETTINGS and item.name not in known:
            methods = ", ".join(options.method)
            raise OptionError(item.name, f"has no effect on {methods} under protocol {options.protocol}")


def options_class() -> type[RunOptions]:
    """`RunOptions` plus the options of CSV lists and every setting that a registered method declares.

    A setting that is not given is None. A setting that several methods share is one option. A setting with `commas`
    takes several values, each with runs of its own.

    Raises:
        UserError: a method's setting has a name that means something else already.
    """
    own_names = {item.name for base in (Listing, RunOptions) for item in fields(base)}
    return make_dataclass("ProbeOptions", method_options(own_names), bases=(Listing, RunOptions), frozen=True)


ProbeOptions = options_class()


def main(argv: list[str]) -> int:
    """Run `biovfm probe`. Returns 0; failures are raised as UserError."""
    parser = build_parser()
    if listing := next((LISTS[word] for word in argv if word in LISTS), None):
        rows = listing()
        print(json.dumps(rows, indent=1) if "--json" in argv else "\n".join(map(_line, rows)))
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


def list_tasks() -> list[dict[str, Any]]:
    """Name, kind, licence, title and groups of each task record."""
    groups = {name: [group for group, names in GROUPS.items() if name in names] for name in read_records()}
    return [
        {"name": record.name, "kind": record.kind, "licence": record.licence, "title": record.title,
         "groups": groups[record.name]}
        for record in read_records().values()
    ]  # fmt: skip


def list_encoders() -> list[dict[str, Any]]:
    """For each short name: what it loads, millions of parameters, input, feature, licence, access and paper."""
    return [
        {"name": name, "loads": entry.source, "parameters_millions": entry.parameters, "input": entry.size,
         "feature": entry.feature, "features": entry.features, "licence": entry.licence,
         "access": entry.access or "open", "paper": f"arXiv {entry.paper}"}
        for name, entry in LINEUP.items()
    ]  # fmt: skip


LISTS = {"--list-tasks": list_tasks, "--list-encoders": list_encoders}


def _line(row: dict[str, Any]) -> str:
    """A row of a list as a line for the screen, its name first."""
    name, *rest = (", ".join(value) if isinstance(value, list) else str(value) for value in row.values())
    return f"{name:<18} {'  '.join(filter(None, rest))}"


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


def draw(options: RunOptions, tasks: list[Task], records: list[Record]) -> None:
    """Draw every picture of the results folder; pictures that need the model are drawn only if they are missing."""
    draw_all(options.out, records)
    by_name = {task.name: task for task in tasks}
    for kind, prefix, picture in ((SEGMENTATION, "masks", draw_masks), (DETECTION, "boxes", draw_boxes)):
        drawn = [record for record in records if record.kind == kind and record.task in by_name]
        for record in drawn:
            discard(options.out, prefix, record.model, record.task)
        for name, group in figure_blocks(drawn):
            for record in group:
                picture(options.out, record, by_name[record.task], name)
    for model in options.model:
        label = split_label(model)[0]
        own_records = {record.task: record for record in records if record.model == label}
        undrawn = [
            t for t in tasks if t.name in own_records and not figure_path(options.out, "pca", label, t.name).exists()
        ]
        if undrawn:
            encoder = load_encoder(
                model, options.device or default_device(), precision=options.precision,
                trust_remote_code=options.trust_remote_code,
            )  # fmt: skip
            for task in undrawn if encoder.network is None else []:
                draw_model(options, encoder, task, own_records[task.name])


def draw_model(options: RunOptions, encoder: Encoder, task: Task, record: Record) -> None:
    """Draw pictures of a model on a task: its attention, a map of its features, and the colours of its patches."""
    draw_attention(options.out, encoder, task)
    split = task.splits["test"]
    if split.labels is not None and split.labels.ndim == 1:
        label = f"{encoder.name} {task.name} test"
        stored = embed_summaries(
            encoder, split.images, options.features_folder, None, options.batch_size, label, ProcessGroup()
        )
        features = case_features(stored["mean"], split.case_of_image)
        draw_embedding(options.out, record, features, split.labels, list(task.record.classes))
    draw_patch_colours(options.out, encoder, task)
