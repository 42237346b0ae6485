"""`biovfm build`: raw sources to a screened Parquet dataset that `load_dataset` reads; killed, it continues."""

import argparse
import math
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

from biovfm_hf.errors import UserError

_DESCRIPTION = """\
Build a dataset folder from the raw sources in a folder, one sub-folder for each source.

Only the training part of each source is taken, volumes are sliced along anatomical axes, pictures without anatomy,
duplicates and images of benchmarks are dropped, and manifest.parquet says of every picture what became of it. When the
command is stopped or killed, the same command continues; when it is done, running it again changes nothing."""

_EXAMPLES = """\
examples:
  biovfm build --raw raw --out dataset                              every source of the catalogue found in raw/
  biovfm build --raw raw --out dataset --sources drive,busi.yaml    one of the catalogue, one record of your own
  biovfm build --raw raw --out ct --views axial --workers 16
  biovfm build --raw raw --out dataset --benchmarks medmnist/       drop what MedMNIST tests on
  biovfm build --raw raw --out dataset --plan-only                  list once, before the jobs of an array start
  biovfm build --raw raw --out dataset --shard-index $SLURM_ARRAY_TASK_ID --num-shards 100
  biovfm build --raw raw --out dataset --retry-failed               after mending files, or adding a source
  biovfm build --out dataset --check                                prove that nothing was lost"""


def main(argv: list[str]) -> int:
    """Run the command. Returns 0 when the dataset is complete, 1 when the check finds a fault."""
    arguments = _arguments(argv)
    from .pipeline import run  # not before the words are understood: it brings the decoders with it

    result = run(arguments)
    return 1 if result.get("faults") else 0


def build(
    raw: str | Path, out: str | Path, sources: str | Sequence[str | Path] | None = None, **options: Any
) -> dict[str, Any]:
    """Build a dataset from Python; the same as the command, with its options as keywords.

    `build("raw", "out", ["drive"], workers=4, views=("axial", "coronal"), benchmarks=["medmnist/"])`

    Returns:
        The summary that `build.json` holds; with `plan_only`, or as a job of an array, what is planned.

    Raises:
        UserError: an option is wrong, or the build cannot be done.
    """
    argv = ["--raw", str(raw), "--out", str(out)]
    for name, value in {"sources": sources, **options}.items():
        word = f"--{name.replace('_', '-')}"
        if value is True:
            argv.append(word)
        elif name == "benchmarks" and value is not None:
            paths = [value] if isinstance(value, str | Path) else list(value)
            argv += [word, *map(str, paths)] if paths else []
        elif value is not None and value is not False:
            several = isinstance(value, Iterable) and not isinstance(value, str)
            argv.append(f"{word}={','.join(map(str, value)) if several else value}")
    said = StringIO()
    try:
        with redirect_stderr(said):
            arguments = _arguments(argv)
    except SystemExit as stopped:
        raise UserError(said.getvalue().strip().rpartition("error: ")[2]) from stopped
    from .pipeline import run  # not before the words are understood: it brings the decoders with it

    return run(arguments)


