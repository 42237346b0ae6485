"""Collects predicted and true masks of whole test cases (images or volumes), and counts over them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ...statistics.masks import segmentation_counts
from ...tasks import Split
from .problem import Predictor, batches, checked_mask, decide, resize_mask

Case = tuple[np.ndarray, np.ndarray]  # decided and true mask: (H, W) for an image, (slices, H, W) for a volume
Watch = Callable[[int, Tensor, np.ndarray], None]  # image index, class scores (K, h, w), true mask


def whole_cases(split: Split, classes: int, predict: Predictor, watch: Watch = lambda *_: None) -> Iterator[Case]:
    """Decided and true mask of each case in turn: (H, W) for an image, (slices, H, W) for a volume.

    Args:
        split: split of the test cases.
        classes: number of classes with background.
        predict: predictor for image indices.
        watch: called with each image's index, scores and truth.
    """
    if split.case_of_image is None:
        for rows in batches(len(split.images)):
            yield from _decided(split, classes, predict, rows, watch)
        return
    for case in range(split.num_cases):
        slices = np.flatnonzero(split.case_of_image == case)
        pairs = [
            pair for part in batches(len(slices)) for pair in _decided(split, classes, predict, slices[part], watch)
        ]
        yield np.stack([decided for decided, _ in pairs]), np.stack([truth for _, truth in pairs])


def _decided(split: Split, classes: int, predict: Predictor, rows: np.ndarray, watch: Watch) -> Iterator[Case]:
    for scores, row in zip(predict(rows), rows, strict=True):
        truth = checked_mask(split, int(row), classes)
        watch(int(row), scores, truth)
        yield decide(scores, truth.shape), truth


def count_cases(
    split: Split,
    classes: int,
    predict: Predictor,
    watch: Watch = lambda *_: None,
    save: Callable[[int, np.ndarray], None] = lambda case, decided: None,
) -> np.ndarray:
    """Voxel counts (cases, classes, 4) of the test cases, see `masks.segmentation_counts`; `save` gets each mask."""
    counts = []
    for case, (decided, truth) in enumerate(whole_cases(split, classes, predict, watch)):
        save(case, decided)
        counts.append(segmentation_counts(decided, truth, classes))
    return np.stack(counts)


@dataclass
class StudyCounts:
    """Voxel counts as in the radiology study: at the size of the network's images.

    Scores are resized bicubically and masks by the nearest pixel, so every image has the same weight whatever its
    size.
    """

    split: Split
    classes: int
    size: int

    def __post_init__(self) -> None:
        self.counts = np.zeros((self.split.num_cases, self.classes, 4), np.int64)

    def __call__(self, row: int, scores: Tensor, truth: np.ndarray) -> None:
        """Count one image."""
        shape = (self.size, self.size)
        case = row if self.split.case_of_image is None else int(self.split.case_of_image[row])
        decided = decide(scores, shape, "bicubic")
        self.counts[case] += segmentation_counts(decided, resize_mask(truth, shape), self.classes)
