"""Losses between class scores and masks."""

from torch import Tensor
from torch.nn import functional

DICE_SMOOTHING = 1e-5  # of the sums over an image, as MONAI's


def dice_loss(logits: Tensor, target: Tensor) -> Tensor:
    """1 - soft Dice, averaged over images and classes, background included. logits (B, K, H, W), target (B, H, W).

    MONAI's `DiceLoss(softmax=True, to_onehot_y=True)`, with which the radiology study (arXiv 2312.02366) trains.
    """
    probability = logits.softmax(1)
    truth = functional.one_hot(target, logits.shape[1]).permute(0, 3, 1, 2).to(logits.dtype)
    both = (probability * truth).sum((2, 3))
    total = (probability + truth).sum((2, 3))
    return (1 - (2 * both + DICE_SMOOTHING) / (total + DICE_SMOOTHING)).mean()


def dice_ce_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy plus `dice_loss`: MONAI's `DiceCELoss`. logits (B, K, H, W), target (B, H, W) classes."""
    return functional.cross_entropy(logits, target) + dice_loss(logits, target)
