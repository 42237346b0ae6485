"""`biovfm scaling mixture run`: pretrains small models on mixtures, probes them, fits, recommends and confirms.

All runs see the same number of images. Each pretraining run is a process of its own, started by the same code as the
runs of a scaling study.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from biovfm_hf.errors import UserError
from biovfm_hf.options import argument, check_options, option, required
from biovfm_hf.results.record import Record
from biovfm_hf.writing.files import check_writable, write_text

from ...commands import probe as probe_command
from ...results.seeds import over_seeds
from ..scaling.tables import write_rows
from ..study.pretraining import planned_lines, pretrain
from ..study.probing import by_method, probe_options
from .confirmation import compare_fresh, confirmation_lines, fresh_mixtures
from .plan import Mixture, MixturePlan, read_mixture_plan
from .recommendation import Recommendation, recommend, recommendation_lines
from .runs import MixtureRuns

MEAN = "mean"
DESCRIPTION = """\
Find the best mixture of pretraining data: train a small model on each mixture of a design, all on the same number of
images, probe the models, fit how the score depends on the shares, and recommend a mixture with its uncertainty. After
a kill or stop, the same command continues with the missing runs.

MIXTURE.yaml holds

  data: dataset             # a dataset folder (biovfm build) or Hub id
  by: modality              # the column that defines the groups: modality, anatomy or source
  groups: [CT, US, X-Ray]   # optional (default: every value of the column); other images are left out
  config: mae_smoke         # a file or a shipped name
  objective: mae            # optional, if the config does not state it
  overrides: {steps: 400}   # optional, for every run
  launch: [...]             # arguments of accelerate launch, optional (default: one process)
  design: {lattice: 2}      # or {draws: 24} around the natural shares, or {list: mixtures.csv}
  held_out: 5               # mixtures that test the responses and are never fitted
  replicates: 3             # runs of the uniform mixture with different seeds; they show the variation by chance
  epochs: 15                # most passes over a group; this bounds its share
  confirm: 0                # fresh seeds for each of the recommended, uniform and natural mixtures
  seed: 0
  probe: {tasks: [...], data: data, method: linear}    # options of biovfm probe, one method
  metric: auc               # optional (default: the primary metric of each task)

