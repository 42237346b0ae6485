"""`biovfm probe`: score encoders on tasks."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from biovfm_hf.errors import UserError
from biovfm_hf.provenance import Provenance, add_provenance

from .embed import COMPILE_HELP, PRECISION_HELP, PRECISIONS

if TYPE_CHECKING:
    from ..encoders.load import Encoder
    from ..probes.settings import Settings
    from ..results.records import Record
    from ..tasks import Task

FEATURES = ("both", "class", "mean", "mean_raw", "pooled", "last4")
METHODS = ("linear", "knn", "fewshot", "lora", "bitfit", "finetune", "segment")
EXAMPLES = """\
examples:
  biovfm probe --model runs/tiny/model --tasks pneumoniamnist --data data/medmnist --out results
  biovfm probe --model runs/tiny/model --model dinov2-b --tasks medmnist --data data --out results --protocol biovfm
  biovfm probe --model ours=runs/tiny/model --tasks my_scans/ --out results --method linear,knn
  biovfm probe --model ours=runs/tiny/model --tasks my_masks/ --out results --method segment --decoder unet
  biovfm probe --model dinov2-b --tasks busi --data data --out results --method fewshot --shots 4

a task of your own is a folder {train,val,test}/{class}/IMAGE, a CSV file with the columns
image,label,split[,subject], for segmentation a folder {train,val,test}/{images,masks}/NAME.png, or a record NAME.yaml
like those of evaluation/tasks/records, which gives one of these (or a known set) its metric, licence and citation

