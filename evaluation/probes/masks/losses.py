"""Losses between class scores and masks."""

from torch import Tensor
from torch.nn import functional

DICE_SMOOTHING = 1e-5  # added to the sums over an image, as in MONAI


def dice_loss(logits: Tensor, target: Tensor) -> Tensor:
    """1 - soft Dice, averaged over images and classes with background. logits (B, K, H, W), target (B, H, W).

    It is MONAI's `DiceLoss(softmax=True, to_onehot_y=True)`, which the radiology study (arXiv 2312.02366) trains with.
    """
    probability = logits.softmax(1)
    truth = functional.one_hot(target, logits.shape[1]).permute(0, 3, 1, 2).to(logits.dtype)
    both = (probability * truth).sum((2, 3))
    total = (probability + truth).sum((2, 3))
    return (1 - (2 * both + DICE_SMOOTHING) / (total + DICE_SMOOTHING)).mean()


def dice_ce_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy plus `dice_loss`: MONAI's `DiceCELoss`. logits (B, K, H, W), target (B, H, W) classes."""
    return functional.cross_entropy(logits, target) + dice_loss(logits, target)
