"""The `biovfm score` command: metrics and intervals for existing scores."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from biovfm_hf.errors import UserError
from biovfm_hf.options import CommandParser, argument, check_options, option, parse_options, required
from biovfm_hf.writing.files import write_text

from ..results.trust.bands import bands
from ..results.trust.report import conformal_rows, group_lines, group_rows, selective_rows, trust_lines
from ..statistics import bootstrap, detection, undefined
from ..statistics.bootstrap import PROTOCOLS
from ..statistics.kinds import BINARY, DETECTION, MULTILABEL, TASKS
from ..statistics.split import ScoredSplit, checked_split
from ..statistics.thresholds import choose_thresholds, threshold_notes
from ..tasks import npz
from ..tasks.coco import read_boxes

DESCRIPTION = """\
Compute metrics with 95 % bootstrap intervals from the scores in FILE.npz, which holds

  test_labels  (n,) or (n, 1) class numbers; (n, labels) of 0/1 for multi-label tasks
  test_scores  (n, classes); for binary tasks (n,), (n, 1) or (n, 2); (n, labels) for multi-label tasks
  val_labels, val_scores   the same for validation, on which decision thresholds are chosen (best MCC)
  test_subjects            (n,) optional, for --by-subject: the subject of each case
  test_groups, test_groups_NAME   (n,) optional, for --trust: the group of each case, by sex, age or site

Protocol biovfm repeats the published BioVFM evaluation to the digit. Protocol fast puts thresholds midway between
validation scores and takes percentiles over the resamples in which a metric is defined.

For --task detection FILE is JSON with images, annotations and categories as in COCO's annotation files:

  {"gt": {...}, "detections": [{"image_id", "category_id", "bbox": [x, y, width, height], "score"}, ...]}

The result has COCO's twelve figures for boxes with intervals from resampled images, and AP and AP50 of each class.
There is no protocol to choose."""
EXAMPLES = """\
examples:
  biovfm score scores.npz --task binary-class
  biovfm score scores.npz --task "multi-label, binary-class" --json scores.json
  biovfm score scores.npz --task multi-class --protocol fast --by-subject --extra
  biovfm score scores.npz --task multi-class --trust --coverage 0.95
  biovfm score boxes.json --task detection

