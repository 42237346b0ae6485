"""`biovfm build`: raw sources to a screened Parquet dataset that `load_dataset` reads; killed, it continues."""

import argparse
import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from biovfm_hf.errors import UserError
from biovfm_hf.files import is_disk_full, write_text

if TYPE_CHECKING:
    from .leakage import Benchmarks
    from .plan import Options, Plan
    from .source import Source

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
    result = _work(_arguments(argv))
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
    return _work(arguments)


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


def _work(arguments: argparse.Namespace) -> dict[str, Any]:
    """Do what the words say; returns the summary of the dataset, of the plan, or of the check."""
    if arguments.check:
        return _check(arguments.out, arguments.workers)
    if not arguments.raw.is_dir():
        raise UserError(f"{arguments.raw}: no such folder; give the folder that holds one sub-folder for each source")
    try:
        return _run(arguments)
    except OSError as error:
        if not is_disk_full(error):
            raise
        raise UserError(f"{arguments.out}: the disk is full; make room, and the same command continues") from error


def _run(arguments: argparse.Namespace) -> dict[str, Any]:
    from .output_folder import check_output, hold

    options = _options(arguments)
    sources = _sources(arguments, options)
    check_output(arguments.out, arguments.raw, [source.folder or source.id for source in sources])
    inputs, known = _guard(arguments)
    with hold(arguments.out, shared=arguments.num_shards is not None):
        plan = _planned(arguments, options, sources)
        if arguments.plan_only:
            _tell_plan(plan)
            return _planned_work(plan)
        if arguments.num_shards is None:
            return _build(plan, arguments, inputs, known)
        mine = [n for n in plan.unfinished() if n % arguments.num_shards == arguments.shard_index]
        _run_shards(plan, arguments, mine)
    print(f"{len(mine)} shards done; when all {arguments.num_shards} jobs are, run without --shard-index to finish")
    return _planned_work(plan)


def _guard(arguments: argparse.Namespace) -> tuple[dict[str, Any], "Benchmarks | None"]:
    """What the screening across shards depends on beside the shards, and the benchmarks' fingerprints.

    They are read before anything is planned, so that a wrong file is told at once and not after hours. Where it has
    been finished with the same files (by content), and in the jobs of an array, which do not screen, they are None.
    """
    from .leakage import benchmark_files, identities, read_benchmarks
    from .plan import WORK

    files = benchmark_files(arguments.benchmarks)
    if arguments.num_shards is not None:
        return {}, None
    inputs = {"benchmarks": identities(files)}
    complete = _read_json(arguments.out / WORK / "complete.json") or {}
    return inputs, None if complete.get("inputs") == inputs else read_benchmarks(files)


def _planned(arguments: argparse.Namespace, options: "Options", sources: list["Source"]) -> "Plan":
    """The plan saved in the output folder, or a new one."""
    from .plan import changed_sources, differing, load_plan, make_plan
    from .replan import plan_again

    listing = f"listing the sources below {arguments.raw}"
    try:
        plan = load_plan(arguments.out)
    except FileNotFoundError:
        print(listing, flush=True)
        return make_plan(sources, arguments.raw, arguments.out, options, _salt(arguments))
    if changed := differing(plan.options, options):
        raise UserError(
            f"{arguments.out}: holds a build with {', '.join(changed)}; choose another --out, or remove that folder"
        )
    if arguments.retry_failed:
        print(listing, flush=True)
        plan, taken = plan_again(plan, sources, arguments.raw, _salt(arguments))
        print(f"{taken} of {len(plan.shards)} shards stay as they are, the others run")
    elif plan.raw != str(arguments.raw.resolve()):
        raise UserError(
            f"{arguments.out}: was planned from {plan.raw}, not from {arguments.raw.resolve()}; give that --raw, "
            "or, if the folder was moved, add --retry-failed once to list it anew and keep what has not changed"
        )
    elif changed := changed_sources(plan, sources):
        raise UserError(
            f"{arguments.out}: was planned with other records of {', '.join(changed[:5])}; choose another --out, "
            "or add --retry-failed to list the raw folder again and keep what has not changed"
        )
    return plan


