"""`biovfm score`: metrics and intervals for scores that somebody already has."""

import argparse
import json
from pathlib import Path
from typing import Any

from biovfm_hf.errors import UserError
from biovfm_hf.files import write_text

from ..statistics.kinds import BINARY, MULTILABEL, TASKS

DESCRIPTION = """\
Metrics with 95 % bootstrap intervals for the scores in FILE.npz, which holds

  test_labels  (n,) or (n, 1) class numbers; (n, labels) of 0/1 for multi-label tasks
  test_scores  (n, classes); for binary tasks (n,), (n, 1) or (n, 2); (n, labels) for multi-label tasks
  val_labels, val_scores   the same for validation, where decision thresholds are chosen (best MCC)
  test_subjects            (n,) optional, for --by-subject

Protocol biovfm repeats the published BioVFM evaluation to the digit. Protocol fast puts thresholds midway between
validation scores and takes percentiles of the resamples in which a metric is defined."""
EXAMPLES = """\
examples:
  biovfm score scores.npz --task binary-class
  biovfm score scores.npz --task "multi-label, binary-class" --json scores.json
  biovfm score scores.npz --task multi-class --protocol fast --by-subject --extra

A metric that the test split leaves undefined (AUC of a class without samples, say) is null, with the reason."""


def parser() -> argparse.ArgumentParser:
    """The command line of `biovfm score`."""
    formatter = argparse.RawDescriptionHelpFormatter
    found = argparse.ArgumentParser(
        "biovfm score", description=DESCRIPTION, epilog=EXAMPLES, formatter_class=formatter
    )
    found.add_argument("file", type=Path, metavar="FILE.npz", help="labels and scores")
    found.add_argument("--task", required=True, choices=TASKS, help="MedMNIST's word for the kind of task")
    found.add_argument("--protocol", choices=("biovfm", "fast"), default="biovfm", help="default: biovfm")
    found.add_argument("--json", type=Path, metavar="OUT", help="write thresholds, metrics and notes to this file")
    found.add_argument("--resamples", type=int, default=1000, help="default: 1000")
    found.add_argument("--seed", type=int, default=0, help="of the resamples of protocol fast (default: 0)")
    found.add_argument("--by-subject", action="store_true", help="draw whole subjects (test_subjects); protocol fast")
    found.add_argument("--stratify", action="store_true", help="keep the test split's class counts; protocol fast")
    found.add_argument("--extra", action="store_true", help="also sensitivity, specificity, AP, Brier score and ECE")
    return found


def main(argv: list[str]) -> int:
    """Run `biovfm score`. Returns the exit status."""
    words = parser().parse_args(argv)
    found = score(words)
    print(table(found))
    if words.json:
        write_text(words.json, json.dumps(found, indent=2, allow_nan=False) + "\n")
    return 0


def score(words: argparse.Namespace) -> dict[str, Any]:
    """Read the file and compute what `--json` carries.

    Raises:
        UserError: the file, its arrays or the options do not fit the task.
    """
    from ..tasks import npz

    held = npz.names(words.file)
    needed = ["test_labels", "test_scores"]
    decided = words.task in (BINARY, MULTILABEL)
    needed += ["val_labels", "val_scores"] if decided or {"val_labels", "val_scores"} <= set(held) else []
    needed += ["test_subjects"] if words.by_subject else []
    lacking = [name for name in needed if name not in held]
    if lacking:
        raise UserError(f"{words.file}: lacks {', '.join(lacking)}; see: biovfm score --help")
    arrays = {name: npz.read(words.file, name) for name in needed}
    try:
        return _score(words, arrays)
    except UserError as error:
        raise UserError(f"{words.file}: {error}") from error


def _score(words: argparse.Namespace, arrays: dict[str, Any]) -> dict[str, Any]:
    import numpy as np

    from ..statistics import bootstrap, metrics
    from ..statistics.split import read_split

    task, protocol = words.task, words.protocol
    split = read_split(task, arrays["test_labels"], arrays["test_scores"])
    thresholds, notes = np.array([0.5]), metrics.notes(split)
    if "val_scores" in arrays:
        val = read_split(task, arrays["val_labels"], arrays["val_scores"], "val")
        if val.scores.shape[1] != split.scores.shape[1]:
            raise UserError(f"val_scores has {val.scores.shape[1]} columns but test_scores {split.scores.shape[1]}")
        thresholds = bootstrap.choose_thresholds(task, arrays["val_labels"], arrays["val_scores"], protocol)
        notes += bootstrap.threshold_notes(task, arrays["val_labels"], arrays["val_scores"])
    found = bootstrap.intervals(
        task, arrays["test_labels"], arrays["test_scores"], thresholds, words.resamples, protocol,
        clusters=arrays.get("test_subjects"), stratify=_strata(split) if words.stratify else None,
        seed=words.seed, extra=words.extra,
    )  # fmt: skip
    notes += bootstrap.interval_notes(found, words.resamples)
    return {
        "task": task, "protocol": protocol, "resamples": words.resamples,
        "seed": None if protocol == "biovfm" else words.seed, "n_test": split.size,
        "thresholds": [float(t) for t in thresholds], "metrics": found, "notes": notes,
    }  # fmt: skip


def _strata(split):
    if split.task == MULTILABEL:
        raise UserError("--stratify needs one class per sample; a multi-label task has none")
    return split.labels.reshape(-1)


def table(found: dict[str, Any]) -> str:
    """The record of `score` as lines for a screen."""
    lines = [f"{found['task']}, {found['n_test']} test samples, protocol {found['protocol']}, "
             f"{found['resamples']} resamples", "", f"{'metric':<18}{'value':>9}   95 % interval"]  # fmt: skip
    for name, entry in found["metrics"].items():
        if entry["value"] is None:
            lines.append(f"{name:<18}{'-':>9}   undefined: {entry['reason']}")
            continue
        ends = " to ".join("?" if entry[end] is None else f"{entry[end]:.4f}" for end in ("low", "high"))
        lacking = entry.get("undefined_resamples")
        lines.append(
            f"{name:<18}{entry['value']:>9.4f}   {ends}" + (f"  ({lacking} resamples undefined)" if lacking else "")
        )
    shown = ", ".join(f"{t:.4f}" for t in found["thresholds"][:8]) + (", ..." if len(found["thresholds"]) > 8 else "")
    return "\n".join([*lines, "", f"thresholds: {shown}", *(f"note: {note}" for note in found["notes"])])
