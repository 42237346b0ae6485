"""Linear probing by protocol `fast`: logistic regression on standardised features."""

from dataclasses import dataclass

import numpy as np

from .frozen import FrozenProbe
from .logistic import Objective, fit_path, fit_standardiser
from .probe import Problem, Scores, Trial, features_setting, register


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
        return probe_fast(problem)


def probe_fast(problem: Problem) -> Scores:
    """Standardise, then logistic regression over a grid of regularisation chosen by validation loss.

    Multi-label tasks get one sigmoid per label, others a softmax.
    """
    import torch

    independent = problem.independent
    inputs = {name: torch.from_numpy(np.ascontiguousarray(x, np.float32)) for name, x in problem.features.items()}
    standardise = fit_standardiser(inputs["train"])
    inputs = {name: standardise(part) for name, part in inputs.items()}
    train, val = (
        Objective(inputs[name], torch.from_numpy(problem.targets(name)), independent) for name in ("train", "val")
    )
    weights, chosen = fit_path(train, val)
    test = Objective(inputs["test"], torch.zeros(len(inputs["test"]), problem.outputs), independent)
    l2 = sorted(set(chosen)) if independent else chosen[0]
    of_val, of_test = (part.probabilities(weights)[1].numpy() for part in (val, test))
    return Scores(of_val, of_test, {"l2": l2}, problem.linear_weights)