def _planned_work(plan: "Plan") -> dict[str, Any]:
    inputs = sum(shard.items for shard in plan.shards)
    return {"shards": len(plan.shards), "inputs": inputs, "sources": sorted(plan.sources), "skipped": plan.skipped}


def _tell_plan(plan: "Plan") -> None:
    inputs = sum(shard.items for shard in plan.shards)
    print(
        f"{len(plan.shards):,} shards of {len(plan.sources)} sources with {inputs:,} inputs are planned in {plan.out}"
    )
    for source, reason in sorted(plan.skipped.items()):
        print(f"skipped {source}: {reason}")


def _build(
    plan: "Plan", arguments: argparse.Namespace, inputs: dict[str, Any], known: "Benchmarks | None"
) -> dict[str, Any]:
    from .card import write_card
    from .finish import finish_shard, remove_damaged, sweep, write_manifest, write_sample, write_summary, written_files
    from .leakage import read_benchmarks

    complete = plan.work / "complete.json"
    before = _read_json(complete) or {}
    damaged = remove_damaged(plan, before.get("files", {}))
    if damaged:
        print(
            f"{len(damaged)} files are gone or not of the size that was written, among them {damaged[0]}: made again"
        )
    elif not plan.unfinished() and before.get("inputs") == inputs:
        print("nothing is left to do")
        summary = _read_json(plan.out / "build.json")
        _report(plan, summary)
        return summary
    complete.unlink(missing_ok=True)
    _run_shards(plan, arguments, plan.unfinished())
    benchmarks = _screen_across(plan, inputs, known or read_benchmarks(arguments.benchmarks))
    for _ in _running(finish_shard, plan, arguments, list(range(len(plan.shards)))):
        pass
    found = {"benchmark_images": benchmarks, "overlaps": _overlaps(plan), "sampled": write_sample(plan)}
    summary = write_summary(plan, write_manifest(plan), found)
    write_card(plan, summary)
    sweep(plan.out)
    write_text(complete, json.dumps({"inputs": inputs, "files": written_files(plan.out)}))
    _report(plan, summary)
    return summary


def _run_shards(plan: "Plan", arguments: argparse.Namespace, numbers: list[int]) -> None:
    from .monitor import Monitor
    from .shard import build_shard

    with Monitor(plan, numbers) as monitor:
        for statistics in _running(build_shard, plan, arguments, numbers):
            monitor.see(statistics)


def _running(
    work: Callable[[str, str, int], dict[str, Any]], plan: "Plan", arguments: argparse.Namespace, numbers: list[int]
) -> Iterator[dict[str, Any] | None]:
    """Run `work` on the shards with the engine that was asked for."""
    from . import executors

    raw = str(arguments.raw)
    if not numbers:
        return
    if arguments.engine == "dask":
        with executors.dask_executor(arguments.scheduler, arguments.workers) as executor:
            yield from executors.on_executor(work, plan, raw, numbers, executor, 1000)
    elif arguments.engine == "submitit":
        executor = executors.submitit_executor(str(plan.work / "slurm"), arguments.slurm)
        yield from executors.on_executor(work, plan, raw, numbers, executor, arguments.workers)
    elif arguments.workers == 0:
        yield from executors.in_process(work, plan, raw, numbers)
    else:
        workers = min(arguments.workers, len(numbers))
        yield from executors.on_this_machine(work, plan, raw, numbers, workers, arguments.item_seconds)


def _screen_across(plan: "Plan", inputs: dict[str, Any], known: "Benchmarks") -> int:
    """Decide on duplicates and benchmark images of all shards; returns the number of benchmark images."""
    from .duplicates import decide, load_candidates, save_drops, save_sample
    from .finish import SAMPLE

    decided = plan.work / "decided.json"
    before = _read_json(decided)
    if before != inputs:
        if before is not None:
            print("the benchmark files are not those of before: what they and duplicates drop is decided anew")
        # Files that follow earlier decisions must not be taken for finished ones.
        for path in (plan.out / "data").rglob("*.parquet"):
            path.unlink()
        shutil.rmtree(plan.out / SAMPLE, ignore_errors=True)
        candidates = load_candidates(plan)
        drops = decide(plan, candidates, known, print)
        save_drops(plan, candidates, drops)
        save_sample(plan, candidates, drops)
        write_text(decided, json.dumps(inputs))
    return len(known.hashes)


