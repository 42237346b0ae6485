"""The radiology study's linear heads on frozen features (arXiv 2312.02366, protocol `radiology`).

As in DINOv2's linear evaluation, one head for each of four learning rates and each of four inputs is trained by SGD on
the same batches. The head with the highest validation AUC is chosen and trained anew on training and validation cases
together. The study then reports the epoch that is best on test; here the last epoch is reported, which needs no
choice. The study's training length is not published.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ...statistics.kinds import BINARY
from ...statistics.ranking import RankedLabel, roc_auc
from ..probe import Problem, Scores, log_loss
from ..tuning.optimisation import shuffled

RATES = (1e-3, 5e-3, 1e-2, 5e-2)
EPOCHS, BATCH, MIN_STEPS = 10, 128, 600
DEVIATION, MOMENTUM = 0.01, 0.9


@dataclass(frozen=True)
class HeadSettings:
    """One of the heads: the name of its input and its learning rate."""

    features: str
    rate: float


def probe_study(
    problem: Problem, inputs: Mapping[str, np.ndarray], epochs: int | None = None, seed: int = 0
) -> Scores:
    """Choose input and learning rate on validation, then score the test cases with a head trained on both splits.

    The validation scores, on which thresholds are chosen, come from the head that was trained without them.

    Args:
        problem: labels, and features that contain every input.
        inputs: {name: indices (D,) of the feature columns that the input reads}.
        epochs: passes over the cases; None means ten, or more if few cases need more for `MIN_STEPS` steps.
        seed: random seed of the initial weights and the order of cases.
    """
    choices = [HeadSettings(name, rate) for name, rate in product(inputs, RATES)]
    tried = _train(problem, inputs, choices, epochs, seed)
    val = _probabilities(problem, tried, "val")
    reached = [_validation_auc(problem, scores) for scores in val]
    best = int(np.argmax(reached))
    chosen = choices[best]
    last = _train(_joined(problem), inputs, [chosen], epochs, seed)
    test = _probabilities(problem, last, "test")[0]
    details = {
        "features": chosen.features, "rate": chosen.rate, "val_auc": reached[best],
        "tried": {f"{one.features} {one.rate:g}": value for one, value in zip(choices, reached, strict=True)},
    }  # fmt: skip
    weights = _columns(problem) * (int(inputs[chosen.features].sum()) + 1)
    return Scores(val[best], test, details, weights)


def _columns(problem: Problem) -> int:
    """Outputs of a head: one for a binary task, else one per class or label."""
    return 1 if problem.kind == BINARY else problem.outputs


def _joined(problem: Problem) -> Problem:
    """The problem with training and validation cases joined for training."""
    parts = {"features": problem.features, "labels": problem.labels}
    both = {kind: np.concatenate([splits["train"], splits["val"]]) for kind, splits in parts.items()}
    return replace(
        problem,
        features={**problem.features, "train": both["features"]},
        labels={**problem.labels, "train": both["labels"]},
    )


def _targets(problem: Problem) -> Tensor:
    targets = torch.from_numpy(problem.targets("train"))
    return targets[:, 1:] if problem.kind == BINARY else targets


def _train(
    problem: Problem, inputs: Mapping[str, np.ndarray], choices: list[HeadSettings], epochs: int | None, seed: int
) -> Tensor:
    """Weights (heads, outputs, D + 1) of the heads, all trained at once; the last column is the bias."""
    features, targets = torch.from_numpy(problem.features["train"]), _targets(problem)
    generator = torch.Generator().manual_seed(seed)
    reads = torch.stack([torch.from_numpy(np.append(inputs[choice.features], True)) for choice in choices])
    weights = torch.randn(len(choices), targets.shape[1], reads.shape[1], generator=generator) * DEVIATION
    weights[..., -1] = 0.0
    weights *= reads[:, None]
    moments, rates = torch.zeros_like(weights), torch.tensor([choice.rate for choice in choices]).view(-1, 1, 1)
    batch = min(BATCH, len(features))
    each = -(-len(features) // batch)
    steps = (epochs or max(EPOCHS, -(-MIN_STEPS // each))) * each
    for step, rows in enumerate(shuffled(len(features), batch, steps, seed)):
        inside = functional.pad(features[rows], (0, 1), value=1.0)
        logits = torch.einsum("bd,hkd->hbk", inside, weights)
        residual = _residual(problem, logits, targets[rows]) / len(rows)
        gradient = torch.einsum("hbk,bd->hkd", residual, inside) * reads[:, None]
        moments.mul_(MOMENTUM).add_(gradient)
        weights -= rates * (0.5 * (1 + np.cos(np.pi * step / steps))) * moments
    return weights


def _residual(problem: Problem, logits: Tensor, targets: Tensor) -> Tensor:
    """The gradient of the loss (summed over outputs) with respect to the scores (heads, B, K)."""
    independent = problem.independent or problem.kind == BINARY
    return (logits.sigmoid() if independent else logits.softmax(-1)) - targets


def _probabilities(problem: Problem, weights: Tensor, name: str) -> list[np.ndarray]:
    """Probabilities (N, outputs) of a split's cases, for each head."""
    features = functional.pad(torch.from_numpy(problem.features[name]), (0, 1), value=1.0)
    logits = torch.einsum("bd,hkd->hbk", features, weights)
    if problem.kind == BINARY:
        positive = logits.sigmoid()
        return list(torch.cat([1 - positive, positive], -1).numpy())
    return list((logits.sigmoid() if problem.independent else logits.softmax(-1)).numpy())


def _validation_auc(problem: Problem, scores: np.ndarray) -> float:
    """The mean AUC of validation scores over the classes or labels that have both positive and negative cases.

    If there are none it is minus the mean loss, and -inf if scores are not finite.
    """
    if not np.isfinite(scores).all():
        return float("-inf")
    truth = problem.targets("val")
    first = 1 if problem.kind == BINARY else 0
    ones = np.ones((len(truth), 1), np.float32)
    pairs = zip(truth.T[first:], scores.T[first:], strict=True)
    values = [
        float(roc_auc(RankedLabel(labels, column), ones)[0]) for labels, column in pairs if 0 < labels.mean() < 1
    ]
    return float(np.mean(values)) if values else -log_loss(scores, truth, problem.independent)
