"""Method `mil`: gated attention over the images of a case (multiple-instance learning) on frozen features."""

from dataclasses import dataclass

import numpy as np

from biovfm_hf.options import option

from ..encoders.embed import embed_features
from ..tasks import SPLITS, Task
from .judging import judge
from .probe import Answer, Probe, Problem, Trial, epochs_setting, features_setting, rate_setting, register

EPOCHS, RATE, PATIENCE = 100, 1e-3, 20


@register
@dataclass(frozen=True)
class AttentionPooling(Probe):
    """Gated attention over the slices of a volume, trained by AdamW until validation stops improving."""

    name = "mil"
    title = "gated attention over the slices of a volume, on frozen features"
    features: str = features_setting("both")
    epochs: int | None = epochs_setting()
    rate: float | None = rate_setting()
    patience: int = option(PATIENCE, "epochs without a lower validation loss before attention stops training", least=1)

    def suits(self, task: Task) -> bool:
        """Whether cases have several images."""
        return super().suits(task) and task.splits["train"].case_of_image is not None

    def run(self, trial: Trial) -> Answer:
        """Train, keep the epoch with the lowest validation loss, score, and store the test slices' weights."""
        from .networks.gated_attention import fit_attention  # needs torch

        bags = {name: self._bags(trial, name) for name in SPLITS}
        mean, deviation = _standard(bags["train"])
        bags = {name: [(bag - mean) / deviation for bag in part] for name, part in bags.items()}
        pooled = {name: np.stack([bag.mean(0) for bag in part]) for name, part in bags.items()}
        problem = Problem(trial.task.record.kind, trial.task.num_outputs, pooled, trial.labels())
        scores, weights = fit_attention(
            problem, bags, self.epochs or EPOCHS, self.rate or RATE, self.patience, trial.run.seed
        )
        answer = judge(trial, scores)
        lengths = np.array([len(bag) for bag in bags["test"]])
        attention = {
            "test_attention": np.concatenate(weights),
            "test_case_of_image": np.repeat(np.arange(len(lengths)), lengths),
        }
        return answer._replace(arrays={**answer.arrays, **attention})

    def _bags(self, trial: Trial, name: str) -> list[np.ndarray]:
        """The feature vectors (n, D) of each case of a split."""
        split = trial.task.splits[name]
        vectors = embed_features(
            trial.encoder, split.images, trial.cache, self.features, trial.run.batch_size, trial.label(name)
        )
        cases = np.arange(len(vectors)) if split.case_of_image is None else split.case_of_image
        return [vectors[cases == case] for case in range(split.num_cases)]


def _standard(bags: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (D,) over all vectors; the latter is 1 for constant features."""
    vectors = np.concatenate(bags)
    deviation = vectors.std(axis=0)
    return vectors.mean(axis=0), np.where(deviation > 0, deviation, 1)
