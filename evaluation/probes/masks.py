"""Masks of a segmentation task: read, brought to one size, predicted, and counted case by case."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from biovfm_hf.errors import UserError

from ..statistics.metrics import segmentation_counts
from ..tasks import Split

if TYPE_CHECKING:
    from torch import Tensor

BATCH_SIZE = 8

# Turns image numbers of one split into class scores (B, K, h, w), for any h and w.
Predictor = Callable[[np.ndarray], "Tensor"]


@dataclass(frozen=True)
class Segmentation:
    """What a segmentation probe answers: voxel counts per test case, what it chose, and weights as in `probe.Answer`.

    `counts` (cases, classes, 4), see `metrics.segmentation_counts`; a case is a volume where images are its slices.
    """

    counts: np.ndarray
    chosen: dict[str, Any]
    predict: Predictor
    trained: int
    parameters: int | None = None


class SmallMasks:
    """The masks of a split at one size, (N, H, W) uint8 by the nearest pixel, kept in memory for repeated use."""

    def __init__(self, split: Split, classes: int, size: tuple[int, ...]):
        import torch
        from torch.nn import functional

        self.case_of_image = split.case_of_image
        self.masks = np.empty((len(split.images), *size), np.uint8)
        for row in range(len(self.masks)):
            mask = torch.from_numpy(checked_mask(split, row, classes).astype(np.float32))[None, None]
            self.masks[row] = functional.interpolate(mask, size=tuple(size), mode="nearest-exact")[0, 0].numpy()


def checked_mask(split: Split | SmallMasks, index: int, classes: int) -> np.ndarray:
    """The mask (H, W) of an image.

    Raises:
        UserError: it is of another shape or holds another class than 0..classes - 1.
    """
    assert split.masks is not None
    mask = split.masks[index]
    if mask.ndim != 2 or (mask.size and (int(mask.min()) < 0 or int(mask.max()) >= classes)):
        raise UserError(
            f"mask {index} has shape {mask.shape} and values up to {mask.max()}; expected (H, W) of 0..{classes - 1}"
        )
    return mask


def mask_shares(mask: np.ndarray, classes: int, grid: tuple[int, ...]) -> "Tensor":
    """The share of each class in each cell of a grid over the mask: (classes, h, w), summing to 1 over classes."""
    import torch
    from torch.nn import functional

    hot = functional.one_hot(torch.from_numpy(mask.astype(np.int64)), classes).permute(2, 0, 1).float()
    if mask.shape[0] < grid[0] or mask.shape[1] < grid[1]:
        return functional.interpolate(hot[None], size=tuple(grid), mode="nearest")[0]
    return functional.adaptive_avg_pool2d(hot[None], (grid[0], grid[1]))[0]


def count_cases(classes: int, predict: Predictor, split: Split | SmallMasks, batch: int = BATCH_SIZE) -> np.ndarray:
    """Voxel counts (cases, classes, 4) of predictions enlarged bilinearly to each mask's own size."""
    total = len(split.masks) if split.masks is not None else 0
    cases = split.case_of_image if split.case_of_image is not None else np.arange(total)
    counts = np.zeros((int(cases.max()) + 1, classes, 4), np.int64)
    for start in range(0, total, batch):
        rows = np.arange(start, min(start + batch, total))
        for scores, row in zip(predict(rows), rows, strict=True):
            truth = checked_mask(split, int(row), classes)
            counts[cases[row]] += segmentation_counts(decide(scores, truth.shape), truth, classes)
    return counts


def decide(scores: "Tensor", size: tuple[int, ...]) -> np.ndarray:
    """Enlarge class scores (K, h, w) bilinearly to `size` and take the best class: (H, W) uint8."""
    from torch.nn import functional

    full = functional.interpolate(scores[None], size=tuple(size), mode="bilinear", align_corners=False)[0]
    return full.argmax(0).byte().numpy()
