"""A segmentation problem: images and masks of its splits, and a network's predictions for them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from biovfm_hf.errors import UserError

from ...tasks import Split, Task
from ...tasks.images import Images, Joined, combined_digest

BATCH_SIZE = 8

# Function from image indices of the test split to the class scores (K, h, w) of each image, for any h and w.
Predictor = Callable[[np.ndarray], Sequence[Tensor]]


@dataclass(frozen=True)
class MaskProblem:
    """The problem: the task's name, the number of classes (the first is background), and the splits."""

    name: str
    classes: int
    splits: dict[str, Split]

    @classmethod
    def of(cls, task: Task) -> "MaskProblem":
        """The whole problem of a task."""
        return cls(task.name, task.num_outputs, task.splits)

    def with_splits(self, **splits: Split) -> "MaskProblem":
        """The same problem with some splits replaced."""
        return replace(self, splits={**self.splits, **splits})


@dataclass(frozen=True)
class Segmentation:
    """The result of a segmentation probe: a network's scores, its choices, and weights as in `probe.Answer`."""

    predict: Predictor
    chosen: dict[str, Any]
    trained: int
    parameters: int | None = None


@dataclass(frozen=True)
class Selected:
    """Some images or masks of a sequence: those with indices `rows`, in that order."""

    images: Images
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.images[int(self.rows[index])]

    def fingerprint(self) -> str:
        """A digest of all images and of the chosen indices."""
        return combined_digest([self.images.fingerprint().encode(), self.rows.tobytes()])


def select_images(split: Split, rows: np.ndarray) -> Split:
    """A split with the images `rows` of another split and their masks; cases keep their order."""
    assert split.masks is not None
    cases = None if split.case_of_image is None else np.unique(split.case_of_image[rows], return_inverse=True)[1]
    return Split(Selected(split.images, rows), masks=Selected(split.masks, rows), case_of_image=cases)


def images_of_cases(split: Split, cases: np.ndarray) -> np.ndarray:
    """Indices of the images that belong to some cases."""
    return cases if split.case_of_image is None else np.flatnonzero(np.isin(split.case_of_image, cases))


def join_splits(first: Split, second: Split) -> Split:
    """The images and masks of two splits; each image becomes its own case."""
    assert first.masks is not None and second.masks is not None
    return Split(Joined([first.images, second.images]), masks=Joined([first.masks, second.masks]))


@dataclass(frozen=True)
class ResizedMasks:
    """The masks of a split at one size (nearest pixel), (N, H, W) uint8, kept in memory for repeated use."""

    split: Split
    classes: int
    size: tuple[int, int]
    masks: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        masks = np.empty((len(self.split.images), *self.size), np.uint8)
        for row in range(len(masks)):
            masks[row] = resize_mask(checked_mask(self.split, row, self.classes), self.size)
        object.__setattr__(self, "masks", masks)


def resize_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A mask (H, W) at another size, by the nearest pixel."""
    values = torch.from_numpy(mask.astype(np.float32))[None, None]
    return functional.interpolate(values, size=size, mode="nearest-exact")[0, 0].byte().numpy()


def checked_mask(split: Split, index: int, classes: int) -> np.ndarray:
    """The mask (H, W) of an image.

    Raises:
        UserError: the mask has another shape, or a class outside 0..classes - 1.
    """
    assert split.masks is not None
    mask = split.masks[index]
    if mask.ndim != 2 or (mask.size and (int(mask.min()) < 0 or int(mask.max()) >= classes)):
        raise UserError(
            f"mask {index} has shape {mask.shape} and values up to {mask.max()}; expected (H, W) of 0..{classes - 1}"
        )
    return mask


def mask_shares(mask: np.ndarray, classes: int, grid: tuple[int, ...]) -> Tensor:
    """The share of each class in each cell of a grid over the mask: (classes, h, w), summing to 1 over classes."""
    hot = functional.one_hot(torch.from_numpy(mask.astype(np.int64)), classes).permute(2, 0, 1).float()
    if mask.shape[0] < grid[0] or mask.shape[1] < grid[1]:
        return functional.interpolate(hot[None], size=tuple(grid), mode="nearest")[0]
    return functional.adaptive_avg_pool2d(hot[None], (grid[0], grid[1]))[0]


def decide(scores: Tensor, size: tuple[int, ...], mode: str = "bilinear") -> np.ndarray:
    """Enlarge class scores (K, h, w) to `size` and take the best class: (H, W) uint8."""
    full = functional.interpolate(scores[None], size=tuple(size), mode=mode, align_corners=False)[0]
    return full.max(0).indices.byte().numpy()  # torch's argmax over the first axis takes eight times as long


def batches(count: int, size: int = BATCH_SIZE) -> list[np.ndarray]:
    """The indices 0..count - 1 in groups of up to `size`."""
    return [np.arange(start, min(start + size, count)) for start in range(0, count, size)]
