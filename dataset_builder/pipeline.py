"""The steps of `biovfm build`: plan, run the shards, screen across them, finish; each skips finished work."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from biovfm_hf.errors import UserError
from biovfm_hf.writing.files import is_disk_full, remove_leftovers, write_text

from .catalog.load import load_catalog, load_sources
from .catalog.source import Source
from .dataset.card import SCALING_SOURCES, write_card
from .dataset.check import faults
from .dataset.finish import (
    finish_shard,
    finished_build,
    finished_summary,
    places_path,
    redo_without_thumbnails,
    remove_damaged,
    undecide,
    write_places,
    write_sample,
    write_summary,
    written_files,
)
from .dataset.manifest import write_manifest
from .dataset.output_folder import check_output, hold
from .limits import CHANGED, UNREADABLE
from .options import BuildOptions
from .plan.making import changed_sources, make_plan, secret_of
from .plan.plan import WORK, Plan, Unit, differing, load_plan, remove_earlier, remove_parts
from .plan.privacy import privacy_of, shown_paths
from .plan.statistics import Statistics, read_statistics
from .schema import KEPT
from .screening.candidates import load_candidates
from .screening.duplicates import decide, decided_inputs, save_decisions
from .screening.leakage import Benchmarks, benchmark_files, identities, read_benchmarks
from .screening.rules import RULES, software
from .shards.executors import ENGINES, Resources, Work
from .shards.monitor import Monitor
from .shards.replan import plan_again
from .shards.shard import build_unit, join_shard
from .shards.units import cut

_LISTINGS = 3  # how often, at most, one run lists the sources again while their files change


def run(options: BuildOptions) -> dict[str, Any]:
    """Turn raw sources into a screened Parquet dataset that `load_dataset` reads, or continue after a stop.

    Returns:
        The summary in `build.json`; the plan's figures with `plan_only` or as a job of an array; the counts of
        outcomes and the faults with `check`.

    Raises:
        UserError: the build cannot be done.
    """
    raw = options.raw
    if options.check or raw is None:
        return _check(options.out, options.resources.workers)
    if not raw.is_dir():
        raise UserError(f"{raw}: no such folder; give the folder that holds one sub-folder for each source")
    try:
        return _plan_and_build(options, raw)
    except OSError as error:
        if not is_disk_full(error):
            raise
        raise UserError(f"{options.out}: the disk is full; make room, and the same command continues") from error


def _plan_and_build(options: BuildOptions, raw: Path) -> dict[str, Any]:
    sources = _sources(options)
    check_output(options.out, raw, [source.folder or source.id for source in sources])
    identified, benchmarks = _benchmarks(options)
    with hold(options.out, shared=options.num_shards is not None):
        plan = _planned(options, raw, sources)
        if options.plan_only:
            _print_plan(plan)
            return _planned_work(plan)
        if options.num_shards is None:
            return _build(plan, options, sources, identified, benchmarks)
        own_shards = [n for n in read_statistics(plan).unfinished() if n % options.num_shards == options.shard_index]
        with ENGINES[options.engine].opened(options.resources) as resources:
            _run_shards(plan, options, resources, own_shards)
    print(
        f"{len(own_shards)} shards done; when all {options.num_shards} jobs are, run without --shard-index to finish"
    )
    return _planned_work(plan)


def _benchmarks(options: BuildOptions) -> tuple[list[list[str]], Benchmarks | None]:
    """Names and digests of the benchmark files, and the fingerprints of their images.

    They are read before planning, so that a wrong file is reported at once and not after hours. The fingerprints are
    None if a build with the same files (by content) is finished, and in jobs of an array, which do not screen.
    """
    files = benchmark_files(options.benchmarks)
    if options.num_shards is not None:
        return [], None
    identified = identities(files)
    complete = finished_build(options.out)
    known = complete is not None and complete["inputs"].get("benchmarks") == identified
    return identified, None if known else read_benchmarks(files)


def _planned(options: BuildOptions, raw: Path, sources: list[Source]) -> Plan:
    """The plan saved in the output folder, or a new one."""
    listing = f"listing the sources below {raw}"
    try:
        plan = load_plan(options.out)
    except FileNotFoundError:
        print(listing, flush=True)
        if options.num_shards is None:  # nobody else plans here: what is there belongs to no plan
            for name in ("shards", "marks"):
                shutil.rmtree(options.out / WORK / name, ignore_errors=True)
        return make_plan(
            sources, raw, options.out, options.shaping, options.salt or secret_of(options.out), software()
        )
    _warn_of_other_version(plan)
    if changed := differing(plan.options, options.shaping):
        raise UserError(
            f"{options.out}: holds a build with {', '.join(changed)}; choose another --out, or remove that folder"
        )
    lost = not plan.has_items()
    if lost and options.num_shards is not None:
        raise UserError(
            f"{plan.items_path}: is missing or damaged; list the sources again with --plan-only, then run the jobs"
        )
    if options.retry_failed or lost:
        print(listing, flush=True)
        plan, taken = plan_again(plan, sources, raw)
        print(f"{taken} of {len(plan.shards)} shards stay as they are, the others run")
    elif plan.raw != str(raw.resolve()):
        raise UserError(
            f"{options.out}: was planned from {plan.raw}, not from {raw.resolve()}; give that --raw, "
            "or, if the folder was moved, add --retry-failed once to list it again and keep what has not changed"
        )
    elif changed := changed_sources(plan, sources):
        raise UserError(
            f"{options.out}: was planned with other records of {', '.join(changed[:5])}; choose another --out, "
            "or add --retry-failed to list the raw folder again and keep what has not changed"
        )
    return plan


def _warn_of_other_version(plan: Plan) -> None:
    """Warn that shards of another version stay, which may have decided otherwise on some pictures."""
    first, now = plan.software or "an earlier version", software()
    if first != now:
        print(
            f"note: this build was begun by {first}, and this is {now}: finished shards stay as they are; "
            "choose another --out to have one version decide on all"
        )


def _planned_work(plan: Plan) -> dict[str, Any]:
    inputs = sum(shard.items for shard in plan.shards)
    return {"shards": len(plan.shards), "inputs": inputs, "sources": sorted(plan.sources), "skipped": plan.skipped}


def _print_plan(plan: Plan) -> None:
    inputs = sum(shard.items for shard in plan.shards)
    print(
        f"{len(plan.shards):,} shards of {len(plan.sources)} sources with {inputs:,} inputs are planned in {plan.out}"
    )
    for source, reason in sorted(plan.skipped.items()):
        print(f"skipped {source}: {reason}")


def _build(
    plan: Plan,
    options: BuildOptions,
    sources: list[Source],
    identified: list[list[str]],
    benchmarks: Benchmarks | None,
) -> dict[str, Any]:
    before = finished_build(plan.out)
    damaged = remove_damaged(plan, before["files"] if before else {})
    done = read_statistics(plan)
    if damaged:
        print(f"{len(damaged)} files are missing or of the wrong size, among them {damaged[0]}: made again")
    elif before and (lost := done.unfinished()):
        print(f"the work of {len(lost)} shards in {plan.work} is missing or damaged: made again")
    elif before and before["inputs"] == _inputs(done, identified) and (summary := finished_summary(plan)):
        print("nothing is left to do")
        _report(plan, summary)
        return summary
    complete = plan.work / "complete.json"
    complete.unlink(missing_ok=True)
    threads = max(1, options.resources.workers)
    with ENGINES[options.engine].opened(options.resources) as resources:
        plan, done = _read_all(plan, options, resources, sources, identified, done)
        inputs = _inputs(done, identified)
        benchmarks = benchmarks or read_benchmarks(options.benchmarks)
        _screen_across(plan, options, inputs, benchmarks, threads)
        for _ in _on_engine(finish_shard, plan, options, resources, list(map(plan.whole, range(len(plan.shards))))):
            pass
    counts = write_manifest(plan, threads)
    sampled = write_sample(plan, threads)
    facts = {"benchmark_images": len(benchmarks.hashes), "overlaps": _overlaps(plan), "sampled": sampled}
    summary = write_summary(plan, counts.summary(), facts)
    write_places(plan)
    write_card(plan, summary, counts.files)
    remove_leftovers(plan.out)
    remove_earlier(plan)
    remove_parts(plan)
    write_text(complete, json.dumps({"inputs": inputs, "files": written_files(plan)}))
    _report(plan, summary)
    return summary


def _read_all(
    plan: Plan,
    options: BuildOptions,
    resources: Resources,
    sources: list[Source],
    identified: list[list[str]],
    done: Statistics,
) -> tuple[Plan, Statistics]:
    """Run the shards that are not done; inputs that changed since they were listed are reported and listed again.

    Lost shards are made first: they may be what was decided on, and then no shard needs its thumbnails.
    """
    for listings in range(1 + _LISTINGS):
        done = _run_unfinished(plan, options, resources, done)
        if decided_inputs(plan) != _inputs(done, identified) and (count := redo_without_thumbnails(plan, done)):
            print(f"{count} shards have no thumbnails, which a new screening needs: made again", flush=True)
            done = _run_unfinished(plan, options, resources, read_statistics(plan))
        changed = done.outcomes().get(CHANGED, 0)
        if not changed or listings == _LISTINGS:
            break
        print(f"{changed:,} inputs have changed since they were listed: listing the sources again", flush=True)
        plan, _ = plan_again(plan, sources, Path(plan.raw))
        done = read_statistics(plan)
    return plan, done


def _run_unfinished(plan: Plan, options: BuildOptions, resources: Resources, done: Statistics) -> Statistics:
    """Run the shards that are not done; returns the statistics of all."""
    if not (numbers := done.unfinished()):
        return done
    _run_shards(plan, options, resources, numbers)
    return read_statistics(plan)


def _run_shards(plan: Plan, options: BuildOptions, resources: Resources, numbers: list[int]) -> None:
    """Run shards that are not done, in units that keep the engine busy, and join shards that were cut."""
    engine = ENGINES[options.engine]
    units = cut(plan, numbers, engine.cores(resources), engine.shortest) if numbers else []
    with Monitor(plan, units) as monitor:
        work = partial(build_unit, seconds=options.item_seconds, rules=tuple(RULES))
        for statistics in _on_engine(work, plan, options, resources, units):
            monitor.see(statistics)
    to_join = read_statistics(plan, numbers).unfinished()
    for _ in _on_engine(join_shard, plan, options, resources, list(map(plan.whole, to_join))):
        pass


def _on_engine(
    work: Work, plan: Plan, options: BuildOptions, resources: Resources, units: list[Unit]
) -> Iterator[dict[str, Any] | None]:
    """Run `work` on the units with the chosen engine, whose workers may be in other folders."""
    if units and options.raw is not None:
        placed = replace(plan, out=plan.out.absolute())
        yield from ENGINES[options.engine].run(work, placed, str(options.raw.absolute()), units, resources)


def _screen_across(
    plan: Plan, options: BuildOptions, inputs: dict[str, Any], benchmarks: Benchmarks, threads: int
) -> None:
    """Decide on duplicates and benchmark images of all shards, unless there are decisions on the same `inputs`."""
    before = decided_inputs(plan)
    if before == inputs:
        return
    if before is not None and before["benchmarks"] != inputs["benchmarks"]:
        print("the benchmark files have changed: benchmark images and duplicates are screened again")
    undecide(plan)
    candidates = load_candidates(plan, threads)
    spread = partial(ENGINES[options.engine].spread, options.resources)
    decisions = decide(plan, candidates, benchmarks, print, spread)
    save_decisions(plan, candidates, decisions, benchmarks, inputs, threads)


def _inputs(done: Statistics, identified: list[list[str]]) -> dict[str, Any]:
    """What decides on the pictures, by content: the benchmark files and the shards."""
    return {"benchmarks": identified, "shards": done.digest()}


def _check(out: Path, workers: int) -> dict[str, Any]:
    outcomes, problems = faults(out, workers)
    kept = outcomes.get(KEPT, 0)
    print(f"{sum(outcomes.values()):,} considered = {kept:,} kept + {sum(outcomes.values()) - kept:,} dropped")
    for reason, count in sorted(outcomes.items(), key=lambda entry: -entry[1]):
        print(f"  {count:>12,}  {reason}")
    for problem in problems:
        print(f"fault: {problem}")
    print(
        "the accounting is complete" if not problems else f"{len(problems)} faults; remove damaged files, build again"
    )
    return {"outcomes": outcomes, "faults": problems}


def _report(plan: Plan, summary: dict[str, Any]) -> None:
    print(f"{summary['considered']:,} considered, {summary['kept']:,} kept, in {plan.out}")
    dropped = {reason: n for reason, n in summary["outcomes"].items() if reason != KEPT}
    for reason, count in sorted(dropped.items(), key=lambda entry: -entry[1])[:12]:
        print(f"  {count:>10,}  {reason}")
    if len(summary["skipped"]) > 5:
        print(f"{len(summary['skipped'])} sources were skipped; build.json says why")
    else:
        for source, reason in sorted(summary["skipped"].items()):
            print(f"skipped {source}: {reason}")
    for line in shown_paths(plan.sources):
        print(line)
    _print_files(plan, summary)
    if summary["kept"]:
        print(f'next: load_dataset("{plan.out}", "full", split="train")')


def _print_files(plan: Plan, summary: dict[str, Any]) -> None:
    """Name the tables that say which files were dropped and why."""
    private = [name for name, facts in sorted(plan.sources.items()) if privacy_of(name, facts, "")]
    unreadable = sum(summary["sources"].get(name, {}).get(UNREADABLE, 0) for name in private)
    if summary["kept"] < summary["considered"]:
        print(f"{plan.out / 'manifest.parquet'} has the path and the outcome of each image")
    if private:
        files = f"{unreadable:,} unreadable files of " if unreadable else ""
        print(f"{places_path(plan)}, for you only, has the paths and reasons of {files}{', '.join(private)}")


def _sources(options: BuildOptions) -> list[Source]:
    if options.sources is not None:
        return load_sources(options.sources)
    if options.subset == "2.45m":
        return load_sources(SCALING_SOURCES)
    sources = [source for source in load_catalog() if source.in_paper]
    return [s for s in sources if "Ultrasound" in s.modalities] if options.subset == "us" else sources


def _overlaps(plan: Plan) -> list[dict[str, Any]]:
    """Overlaps with benchmarks, by the records of the sources in the plan."""
    return [overlap for _, facts in sorted(plan.sources.items()) for overlap in facts["overlaps"]]
