"""A linear decoder on frozen tokens, by a convex fit at their own resolution."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from ...statistics.masks import mean_dice
from ..heads.logistic import Objective, fit_path, fit_standardiser
from .feeds import TokenReader
from .problem import MaskProblem, ResizedMasks, Segmentation, batches, checked_mask, mask_shares
from .training import count_resized

MAX_TRAIN_TOKENS = 300_000
WORKING_SIZE = (224, 224)  # mask size at which the prior shift is chosen
# How far scores are shifted against the class frequencies, as shares of the full correction.
PRIOR_SHIFTS = (0.0, 0.25, 0.5, 0.75, 1.0)


def fit_linear_decoder(problem: MaskProblem, readers: Mapping[str, TokenReader], seed: int = 0) -> Segmentation:
    """One linear layer from each patch token to its class shares, at token resolution, then enlarged bilinearly.

    Masks are pooled to each token's share of every class. The fit is therefore convex (see `logistic`). It uses at
    most `MAX_TRAIN_TOKENS` tokens drawn with `seed` and chooses the regularisation by the validation loss. For a rare
    class, the most likely class is not the one with the best Dice. Scores are therefore shifted against the log class
    frequencies, by the share in `PRIOR_SHIFTS` with the highest validation Dice.

    Args:
        problem: the segmentation problem.
        readers: readers of normed patch tokens for `train`, `val` and `test`.
        seed: random seed of the drawn tokens.
    """
    features, targets = {}, {}
    for name in ("train", "val"):
        features[name], targets[name] = _token_samples(problem, readers, name, seed)
    standardise = fit_standardiser(features["train"])
    train, val = (Objective(standardise(features[n]), targets[n], False) for n in ("train", "val"))
    weights, chosen = fit_path(train, val)

    prior = targets["train"].mean(0).clamp_min(1e-6).log()

    def score(name: str, shift: float, rows: np.ndarray) -> Tensor:
        tokens = readers[name](rows)[0]
        return torch.matmul(standardise(tokens), weights[:-1]).add(weights[-1] - shift * prior).permute(0, 3, 1, 2)

    small = ResizedMasks(problem.splits["val"], problem.classes, WORKING_SIZE)

    def dice_at(shift: float) -> float:
        counts = count_resized(lambda rows: list(score("val", shift, rows)), small)
        return -1.0 if counts is None else mean_dice(counts)

    reached = {shift: dice_at(shift) for shift in PRIOR_SHIFTS}
    shift = max(reached, key=lambda s: reached[s])
    choice = {
        "l2": chosen[0],
        "prior_shift": shift,
        "val_dice": reached[shift],
        "train_tokens": len(features["train"]),
    }
    return Segmentation(lambda rows: list(score("test", shift, rows)), choice, weights.numel())


def _token_samples(
    problem: MaskProblem, readers: Mapping[str, TokenReader], name: str, seed: int
) -> tuple[Tensor, Tensor]:
    """At most `MAX_TRAIN_TOKENS` tokens (n, D) and the class shares of their patches (n, K), evenly over images."""
    rng = np.random.default_rng(seed)
    split, tokens, shares = problem.splits[name], [], []
    quota = max(1, MAX_TRAIN_TOKENS // len(split.images))
    for rows in batches(len(split.images)):
        for image, row in zip(readers[name](rows)[0], rows, strict=True):
            share = mask_shares(checked_mask(split, int(row), problem.classes), problem.classes, image.shape[:2])
            flat, target = image.flatten(0, 1), share.flatten(1).T
            if len(flat) > quota:
                kept = torch.from_numpy(np.sort(rng.choice(len(flat), quota, replace=False)))
                flat, target = flat[kept], target[kept]
            tokens.append(flat)
            shares.append(target)
    return torch.cat(tokens), torch.cat(shares)