A metric that is undefined on the test split (such as the AUC of a class without samples) is null, with the reason."""


@dataclass(frozen=True)
class ScoreOptions:
    """Options of `biovfm score`, keywords of `biovfm_hf.score`. Wrong values raise UserError."""

    file: Path = argument("file with labels and scores, or with boxes", metavar="FILE")
    task: str = required("kind of task as MedMNIST names it, or detection", choices=(*TASKS, DETECTION))
    protocol: str = option("biovfm", "how to choose thresholds and resample, see above", choices=PROTOCOLS)
    json: Path | None = option(None, "write thresholds, metrics and notes to this file", metavar="OUT")
    resamples: int = option(1000, "number of bootstrap resamples", least=1)
    seed: int = option(0, "random seed of the resamples in protocol fast and detection", least=0)
    by_subject: bool = option(False, "resample whole subjects (test_subjects); protocol fast")
    stratify: bool = option(False, "keep the test split's class counts; protocol fast")
    extra: bool = option(False, "also compute sensitivity, specificity, AP, Brier score and ECE")
    trust: bool = option(
        False,
        "also compute selective risk, conformal sets calibrated on validation with the coverage they reach, and gaps "
        "between the groups of test_groups",
    )
    coverage: float = option(0.9, "target coverage of conformal sets; needs --trust", above=0, most=0.999)

    def __post_init__(self) -> None:
        check_options(self)
        given = [name for name in ("by_subject", "stratify", "extra", "trust") if getattr(self, name)]
        if self.task == DETECTION and given:
            raise UserError(f"detection takes no {', '.join(given)}; leave it out")


def main(argv: list[str]) -> int:
    """Run `biovfm score`. Returns the exit status."""
    parser = CommandParser("biovfm score", description=DESCRIPTION, epilog=EXAMPLES)
    print(table(score(parse_options(parser, ScoreOptions, argv))))
    return 0


def score(options: ScoreOptions) -> dict[str, Any]:
    """Score the file, and write the results to `options.json` if it is given.

    Returns:
        {"task", "protocol", "resamples", "seed", "n_test", "thresholds": [...], "metrics": {name: {"value", "mean",
        "low", "high"}}, "notes"}. `value` is the point estimate, `mean` the mean over resamples. With `trust` there is
        also "trust": {"selective", "conformal", "groups"}, which are lists of rows. For detection, `n_test` counts
        images and "classes" is {class name: {"AP", "AP50"}}, with None for classes without a box.

    Raises:
        UserError: the file, its arrays or the options do not fit the task.
    """
    results = _score_boxes(options) if options.task == DETECTION else _score_file(options)
    if options.json:
        write_text(options.json, json.dumps(results, indent=2, allow_nan=False) + "\n")
    return results


def _score_boxes(options: ScoreOptions) -> dict[str, Any]:
    boxes = read_boxes(options.file)
    judged = detection.judge_boxes(boxes, options.resamples, options.seed)
    return {
        "task": options.task, "protocol": "coco", "resamples": options.resamples, "seed": options.seed,
        "n_test": len(next(iter(boxes.values()))), "thresholds": [], **judged,
    }  # fmt: skip


def _score_file(options: ScoreOptions) -> dict[str, Any]:
    arrays = _read_arrays(options)
    try:
        return _score(options, arrays)
    except UserError as error:
        raise UserError(f"{options.file}: {error}") from error


def _read_arrays(options: ScoreOptions) -> dict[str, Any]:
    """The arrays that the task and the options need, and those of the validation split if present."""
    stored = npz.array_names(options.file)
    needed = ["test_labels", "test_scores"]
    if options.task in (BINARY, MULTILABEL) or {"val_labels", "val_scores"} <= set(stored):
        needed += ["val_labels", "val_scores"]
    needed += ["test_subjects"] if options.by_subject else []
    needed += [name for name in stored if is_grouping(name)] if options.trust else []
    lacking = [name for name in needed if name not in stored]
    if lacking:
        raise UserError(f"{options.file}: lacks {', '.join(lacking)}; see: biovfm score --help")
    return {name: npz.read(options.file, name) for name in needed}


def _score(options: ScoreOptions, arrays: dict[str, Any]) -> dict[str, Any]:
    split = checked_split(options.task, arrays["test_labels"], arrays["test_scores"])
    strata = _strata(split) if options.stratify else None
    split = replace(split, subjects=arrays.get("test_subjects"), strata=strata)
    thresholds, notes, val = np.array([0.5]), undefined.notes(split), None
    if "val_scores" in arrays:
        val = checked_split(options.task, arrays["val_labels"], arrays["val_scores"], "val")
        if val.scores.shape[1] != split.scores.shape[1]:
            raise UserError(f"val_scores has {val.scores.shape[1]} columns but test_scores {split.scores.shape[1]}")
        thresholds = choose_thresholds(val, options.protocol)
        notes += threshold_notes(val)
    resampling = bootstrap.Resampling(options.protocol, options.resamples, options.seed)
    split = split.decided_at(thresholds)
    intervals = bootstrap.intervals(split, resampling, options.extra)
    notes += bootstrap.interval_notes(intervals, options.resamples)
    trust, trust_notes = _trust(options, val, split, arrays) if options.trust else ({}, [])
    return {
        "task": options.task, "protocol": options.protocol, "resamples": options.resamples,
        "seed": None if options.protocol == "biovfm" else options.seed, "n_test": split.size,
        "thresholds": [float(t) for t in thresholds], "metrics": intervals, "notes": notes + trust_notes, **trust,
    }  # fmt: skip


def is_grouping(name: str) -> bool:
    """Whether an array of the file holds the group of each test case."""
    return name == "test_groups" or name.startswith("test_groups_")


def _trust(
    options: ScoreOptions, val: ScoredSplit | None, test: ScoredSplit, arrays: dict[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """The trust part of the record, and notes."""
    columns = {name.removeprefix("test_groups").strip("_") or "groups": values for name, values in arrays.items()
               if is_grouping(name)}  # fmt: skip
    groups = {name: bands(name, values) for name, values in columns.items()}
    sets: list[dict[str, Any]] = []
    notes = ["no conformal sets: the file has no val_labels and val_scores to calibrate them on"]
    if val is not None and test.thresholds is not None:
        sets, notes = conformal_rows(val.decided_at(test.thresholds), test, options.coverage, options.seed, groups)
    rows = {"selective": selective_rows(test), "conformal": sets, "groups": group_rows(test, groups)}
    return {"trust": rows}, notes


def _strata(split: ScoredSplit) -> np.ndarray:
    if split.task == MULTILABEL:
        raise UserError("--stratify needs one class per sample; a multi-label task has none")
    return split.labels.reshape(-1)


def table(results: dict[str, Any]) -> str:
    """The result of `score` as lines for the screen."""
    cases = "images" if results["task"] == DETECTION else "samples"
    lines = [f"{results['task']}, {results['n_test']} test {cases}, protocol {results['protocol']}, "
             f"{results['resamples']} resamples", "", f"{'metric':<18}{'value':>9}   95 % interval"]  # fmt: skip
    for name, entry in results["metrics"].items():
        if entry["value"] is None:
            lines.append(f"{name:<18}{'-':>9}   undefined: {entry['reason']}")
            continue
        ends = " to ".join("?" if entry[end] is None else f"{entry[end]:.4f}" for end in ("low", "high"))
        lacking = entry.get("undefined_resamples")
        lines.append(
            f"{name:<18}{entry['value']:>9.4f}   {ends}" + (f"  ({lacking} resamples undefined)" if lacking else "")
        )
    shown = ", ".join(f"{t:.4f}" for t in results["thresholds"][:8]) + (
        ", ..." if len(results["thresholds"]) > 8 else ""
    )
    if trust := results.get("trust"):
        lines += [*trust_lines(trust), "", *group_lines(trust["groups"])]
    for name, each in results.get("classes", {}).items():
        lines.append(f"{name}: " + ", ".join(f"{key} {'-' if v is None else f'{v:.4f}'}" for key, v in each.items()))
    lines += ["", f"thresholds: {shown}"] if shown else []
    return "\n".join([*lines, *(f"note: {note}" for note in results["notes"])])
