"""The metrics of this package as a module of Hugging Face's `evaluate` library, for its evaluators and for Trainer.

    scores = evaluate.load("evaluation/statistics/biovfm_scores.py", "multi-class")
    scores.compute(predictions=probabilities, references=labels)                 # {"auc": ..., "mcc": ..., ...}
    Trainer(..., compute_metrics=lambda p: scores.compute(predictions=softmax(p.predictions), references=p.label_ids))

`evaluate` is not a dependency of this package: it loads this file, not the other way round.
"""

from typing import Any

import datasets
import evaluate
import numpy as np

from biovfm_hf.rooms import load_room_module

DESCRIPTION = """\
AUC, accuracy, balanced accuracy, MCC, F1, recall, sensitivity, specificity, average precision, Brier score and ECE of
probabilities, as the BioVFM evaluation defines them, optionally with 95 % bootstrap intervals. The configuration is
MedMNIST's name for the kind of task: binary-class, multi-class, "multi-label, binary-class" or ordinal-regression."""
INPUTS = """\
predictions: probabilities, (n,) of the positive class, (n, classes) or (n, labels).
references: class indices (n,), or 0/1 of shape (n, labels).
thresholds: one per label (default 0.5); unused by multi-class tasks.
resamples: number of bootstrap resamples; 0 (default) computes values only.
seed: random seed of the resamples."""
CITATION = "Liu J. et al. BioVFM-21M. arXiv:2505.09329 (2025)."


class BioVFMScores(evaluate.Metric):
    """Metrics of one split, see the top of this file."""

    def _info(self) -> Any:
        number, whole = datasets.Value("float64"), datasets.Value("int64")
        many = datasets.Sequence
        shapes = [(number, whole), (many(number), whole), (many(number), many(whole))]
        features = [datasets.Features({"predictions": p, "references": r}) for p, r in shapes]
        return evaluate.MetricInfo(
            description=DESCRIPTION, citation=CITATION, inputs_description=INPUTS, features=features
        )

    def _compute(
        self, predictions: Any, references: Any, thresholds: Any = None, resamples: int = 0, seed: int = 0
    ) -> dict[str, Any]:
        """{metric: value}, None if undefined; with `resamples` also `<metric>_low` and `<metric>_high`.

        Raises:
            UserError: shapes or values do not fit the task.
        """
        names = ("kinds", "split", "undefined", "bootstrap")
        kinds, splits, undefined, bootstrap = (load_room_module(f"evaluation.statistics.{name}") for name in names)
        task = self.config_name if self.config_name in kinds.TASKS else kinds.MULTICLASS
        labels, scores = np.asarray(references), np.asarray(predictions, np.float64)
        split = splits.checked_split(task, labels, scores)
        split = split.decided_at(np.full(split.scores.shape[1], 0.5) if thresholds is None else thresholds)
        if not resamples:
            return undefined.point_metrics(split, extra=True)
        intervals = bootstrap.intervals(split, bootstrap.Resampling("fast", resamples, seed), extra=True)
        ends = {f"{name}_{end}": entry[end] for name, entry in intervals.items() for end in ("low", "high")}
        return {name: entry["value"] for name, entry in intervals.items()} | ends
