"""Probes of feature vectors of a frozen encoder, which can also be scored on corrupted test images."""

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from biovfm_hf.errors import UserError

from ..encoders.embed import embed_features
from ..encoders.pooling import case_features
from ..statistics.bootstrap import Resampling
from ..statistics.robustness import Baseline, robustness
from ..statistics.split import ScoredSplit, checked_split
from ..tasks import Task
from ..tasks.corruptions.benchmark import SIDE, Benchmark, benchmarks
from ..tasks.corruptions.stream import CorruptedImages, Stream
from .judging import feature_warnings, judge
from .probe import Answer, Probe, Problem, Scores, Trial

PASS_BYTES = 1 << 30  # features of corrupted images that are scored at once


@dataclass(frozen=True)
class FrozenProbe(Probe):
    """A probe of feature vectors. Subclasses have the field `features` and define how cases are scored."""

    corrupts: ClassVar[bool] = True

    def reads(self, trial: Trial) -> str:
        """Which of `tokens.FEATURES` the probe reads: its setting `features`."""
        features: str = self.features  # type: ignore[attr-defined]
        return features

    @abstractmethod
    def score(self, trial: Trial, problem: Problem) -> Scores:
        """Train on the problem's training cases and score its validation and test cases."""

    def run(self, trial: Trial) -> Answer:
        """Train, choose on validation, and score; also on corrupted images if the run asks for them."""
        problem = trial.problem(self.reads(trial))
        answer = judge(trial, self.score(trial, problem))._replace(warnings=feature_warnings(problem))
        return with_corruptions(self, trial, problem, answer) if trial.run.corrupt else answer


def benchmark_of(task: Task, other: str | None) -> Benchmark:
    """The corruptions of a task: its own, or those of the set `other` if the benchmark lacks the task.

    Raises:
        UserError: the benchmark has neither.
    """
    known = benchmarks()
    if task.name not in known and other is None:
        raise UserError(
            f"corrupt: MedMNIST-C has no corruptions for task {task.name}; name the set whose corruptions suit it by "
            "--corruptions, such as chestmnist for X-rays"
        )
    return known[task.name if task.name in known else str(other)]


def with_corruptions(probe: FrozenProbe, trial: Trial, problem: Problem, answer: Answer) -> Answer:
    """Add `robustness` to the answer's record, and the scores of the corrupted test cases to its arrays.

    The array is `corrupted_scores` (passes, N, K); a pass is one corruption at one severity, in the record's order.
    """
    run, split = trial.run, trial.task.splits["test"]
    benchmark = benchmark_of(trial.task, run.corruptions)
    stream = Stream(split.images, benchmark, run.seed)
    scores = _corrupted_scores(probe, trial, problem, stream)
    subjects = split.subjects if run.draws_as == "fast" else None
    clean = _scored(trial, answer, answer.arrays["test_scores"], subjects)
    corrupted: dict[str, list[ScoredSplit]] = {}
    for (name, _), pass_scores in zip(benchmark.passes, scores, strict=True):
        corrupted.setdefault(name, []).append(_scored(trial, answer, pass_scores, subjects))
    own = benchmark.name == trial.task.name
    baseline = Baseline(benchmark.clean, benchmark.alexnet) if own else None
    errors = robustness(clean, corrupted, baseline, Resampling(run.draws_as, run.resamples, run.seed))
    notes = [*errors.pop("notes"), *_size_notes(trial.task)]
    part = {"benchmark": benchmark.name, "seed": run.seed, "own": own, **errors, "notes": notes}
    arrays = {**answer.arrays, "corrupted_scores": scores}
    return answer._replace(further={**answer.further, "robustness": part}, arrays=arrays)


def _corrupted_scores(probe: FrozenProbe, trial: Trial, problem: Problem, stream: Stream) -> np.ndarray:
    """Scores (passes, N, K) float32, for as many passes at once as `PASS_BYTES` allows."""
    passes_of = stream.benchmark.passes
    at_once = max(PASS_BYTES // max(problem.features["test"].nbytes, 1), 1)
    parts = []
    for passes in (passes_of[start : start + at_once] for start in range(0, len(passes_of), at_once)):
        features = [_embed(trial, stream.corrupted(*one), f"{one[0]} {one[1]}", probe) for one in passes]
        stacked = replace(problem, features={**problem.features, "test": np.concatenate(features)})
        scored = probe.score(trial, stacked).test.astype(np.float32)
        parts.append(scored.reshape(len(passes), -1, scored.shape[1]))
    return np.concatenate(parts)


def _embed(trial: Trial, images: CorruptedImages, what: str, probe: Any) -> np.ndarray:
    vectors = embed_features(
        trial.encoder, images, trial.cache, probe.reads(trial), trial.run.batch_size, f"{trial.label('test')}, {what}"
    )
    return case_features(vectors, trial.task.splits["test"].case_of_image, trial.run.pool)


def _scored(trial: Trial, answer: Answer, scores: np.ndarray, subjects: np.ndarray | None) -> ScoredSplit:
    split = checked_split(trial.task.record.kind, trial.labels()["test"], scores)
    return replace(split, subjects=subjects).decided_at(np.array(answer.thresholds))


def _size_notes(task: Task) -> list[str]:
    """A note if the first test image does not have the benchmark's size."""
    height, width = task.splits["test"].images[0].shape[:2]
    if (height, width) == (SIDE, SIDE):
        return []
    return [f"images of {width} x {height} pixels were resized to {SIDE} before they were corrupted, so these errors "
            "are not the benchmark's"]  # fmt: skip
