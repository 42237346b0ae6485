"""Linear probing: by a convex fit (protocol `fast`), and as the BioVFM authors train (protocol `biovfm`)."""

from dataclasses import dataclass, field

import numpy as np

from biovfm_hf.options import option

from ..encoders.embed import Augmentation, embed_summaries
from ..encoders.pooling import case_features
from .frozen import FrozenProbe
from .probe import Problem, Scores, Trial, epochs_setting, features_setting, register


@register
@dataclass(frozen=True)
class Linear(FrozenProbe):
    """One linear layer on frozen features, by a convex fit whose regularisation is chosen on validation."""

    name = "linear"
    title = "a linear layer on frozen features"
    protocols = ("fast",)
    features: str = features_setting("both")

    def score(self, trial: Trial, problem: Problem) -> Scores:
        """Fit, and choose by validation loss."""
        from .heads.logistic import probe_fast  # needs torch

        return probe_fast(problem)


@register
@dataclass(frozen=True)
class AuthorsLinear(FrozenProbe):
    """The authors' normalised linear layer on mean patch tokens before the final norm, trained by AdamW."""

    name = "linear"
    title = "a linear layer on frozen features"
    protocols = ("biovfm",)
    thresholds = "biovfm"
    normalises_alike = True
    views: int = option(
        0,
        "protocol biovfm: augmented views of the training images, used in turn over the epochs; 100 repeats the "
        "authors' online augmentation, 0 is no augmentation",
        least=0,
        metavar="N",
    )
    epochs: int | None = epochs_setting()
    features: str = field(init=False, default="mean_raw", metadata={"help": "what the authors read"})

    def score(self, trial: Trial, problem: Problem) -> Scores:
        """Train the head, and keep the epoch of lowest validation loss."""
        from .heads.authors import EPOCHS, probe_biovfm  # needs torch

        views = [self._view(trial, number) for number in range(self.views)]
        return probe_biovfm(problem, views, self.epochs or EPOCHS, trial.run.seed)

    def _view(self, trial: Trial, number: int) -> np.ndarray:
        """Features (N_cases, D) of the training images in one augmented view."""
        split = trial.task.splits["train"]
        label = trial.label(f"train, augmented view {number + 1} of {self.views}")
        stored = embed_summaries(
            trial.encoder, split.images, trial.cache, Augmentation(number, trial.run.seed), trial.run.batch_size, label
        )
        return case_features(stored[self.features], split.case_of_image, trial.run.pool)