def _arguments(argv: list[str]) -> argparse.Namespace:
    """The words of the command; ends with status 2 where they are wrong."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    index, jobs = arguments.shard_index, arguments.num_shards
    if arguments.raw is None and not arguments.check:
        parser.error("--raw is needed to build")
    if (index is None) != (jobs is None):
        parser.error("--shard-index and --num-shards belong together")
    if jobs and index >= jobs:
        parser.error(f"--shard-index {index}: the jobs are numbered from 0; with --num-shards {jobs}, to {jobs - 1}")
    if jobs and arguments.retry_failed:
        parser.error("--retry-failed plans anew: run it once with --plan-only, then the jobs without it")
    return arguments


def _slurm(words: str) -> dict[str, Any]:
    """`slurm_partition=cpu,timeout_min=240` as keywords of submitit."""
    pairs = [word.partition("=") for word in words.split(",") if word.strip()]
    if wrong := [name for name, sign, _ in pairs if not sign]:
        raise argparse.ArgumentTypeError(f"{wrong[0]!r} has no value; give KEY=VALUE,KEY=VALUE")
    return {name.strip(): int(value) if value.isdigit() else value for name, _, value in pairs}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="biovfm build",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--raw", type=Path, metavar="DIR", help="folder with one sub-folder for each source, named as its record says")
    add("--out", type=Path, metavar="DIR", required=True, help="dataset folder to write, or to continue")
    add("--sources", metavar="A,B", help="ids of the catalogue or paths of record files (default: all of the paper)")
    add("--subset", choices=["full", "us", "0.2m", "2.45m"], default="full", help="one of the paper's subsets")
    add("--leakage", choices=["strict", "paper"], default="strict", help="strict leaves out what benchmarks contain")
    add(
        "--benchmarks", type=Path, nargs="+", default=[], metavar="PATH", help="MedMNIST .npz files, images or folders"
    )
    add(
        "--views",
        type=_views,
        default=("axial", "sagittal", "coronal"),
        metavar="V,V",
        help="views to slice volumes along",
    )
    side = _number(int, 16, 4096, "16 to 4096 pixels")
    add("--size", type=side, default=224, metavar="N", help="side of the images in pixels (default 224)")
    add(
        "--fit",
        choices=["longest", "shortest"],
        default="longest",
        help="side that becomes N; longest pads to a square",
    )
    add("--image-format", choices=["png", "jpeg"], default="png", help="png is lossless, jpeg half as large")
    add("--quality", type=_number(int, 1, 100, "1 to 100"), default=95, metavar="Q", help="of JPEG (default 95)")
    add("--keep-near-duplicates", action="store_true", help="drop exact duplicates only")
    add("--seed", type=int, default=0, metavar="N", help="of the subset 0.2m and of the subjects' hashes (default 0)")
    add("--salt-file", type=Path, metavar="FILE", help="a secret of your own for the subjects' hashes")
    running = parser.add_argument_group("running")
    add = running.add_argument
    count = _number(int, 0, math.inf, "0 or more")
    add("--workers", type=count, default=os.cpu_count() or 1, metavar="N", help="processes; 0 runs in this one")
    add("--engine", choices=["local", "dask", "submitit"], default="local", help="what runs the shards")
    add("--scheduler", metavar="ADDRESS", help="of a running Dask cluster (default: a local one)")
    add(
        "--slurm",
        type=_slurm,
        default="",
        metavar="K=V,K=V",
        help="submitit's parameters, such as slurm_partition=cpu,timeout_min=240",
    )
    add("--shard-index", type=count, metavar="I", help="with --num-shards: do every Nth shard only, for job arrays")
    add("--num-shards", type=_number(int, 1, math.inf, "1 or more"), metavar="N", help="number of jobs")
    seconds = _number(float, 0.001, 1e9, "seconds, 0.001 or more")
    add("--item-seconds", type=seconds, default=300.0, metavar="S", help="longest time on one picture (default 300)")
    add(
        "--retry-failed", action="store_true", help="list the raw folder again; run what failed, is new or has changed"
    )
    add("--plan-only", action="store_true", help="list the raw folder, save the plan and do nothing else")
    add("--check", action="store_true", help="check the accounting of a finished dataset and do nothing else")
    return parser


def _number(kind: type[int] | type[float], low: float, high: float, words: str) -> Callable[[str], float]:
    """What reads a number of `kind` from `low` to `high`; `words` say so to who gives another."""

    def parsed(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"must be {words}, not {text!r}")
        return value

    return parsed


def _views(text: str) -> tuple[str, ...]:
    from .readers.slicing import VIEWS

    views = tuple(text.split(","))
    for view in views:
        if view not in VIEWS:
            raise argparse.ArgumentTypeError(f"no view {view!r}; choose from {', '.join(VIEWS)}")
    return views