OUT receives results.json (one record per model, task and method), comparisons.json (paired differences between
models), table.md, table.tex, table.csv, scores/*.npz and figures/. Run the same command again to continue.
On several GPUs: accelerate launch --num_processes 4 -m biovfm_hf.cli probe ..."""


def at_least_one(words: str) -> int:
    """An option's whole number of 1 or more."""
    number = int(words)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{words} must be 1 or more")
    return number


def above_zero(words: str) -> float:
    """An option's number above 0."""
    number = float(words)
    if not number > 0:
        raise argparse.ArgumentTypeError(f"{words} must be above 0")
    return number


def build_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(
        prog="biovfm probe",
        description="Score frozen (or fine-tuned) encoders on benchmark tasks. Features are computed once per model "
        "and task; every metric comes with a 95 % bootstrap interval, and models are compared on the same test cases.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_argument_group("what to score")
    what.add_argument(
        "--model", action="append", default=[], metavar="[NAME=]MODEL",
        help="a model folder, a Hub repository, a short name (dinov2-b, biomedclip, ...), timm:NAME or "
        "open_clip:hf-hub:REPO, for segmentation also scratch:unet and scratch:transunet; again for each further one",
    )  # fmt: skip
    what.add_argument("--tasks", metavar="NAME,...", help="task names, medmnist, medmnist3d, radiology, or paths")
    what.add_argument("--data", type=Path, default=Path(), metavar="DIR", help="where the named sets are (default: .)")
    what.add_argument("--out", type=Path, metavar="DIR", help="the results folder")
    what.add_argument("--list-tasks", action="store_true", help="list the named tasks and stop")
    what.add_argument(
        "--size", type=int, choices=(28, 64, 128, 224), help="MedMNIST size (default: the largest there)"
    )
    what.add_argument("--download", action="store_true", help="fetch missing MedMNIST sets into --data")
    how = parser.add_argument_group("how")
    how.add_argument(
        "--method", default="linear", metavar="NAME,...", help=f"of {', '.join(METHODS)} (default: linear)"
    )
    how.add_argument(
        "--protocol", choices=("biovfm", "fast"), default="fast",
        help="biovfm: as the authors probe, threshold and resample; fast: logistic regression on standardised "
        "features, subject-level resamples (default)",
    )  # fmt: skip
    how.add_argument(
        "--seed", default="0", metavar="N,...",
        help="of everything random; several are run one after the other and reported as one result with the seeds' "
        "share in its uncertainty (default: 0)",
    )  # fmt: skip
    how.add_argument(
        "--features",
        choices=FEATURES,
        help="class token, mean patch token (mean_raw: before the final norm), both, the model's pooled vector, or "
        "last4: class tokens of the last four blocks and the mean patch token (default: class for kNN, else both)",
    )
    how.add_argument(
        "--views", type=int, default=0, metavar="N",
        help="protocol biovfm: N augmented views of the training images, used in turn over the epochs; 100 repeats "
        "the authors' online augmentation (default: 0, no augmentation)",
    )  # fmt: skip
    how.add_argument(
        "--epochs", type=at_least_one, help="of trained heads, decoders and fine-tuning (default: by method)"
    )
    how.add_argument("--rate", type=above_zero, help="highest learning rate (default: by method)")
    how.add_argument("--neighbours", type=at_least_one, metavar="K", help="kNN (default: chosen on validation)")
    how.add_argument("--temperature", type=above_zero, default=0.07, help="kNN votes (default: 0.07)")
    how.add_argument(
        "--shots", default="16", metavar="N,...", help="few-shot: training subjects per class (default: 16)"
    )
    how.add_argument("--draws", type=at_least_one, default=20, help="few-shot: how many draws (default: 20)")
    how.add_argument("--decoder", choices=("linear", "unet"), default="linear", help="segmentation (default: linear)")
    how.add_argument("--image-size", type=at_least_one, metavar="PX", help="segmentation input (default: the model's)")
    run = parser.add_argument_group("running")
    run.add_argument("--batch-size", type=at_least_one, default=64, help="images at once (default: 64)")
    run.add_argument("--device", help="torch device (default: cuda where there is one, else cpu)")
    run.add_argument("--precision", choices=PRECISIONS, help=PRECISION_HELP)
    run.add_argument("--compile", action="store_true", help=COMPILE_HELP)
    run.add_argument("--cache", type=Path, metavar="DIR", help="where features are kept (default: OUT/cache)")
    run.add_argument(
        "--resamples",
        type=at_least_one,
        default=1000,
        help="of the bootstrap; comparisons on many tasks take more (default: 1000)",
    )
    run.add_argument(
        "--stratify", action="store_true",
        help="the resamples keep the class counts of the test split: for intervals given these counts, where a class "
        "is rare (protocol fast; not for fewshot and segment)",
    )  # fmt: skip
    run.add_argument("--no-figures", action="store_true", help="leave out the pictures")
    return parser


def main(argv: list[str]) -> int:
    """Run the command. Returns 0; failures are raised as UserError."""
    parser = build_parser()
    options = parser.parse_args(argv)
    if options.list_tasks:
        list_tasks()
        return 0
    for name in ("model", "tasks", "out"):
        if not getattr(options, name):
            parser.error(f"--{name} is needed")
    methods = check_options(parser, options)
    if options.out.exists() and not options.out.is_dir():
        parser.error(f"--out {options.out} is a file; give a folder")
    return probe(options, methods)


def check_options(parser: argparse.ArgumentParser, options: argparse.Namespace) -> list[str]:
    """Check what can be told without opening models and tasks, by way of `parser.error`. Returns the methods.

    Raises:
        UserError: unknown tasks, or shots or seeds that are no whole numbers.
    """
    from ..tasks import resolve_names

    methods = [word.strip() for word in options.method.split(",") if word.strip()]
    if unknown := [word for word in methods if word not in METHODS]:
        parser.error(f"unknown method {unknown[0]!r} (choose from {', '.join(METHODS)})")
    if options.views < 0:
        parser.error("--views must be 0 or more")
    if options.stratify and options.protocol == "biovfm":
        parser.error("--stratify needs --protocol fast; protocol biovfm resamples as its authors did")
    if options.stratify and set(methods) <= {"fewshot", "segment"}:
        parser.error(f"--stratify does nothing for {options.method}")
    whole_numbers(options.shots, "--shots", 1)
    whole_numbers(options.seed, "--seed", 0)
    resolve_names(options.tasks)
    return methods


def list_tasks() -> None:
    """Print name, kind, licence and title of every record."""
    from ..tasks import GROUPS, read_records

    records = read_records()
    for group, names in GROUPS.items():
        print(f"{group}: {', '.join(name for name in names if name in records)}")
    for record in records.values():
        print(f"{record.name:<18} {record.kind:<26} {record.licence:<14} {record.title}")


def probe(options: argparse.Namespace, methods: list[str]) -> int:
    """Open the tasks, make the missing records, then tables, comparisons and pictures."""
    from ..encoders.processes import process_group
    from ..probes.suite import run_suite

    cache = options.cache or options.out / "cache"
    runs = make_settings(options, methods)
    tasks = open_tasks(options, methods)
    failure = None
    try:
        run_suite(options.model, tasks, runs, options.out, cache)
    except UserError as error:
        failure = error
    processes = process_group()
    if processes.takes(0):
        summarise(options, tasks)
    processes.wait()  # a launcher ends all processes when one of them fails
    if failure is not None:
        raise failure
    return 0


def open_tasks(options: argparse.Namespace, methods: list[str]) -> list["Task"]:
    """The tasks that the options name.

    Raises:
        UserError: a task's files are missing or broken, two have one name, or no method applies to one.
    """
    from ..probes.settings import Settings
    from ..probes.suite import suits
    from ..tasks import open_task, resolve_names

    cache = options.cache or options.out / "cache"
    tasks = [
        open_task(name, options.data, options.size, cache, options.download) for name in resolve_names(options.tasks)
    ]
    names = [task.name for task in tasks]
    if repeated := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"two tasks are called {repeated}; rename one of the folders")
    for task in tasks:
        if not any(suits(task, Settings(method=method)) for method in methods):
            raise UserError(
                f"task {task.name} is of kind {task.record.kind}; no method of {', '.join(methods)} applies"
            )
    return tasks


def summarise(options: argparse.Namespace, tasks: list["Task"]) -> None:
    """Comparisons, tables and pictures of all records in the results folder."""
    from ..results.comparisons import compare_models
    from ..results.records import merge_records
    from ..results.seeds import over_seeds
    from ..results.table import write_tables

    own = tuple(task.name for task in tasks if task.record.is_private)
    add_provenance(options.out, Provenance(private_tasks=own))
    records = merge_records(options.out)
    comparisons = compare_models(options.out, records, options.resamples)
    if records:
        joined = over_seeds(options.out, records, options.resamples)
        write_tables(options.out, records, joined, comparisons)
        if not options.no_figures:
            draw(options, tasks, joined)
        print(f"{len(records)} records in {options.out / 'results.json'}; table in {options.out / 'table.md'}")


def make_settings(options: argparse.Namespace, methods: list[str]) -> list["Settings"]:
    """One `Settings` per method, seed, and number of shots.

    Raises:
        UserError: shots or seeds that are no whole numbers.
    """
    from ..encoders.device import check_device, default_device, default_precision
    from ..probes.settings import Settings

    shots, seeds = whole_numbers(options.shots, "--shots", 1), whole_numbers(options.seed, "--seed", 0)
    device = options.device or default_device()
    check_device(device)
    precision = options.precision or default_precision(device)
    names = ("protocol", "features", "views", "epochs", "neighbours", "temperature", "decoder", "draws",
             "rate", "image_size", "batch_size", "compile", "resamples", "stratify")  # fmt: skip
    common = {name: getattr(options, name) for name in names}
    return [
        Settings(method=method, seed=seed, shots=count, device=device, precision=precision, **common)
        for method in methods
        for seed in seeds
        for count in (shots if method == "fewshot" else shots[:1])
    ]


def whole_numbers(words: str, option: str, lowest: int) -> list[int]:
    """The numbers of a list such as `1,4,16`, without repeats.

    Raises:
        UserError: something else is in it.
    """
    try:
        found = list(dict.fromkeys(int(word) for word in str(words).split(",")))
    except ValueError as error:
        raise UserError(f"{option} {words!r}: give whole numbers, as in 1,4,16") from error
    if min(found) < lowest:
        raise UserError(f"{option} {words}: the lowest that makes sense is {lowest}")
    return found


def draw(options: argparse.Namespace, tasks: list["Task"], records: list["Record"]) -> None:
    """Every picture of the results folder; those that need the model only where they are missing."""
    from ..encoders.device import default_device
    from ..encoders.load import SCRATCH, load_encoder, split_label
    from ..pictures.encoders import draw_masks
    from ..pictures.figure import discard, figure_path
    from ..pictures.scores import draw_all, figure_blocks
    from ..statistics.kinds import SEGMENTATION

    draw_all(options.out, records)
    by_name = {task.name: task for task in tasks}
    segmented = [record for record in records if record["kind"] == SEGMENTATION]
    for record in segmented:
        if record["task"] in by_name:
            discard(options.out, "masks", record["model"], record["task"])
    for name, group in figure_blocks(segmented):
        for record in group:
            if record["task"] in by_name:
                draw_masks(options.out, record, by_name[record["task"]], name)
    for model in options.model:
        label = split_label(model)[0]
        mine = {record["task"]: record for record in records if record["model"] == label}
        wanted = [t for t in tasks if t.name in mine and not figure_path(options.out, "pca", label, t.name).exists()]
        if wanted and not split_label(model)[1].startswith(SCRATCH):
            encoder = load_encoder(model, options.device or default_device(), precision=options.precision)
            for task in wanted:
                draw_model(options, encoder, task, mine[task.name])


def draw_model(options: argparse.Namespace, encoder: "Encoder", task: "Task", record: "Record") -> None:
    """What a model makes of a task: its attention, a map of its features, and the colours of its patches."""
    from ..encoders.embed import case_features, embed_summaries
    from ..encoders.processes import ProcessGroup
    from ..pictures.encoders import draw_attention, draw_embedding, draw_patch_colours

    draw_attention(options.out, encoder, task)
    split = task.splits["test"]
    if split.labels is not None and split.labels.ndim == 1:
        cache = options.cache or options.out / "cache"
        label = f"{encoder.name} {task.name} test"
        stored = embed_summaries(encoder, split.images, cache, None, options.batch_size, label, ProcessGroup())
        features = case_features(stored["mean"], split.case_of_image)
        draw_embedding(options.out, record, features, split.labels, list(task.record.classes))
    draw_patch_colours(options.out, encoder, task)