OUT receives runs/, results/, mixtures.csv, mixture.json, and the pictures mixture.png (for the mean over tasks) and
mixture-TASK.png."""


@dataclass(frozen=True)
class MixtureRunOptions:
    """Options of `biovfm scaling mixture run`."""

    plan: Path = argument("file with the data, the design and the probe", metavar="MIXTURE.yaml")
    out: Path = required("folder for runs/, results/ and the recommendation", metavar="DIR")
    resamples: int = option(200, "resamples of the residuals for the intervals, and shuffles for p", least=20)
    dry_run: bool = option(False, "print the mixtures and commands, and stop")

    def __post_init__(self) -> None:
        check_options(self)


def plan_lines(options: MixtureRunOptions) -> list[str]:
    """The planned work: the bounds, every mixture and every command."""
    plan = read_mixture_plan(options.plan)
    lines = [f"{len(plan.mixtures)} runs, {plan.seen:,} images seen by each"]
    for name, images, limit in zip(plan.groups, plan.images, plan.limits, strict=True):
        lines.append(f"{name:<20} {images:>12,.0f} images, share at most {limit:.3f}")
    for mixture in plan.mixtures:
        lines.append(f"{mixture.name:<12} {' '.join(f'{share:.3f}' for share in mixture.shares)}"
                     f"{'  held out' if mixture.held_out else ''}")  # fmt: skip
    return lines + planned_lines(plan.runs(plan.mixtures), options.out, plan.launch)


def run_mixtures(options: MixtureRunOptions) -> dict[str, Any]:
    """Pretrain, probe, fit and recommend; finished work is not repeated.

    Returns:
        The content of mixture.json: {"seen", "images", "reports": {"mean" or task: see `recommendation.recommend`},
        "confirmed": see `confirmation.compare_fresh`}.

    Raises:
        UserError: the plan is wrong, a run fails, or the scores cannot be fitted.
    """
    from .picture import draw_mixture  # loads matplotlib

    check_writable(options.out, folder=True)
    plan, out = read_mixture_plan(options.plan), options.out
    scores = score_mixtures(plan, plan.mixtures, out)
    runs = {task: _runs(plan, plan.mixtures, values) for task, values in scores.items()}
    _write_mixtures(out / "mixtures.csv", plan, scores)
    recommendations: dict[str, Recommendation] = {}
    for task, task_runs in runs.items():
        recommendations[task] = recommend(task_runs, options.resamples, plan.seed)
        name = "mixture.png" if task == MEAN else f"mixture-{task}.png"
        draw_mixture(out / name, task_runs, recommendations[task], "mean over tasks" if task == MEAN else task)
        print("\n".join([f"\n{task}", *recommendation_lines(recommendations[task].report)]))
    report: dict[str, Any] = {
        "seen": plan.seen, "images": dict(zip(plan.groups, plan.images.tolist(), strict=True)),
        "reports": {task: each.report for task, each in recommendations.items()},
    }  # fmt: skip
    if plan.content.get("confirm", 0):
        fresh = fresh_mixtures(plan, recommendations[MEAN].report)
        confirmed = compare_fresh(score_mixtures(plan, fresh, out)[MEAN], recommendations[MEAN].report)
        report["confirmed"] = confirmed
        print("\n".join(confirmation_lines(confirmed)))
    write_text(out / "mixture.json", json.dumps(report, indent=1) + "\n")
    print(f"\nmixtures, the recommendation and pictures are in {out}")
    return report


def score_mixtures(plan: MixturePlan, mixtures: list[Mixture], out: Path) -> dict[str, np.ndarray]:
    """Scores (runs,) of mixtures under "mean" and each task; mixtures are trained and probed if they are not yet.

    Raises:
        UserError: a run fails, or a model has no score on a task.
    """
    training = plan.runs(mixtures)
    probing = probe_options(training, plan.probe, out)
    if len(probing.method) > 1:
        raise UserError(f"{plan.path}: probe: give one method, because one score is fitted")
    tasks = [task.name for task in probe_command.open_tasks(probing)]  # report missing files first
    pretrain(training, plan.launch, out)
    records = probe_command.probe(probing)
    (group,) = by_method(records, probe_command.make_runs(probing), tasks).values()
    joined = over_seeds(out / "results", group, probing.resamples)
    scores = {task: _task_scores(plan, mixtures, joined, task) for task in tasks}
    if MEAN in scores:
        raise UserError("a task is called mean, as is the mean over tasks; rename it")
    return {MEAN: np.mean(list(scores.values()), axis=0), **(scores if len(scores) > 1 else {})}


def _task_scores(plan: MixturePlan, mixtures: list[Mixture], records: list[Record], task: str) -> np.ndarray:
    by_model = {record.model: record for record in records if record.task == task}
    scores = []
    for mixture in mixtures:
        record = by_model.get(mixture.name)
        name = plan.content.get("metric") or (record.primary if record else "")
        value = record.metrics.get(name, {}).get("value") if record else None
        if value is None:
            raise UserError(
                f"{mixture.name} has no {name or 'score'} on {task}; see {plan.path} and the results folder"
            )
        scores.append(value)
    return np.array(scores)


def _runs(plan: MixturePlan, mixtures: list[Mixture], scores: np.ndarray) -> MixtureRuns:
    shares = np.stack([mixture.shares for mixture in mixtures])
    held_out = np.array([mixture.held_out for mixture in mixtures])
    return MixtureRuns(plan.groups, shares, scores, held_out, plan.limits).check(str(plan.path))


def _write_mixtures(path: Path, plan: MixturePlan, scores: dict[str, np.ndarray]) -> None:
    rows = [
        {"run": mixture.name, **dict(zip(plan.groups, mixture.shares.tolist(), strict=True)),
         "held_out": int(mixture.held_out), "score": float(scores[MEAN][number])}
        for number, mixture in enumerate(plan.mixtures)
    ]  # fmt: skip
    write_rows(path, ("run", *plan.groups, "held_out", "score"), rows)