def _check(out: Path, workers: int) -> dict[str, Any]:
    from .check import faults

    outcomes, found = faults(out, workers)
    kept = outcomes.get("kept", 0)
    print(f"{sum(outcomes.values()):,} considered = {kept:,} kept + {sum(outcomes.values()) - kept:,} dropped")
    for reason, count in sorted(outcomes.items(), key=lambda entry: -entry[1]):
        print(f"  {count:>12,}  {reason}")
    for fault in found:
        print(f"fault: {fault}")
    print("the accounting is complete" if not found else f"{len(found)} faults; remove damaged files, build again")
    return {"outcomes": outcomes, "faults": found}


def _report(plan: "Plan", summary: dict[str, Any]) -> None:
    print(f"{summary['considered']:,} considered, {summary['kept']:,} kept, in {plan.out}")
    dropped = {reason: n for reason, n in summary["outcomes"].items() if reason != "kept"}
    for reason, count in sorted(dropped.items(), key=lambda entry: -entry[1])[:12]:
        print(f"  {count:>10,}  {reason}")
    if len(summary["skipped"]) > 5:
        print(f"{len(summary['skipped'])} sources were skipped; build.json says why")
    else:
        for source, reason in sorted(summary["skipped"].items()):
            print(f"skipped {source}: {reason}")
    if summary["kept"]:
        print(f'next: load_dataset("{plan.out}", "full", split="train")')


def _sources(arguments: argparse.Namespace, options: "Options") -> list["Source"]:
    from .card import SCALING_SOURCES
    from .catalog import load_catalog, load_sources

    if arguments.sources is not None:
        return load_sources(arguments.sources.split(","))
    if options.subset == "2.45m":
        return load_sources(SCALING_SOURCES)
    sources = [source for source in load_catalog() if source.in_paper]
    return [s for s in sources if "Ultrasound" in s.modalities] if options.subset == "us" else sources


def _options(arguments: argparse.Namespace) -> "Options":
    from .plan import Options
    from .slicing import VIEWS

    return Options(
        size=arguments.size,
        fit=arguments.fit,
        views=tuple(view for view in VIEWS if view in arguments.views),
        image_format=arguments.image_format,
        quality=arguments.quality,
        subset=arguments.subset,
        leakage=arguments.leakage,
        near_duplicates=not arguments.keep_near_duplicates,
        seed=arguments.seed,
        salt=hashlib.sha256(_salt(arguments).encode()).hexdigest() if arguments.salt_file else "",
    )


def _salt(arguments: argparse.Namespace) -> str:
    if arguments.salt_file is None:
        return f"biovfm {arguments.seed}"
    try:
        return hashlib.sha256(arguments.salt_file.read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(f"{arguments.salt_file}: {error.strerror}; give a file with a secret of your own") from error


def _overlaps(plan: "Plan") -> list[dict[str, Any]]:
    """What the records of the sources in the plan say of benchmarks."""
    return [overlap for _, facts in sorted(plan.sources.items()) for overlap in facts["overlaps"]]


def _slurm(words: str) -> dict[str, Any]:
    """`slurm_partition=cpu,timeout_min=240` as keywords of submitit."""
    pairs = [word.partition("=") for word in words.split(",") if word.strip()]
    if wrong := [name for name, sign, _ in pairs if not sign]:
        raise argparse.ArgumentTypeError(f"{wrong[0]!r} has no value; give KEY=VALUE,KEY=VALUE")
    return {name.strip(): int(value) if value.isdigit() else value for name, _, value in pairs}


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None


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
    from .slicing import VIEWS

    views = tuple(text.split(","))
    for view in views:
        if view not in VIEWS:
            raise argparse.ArgumentTypeError(f"no view {view!r}; choose from {', '.join(VIEWS)}")
    return views
