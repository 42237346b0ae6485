"""A small linear segmentation probe of patch tokens during training.

Ridge regression maps the patch tokens of the training images to the share of each class in the patch. Its prediction
for the test images is enlarged to four cells per patch side and compared with their masks. Everything has a closed
form, so the same weights give the same Dice.
"""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from biovfm_hf.errors import UserError
from biovfm_hf.reading.masks import read_mask

from ..data.augment import pack, resize
from ..data.decode import read_image
from ..data.files import read_bytes
from .watched import Masked, mask_files

CELLS = 4  # cells per patch side, at which masks are compared
MAX_IMAGES = 128  # images of each split
_RIDGE = 1e-3  # ridge penalty, as a share of the features' mean variance
_MAX_CLASSES = 64


@dataclass(frozen=True)
class MaskedImages:
    """(N, 3, S, S) uint8 images and (N, S', S') int64 masks, `CELLS` cells a patch, for training and test."""

    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    classes: int


def load_masks(folder: Path, size: int, patch_size: int, limit: int) -> MaskedImages:
    """Load a segmentation folder, as for `biovfm probe`, in the forms of `mask_files`.

    Masks hold class numbers, or 0 and 255.

    Args:
        folder: the task.
        size: side to which images and masks are resized, without cropping.
        patch_size: of the model.
        limit: most images of each split, spread evenly over the sorted names.

    Raises:
        UserError: as `mask_files`, or there is only one class.
    """
    parts = mask_files(folder)
    few = min(limit, MAX_IMAGES)
    chosen = [
        [part[place] for place in np.linspace(0, len(part) - 1, min(few, len(part))).astype(int)] for part in parts
    ]
    cells = CELLS * size // patch_size
    train, test = ((_images(part, size), _masks(part, cells)) for part in chosen)
    values = {int(value) for _, masks in (train, test) for value in masks.unique()}
    if values <= {0, 255}:
        train, test = ((images, masks.clamp_max(1)) for images, masks in (train, test))
        values = {min(value, 1) for value in values}
    if len(values) < 2 or max(values) >= _MAX_CLASSES:
        raise UserError(
            f"watch.masks {folder}: masks hold {sorted(values)[:8]}; they must hold two classes or more, numbered "
            f"from 0 to {_MAX_CLASSES - 1}"
        )
    return MaskedImages(train, test, max(values) + 1)


def _images(pairs: Masked, size: int) -> Tensor:
    images = (read_image(read_bytes(str(image)), str(image)) for image, _ in pairs)
    return torch.from_numpy(pack([resize(image, size) for image in images]))


def _masks(pairs: Masked, cells: int) -> Tensor:
    masks = (read_mask(mask).astype(np.float32) for _, mask in pairs)
    small = [cv2.resize(mask, (cells, cells), interpolation=cv2.INTER_NEAREST_EXACT) for mask in masks]
    return torch.from_numpy(np.stack(small)).long()


def dense_dice(
    train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], grid: tuple[int, int], classes: int
) -> float:
    """Mean Dice of the linear probe over all classes except the first, each against the rest.

    A class's threshold is the best one on the training images, so that rare classes count too.

    Args:
        train: patch tokens (N, P, D) and masks (N, h, w), `CELLS` cells a patch.
        test: likewise.
        grid: rows and columns of the P patches.
        classes: number of classes, at least 2.
    """
    weights = _ridge(train[0], _shares(train[1], grid, classes))
    scores = [_enlarged(tokens, weights, grid) for tokens, _ in (train, test)]
    values = []
    for label in range(1, classes):
        inside = [(masks == label).flatten() for _, masks in (train, test)]
        if not inside[1].any():
            continue
        threshold = _best_threshold(scores[0][:, label].flatten(), inside[0])
        answer = scores[1][:, label].flatten() >= threshold
        values.append(2 * (answer & inside[1]).sum() / (answer.sum() + inside[1].sum()))
    return float(torch.stack(values).mean()) if values else float("nan")


def _shares(masks: Tensor, grid: tuple[int, int], classes: int) -> Tensor:
    """(N, h, w) classes to the share of each in every patch, (N, P, C)."""
    each = F.one_hot(masks, classes).movedim(-1, 1).double()
    return F.adaptive_avg_pool2d(each, grid).flatten(2).mT


def _ridge(tokens: Tensor, shares: Tensor) -> Tensor:
    """Weights (D + 1, C) from centred tokens to shares, the constant last."""
    rows, targets = tokens.double().flatten(0, 1), shares.flatten(0, 1).to(tokens.device)
    mean, target_mean = rows.mean(0), targets.mean(0)
    centred = rows - mean
    products = centred.T @ centred
    products.diagonal().add_(_RIDGE * products.diagonal().mean() + 1e-12)
    weights = torch.linalg.solve(products, centred.T @ (targets - target_mean))
    return torch.cat([weights, (target_mean - mean @ weights)[None]])


def _enlarged(tokens: Tensor, weights: Tensor, grid: tuple[int, int]) -> Tensor:
    """Scores (N, C, h, w) of patch tokens (N, P, D), at `CELLS` cells a patch."""
    scores = tokens.double() @ weights[:-1] + weights[-1]
    return F.interpolate(scores.mT.unflatten(2, grid), scale_factor=CELLS, mode="bilinear").cpu()


def _best_threshold(scores: Tensor, inside: Tensor) -> Tensor:
    """The threshold on cells' scores (M,) that gives the highest Dice with `inside` (M,)."""
    order = scores.argsort(descending=True)
    hits = inside[order].cumsum(0)
    dice = 2 * hits / (torch.arange(1, len(scores) + 1) + inside.sum())
    return scores[order[dice.argmax()]]
