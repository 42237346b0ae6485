"""Training a network on masks: the epoch with the highest mean validation Dice is kept."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR
from tqdm import tqdm

from biovfm_hf.errors import UserError

from ...statistics.masks import mean_dice, segmentation_counts
from ..tuning.optimisation import optimised, trained_state
from .feeds import Feed
from .losses import dice_ce_loss
from .problem import BATCH_SIZE, Predictor, ResizedMasks, batches, decide

MIN_STEPS = 600
EPOCHS = 30
DECAY = 1e-4
Optimise = Callable[[nn.Module, float, int], tuple[Optimizer, LRScheduler]]  # network, highest rate, steps


def one_cycle(network: nn.Module, rate: float, steps: int) -> tuple[Optimizer, LRScheduler]:
    """AdamW on all weights of a network; the rate rises over a tenth of the steps, then falls by a cosine."""
    optimizer = AdamW(network.parameters(), lr=rate, weight_decay=DECAY)
    rise = 0.1 if steps > 10 else min(0.75, 1.5 / steps)  # OneCycleLR divides by the number of rising steps minus one
    return optimizer, OneCycleLR(optimizer, rate, total_steps=steps, pct_start=rise)


@dataclass(frozen=True)
class MaskRecipe:
    """Training settings of a network.

    Attributes:
        rate: highest learning rate.
        seed: random seed of weights and order.
        epochs: passes over the images; None means 30, or more if few images need more for `MIN_STEPS` steps.
        optimise: function that makes the optimizer and its schedule.
        clip: largest norm of the gradient.
    """

    epochs: int | None = None
    rate: float = 1e-3
    seed: int = 0
    optimise: Optimise = field(default=one_cycle)
    clip: float | None = None

    def passes(self, steps: int, least: int = EPOCHS) -> int:
        """Number of epochs, for a number of steps per epoch."""
        return self.epochs or max(least, -(-MIN_STEPS // steps))


def train(network: nn.Module, feed: Feed, recipe: MaskRecipe) -> dict[str, Any]:
    """Train a network on the images of `train`, and leave it at its best epoch.

    The loss is cross-entropy plus soft Dice.

    Args:
        network: module from a feed's inputs to class scores (B, K, h, w), which are enlarged to the masks' size.
        feed: inputs and masks.
        recipe: training settings.

    Returns:
        The best epoch, the number of epochs, and the validation Dice.

    Raises:
        UserError: no epoch gives finite scores.
    """
    count = len(feed.problem.splits["train"].images)
    steps = -(-count // BATCH_SIZE)
    epochs = recipe.passes(steps)
    optimizer, schedule = recipe.optimise(network, recipe.rate, steps * epochs)
    rng = np.random.default_rng(recipe.seed)
    best, best_state, best_epoch = -1.0, None, 0
    for epoch in tqdm(range(epochs), desc=feed.problem.name, unit="epoch", disable=None, leave=False):
        network.train()
        orders = np.array_split(rng.permutation(count), steps)
        for inputs, masks in feed.training(orders, [recipe.seed, epoch]):
            loss = dice_ce_loss(*alike(network(inputs), masks))
            optimizer.zero_grad()
            loss.backward()
            if recipe.clip is not None:
                nn.utils.clip_grad_norm_(optimised(optimizer), recipe.clip)
            optimizer.step()
            schedule.step()
        score = _validate(network, feed)
        if score > best:
            best, best_state, best_epoch = score, trained_state(network), epoch
    if best_state is None:
        raise UserError(f"{feed.problem.name}: training diverged; give a lower --rate than {recipe.rate}")
    network.load_state_dict(best_state, strict=False)
    network.eval()
    return {"epoch": best_epoch + 1, "epochs": epochs, "val_dice": best}


def alike(logits: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Scores (B, K, h, w), enlarged to the size of the masks (B, H, W) if it differs, and masks, on one device."""
    if logits.shape[-2:] != masks.shape[-2:]:
        logits = functional.interpolate(logits, size=masks.shape[-2:], mode="bilinear", align_corners=False)
    return logits, masks.to(logits.device)


def _validate(network: nn.Module, feed: Feed) -> float:
    """The mean Dice of the validation cases; NaN if scores are not finite, so that the epoch is not chosen."""
    network.eval()
    counts = count_resized(predictor(network, feed, "val"), feed.targets("val"))
    return float("nan") if counts is None else mean_dice(counts)


def predictor(network: nn.Module, feed: Feed, name: str = "test") -> Predictor:
    """A predictor with a trained network's scores for images of a split."""

    def predict(rows: np.ndarray) -> list[Tensor]:
        with torch.inference_mode():
            return list(network(feed.inputs(name, rows)).float().cpu())

    return predict


def count_resized(predict: Predictor, masks: ResizedMasks, mode: str = "bilinear") -> np.ndarray | None:
    """Voxel counts (cases, classes, 4) of predictions against masks of one size; None if scores are not finite."""
    split = masks.split
    cases = np.arange(len(masks.masks)) if split.case_of_image is None else split.case_of_image
    counts = np.zeros((int(cases.max()) + 1, masks.classes, 4), np.int64)
    for rows in batches(len(masks.masks)):
        for scores, row in zip(predict(rows), rows, strict=True):
            if not bool(scores.isfinite().all()):
                return None
            decided = decide(scores, masks.size, mode)
            counts[cases[row]] += segmentation_counts(decided, masks.masks[row], masks.classes)
    return counts
