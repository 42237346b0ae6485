"""Linear probing: a convex fit (protocol `fast`), or training as the BioVFM authors do (protocol `biovfm`)."""

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from biovfm_hf.errors import OptionError
from biovfm_hf.options import option

from ..encoders.embed import Augmentation, embed_summaries
from ..encoders.pooling import case_features
from ..encoders.tokens import LAST_BLOCKS, find_layers
from .frozen import FrozenProbe
from .probe import FEATURES_HELP, STUDY, Problem, Scores, Trial, epochs_setting, features_setting, log_loss, register

if TYPE_CHECKING:
    from .heads.authors import Source


AUTO = "auto"
# The inputs of a head by name, with the vectors that each is made of.
INPUTS = {
    "class": ("class",),
    "both": ("class", "mean"),
    "classes4": ("class4", "class3", "class2", "class"),
    "last4": ("class4", "class3", "class2", "class", "mean"),
}


def _inputs(trial: Trial, problem: Problem, parts: tuple[str, ...], names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """The columns (D,) of the feature vectors that each input reads.

    The vectors are `parts` side by side, once, or twice if pooled by mean and max. If the model has no class token,
    the vectors are the mean alone and there is only one input.
    """
    width = problem.features["train"].shape[1]
    of_volumes = trial.task.splits["train"].case_of_image is not None
    repeats = 2 if of_volumes and trial.run.pool == "mean_max" else 1
    if width == trial.problem("class").features["train"].shape[1]:
        return {"mean": np.ones(width, bool)}
    part_of = np.repeat(np.tile(parts, repeats), width // (len(parts) * repeats))
    return {name: np.isin(part_of, INPUTS[name]) for name in names}


@register
@dataclass(frozen=True)
class Linear(FrozenProbe):
    """One linear layer on frozen features, by a convex fit whose regularisation is chosen on validation."""

    name = "linear"
    title = "a linear layer on frozen features"
    protocols = ("fast",)
    features: str = features_setting("both", AUTO)

    def reads(self, trial: Trial) -> str:
        """Both vectors if one of the two is chosen on validation."""
        return "both" if self.features == AUTO else self.features

    def score(self, trial: Trial, problem: Problem) -> Scores:
        """Fit, and choose the regularisation (with `auto` also the vectors) by validation loss."""
        from .heads.logistic import probe_fast  # needs torch

        if self.features != AUTO:
            return probe_fast(problem)
        fits, losses = {}, {}
        for name, columns in _inputs(trial, problem, ("class", "mean"), ("class", "both")).items():
            parts = {split: vectors[:, columns] for split, vectors in problem.features.items()}
            fits[name] = probe_fast(replace(problem, features=parts))
            losses[name] = log_loss(fits[name].val, problem.targets("val"), problem.independent)
        best = min(losses, key=lambda name: losses[name])
        return replace(fits[best], chosen={**fits[best].chosen, "features": best, "val_loss": losses})


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
    authors_drop_path: bool = option(
        False,
        "protocol biovfm: keep stochastic depth on in encoders of DINOv2's form while the head is trained, as the "
        "authors' code does; the encoder then runs again in every epoch",
    )
    epochs: int | None = epochs_setting()
    features: str = field(init=False, default="mean_raw", metadata={"help": "the vector that the authors read"})

    def score(self, trial: Trial, problem: Problem) -> Scores:
        """Train the head and keep the epoch with the lowest validation loss."""
        from .heads.authors import EPOCHS, probe_biovfm  # needs torch

        epochs, seed = self.epochs or EPOCHS, trial.run.seed
        source, details = self._noisy(trial) if self.authors_drop_path else (None, {})
        views = [] if source else [self._view(trial, number) for number in range(self.views)]
        scores = probe_biovfm(problem, views, epochs, seed, source)
        return replace(scores, chosen={**scores.chosen, **details})

    def _noisy(self, trial: Trial) -> tuple["Source | None", dict[str, Any]]:
        """The source of features with stochastic depth, and its rate; None and 0 for encoders not in DINOv2's form."""
        from .heads.drop_path import NoisyFeatures, drop_rate  # needs torch

        rate, run, split = drop_rate(trial.encoder), trial.run, trial.task.splits["train"]
        source = NoisyFeatures(trial.encoder, split, rate, run.seed, self.views, run.pool) if rate else None
        return source, {"drop_path": rate}

    def _view(self, trial: Trial, number: int) -> np.ndarray:
        """Features (N_cases, D) of the training images in one augmented view."""
        split = trial.task.splits["train"]
        label = trial.label(f"train, augmented view {number + 1} of {self.views}")
        stored = embed_summaries(
            trial.encoder, split.images, trial.cache, Augmentation(number, trial.run.seed), trial.run.batch_size, label
        )
        return case_features(stored[self.features], split.case_of_image, trial.run.pool)


@register
@dataclass(frozen=True)
class StudyLinear(FrozenProbe):
    """The radiology study's linear layer, trained by SGD, with input and learning rate chosen on validation."""

    name = "linear"
    title = Linear.title
    protocols = (STUDY,)
    normalises_alike = True
    features: str = option(AUTO, FEATURES_HELP, choices=(AUTO, *INPUTS))
    epochs: int | None = epochs_setting()

    def reads(self, trial: Trial) -> str:
        """Class tokens of the last four blocks and the mean patch token, if the model has equal blocks."""
        return "last4" if len(find_layers(trial.encoder.module) or ()) >= LAST_BLOCKS else "both"

    def score(self, trial: Trial, problem: Problem) -> Scores:
        """Choose input and rate by validation AUC, and train on both splits."""
        from .heads.study import probe_study  # needs torch

        blocks = self.reads(trial) == "last4"
        names = tuple(INPUTS) if blocks else ("class", "both")
        inputs = _inputs(trial, problem, INPUTS["last4" if blocks else "both"], names)
        if self.features != AUTO:
            if self.features not in inputs:
                raise OptionError(
                    "features", f"{trial.encoder.name} has no {self.features}; it has {', '.join(inputs)}"
                )
            inputs = {self.features: inputs[self.features]}
        return probe_study(problem, inputs, self.epochs, trial.run.seed)
