"""Windows of large images: overlapping squares at full resolution, whose scores are merged."""

import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ...tasks import Split
from ...tasks.images import Images, combined_digest
from .problem import MaskProblem, Predictor, batches, checked_mask

OVERLAP = 1 / 3  # least overlap of neighbouring windows
KEPT = 4  # whole images kept in memory; threads work on neighbouring ones


@dataclass(frozen=True)
class Window:
    """A window: the index of its image, its top left corner, and its side in pixels of the image."""

    image: int
    top: int
    left: int
    side: int


@dataclass(frozen=True)
class WindowImages:
    """Windows of images, or of masks: `windows[i]` is the content of `places[i]`."""

    images: Images
    places: tuple[Window, ...]
    _kept: Any = field(default_factory=OrderedDict, repr=False, compare=False)
    _lock: Any = field(default_factory=threading.Lock, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> np.ndarray:
        place = self.places[index]
        whole = self._whole(place.image)
        return whole[place.top : place.top + place.side, place.left : place.left + place.side]

    def _whole(self, number: int) -> np.ndarray:
        with self._lock:
            if number not in self._kept:
                self._kept[number] = self.images[number]
                if len(self._kept) > KEPT:
                    self._kept.popitem(last=False)
            image: np.ndarray = self._kept[number]
        return image

    def fingerprint(self) -> str:
        """A digest of all images and places."""
        places = np.array([(p.image, p.top, p.left, p.side) for p in self.places], np.int64)
        return combined_digest([self.images.fingerprint().encode(), places.tobytes()])


def place_windows(image: int, shape: tuple[int, int], side: int) -> list[Window]:
    """The fewest windows that cover an image (H, W) and overlap by a third, evenly spaced.

    If the shorter side of the image is less than `side`, the windows have that shorter side.
    """
    side = min(side, *shape)
    tops, lefts = (_starts(length, side) for length in shape)
    return [Window(image, top, left, side) for top in tops for left in lefts]


def _starts(length: int, side: int) -> list[int]:
    step = max(1, round(side * (1 - OVERLAP)))
    count = -(-(length - side) // step) + 1
    return [round(float(start)) for start in np.linspace(0, length - side, count)]


def cut_windows(problem: MaskProblem, side: int) -> MaskProblem:
    """The problem whose images are windows of the images of another problem; they belong to the same cases."""
    return problem.with_splits(**{name: _cut(split, problem.classes, side) for name, split in problem.splits.items()})


def _cut(split: Split, classes: int, side: int) -> Split:
    masks = split.masks
    assert masks is not None
    places = []
    for number in range(len(split.images)):
        height, width = checked_mask(split, number, classes).shape
        places += place_windows(number, (height, width), side)
    images = np.array([place.image for place in places])
    cases = images if split.case_of_image is None else split.case_of_image[images]
    return Split(
        WindowImages(split.images, tuple(places)),
        masks=WindowImages(masks, tuple(places)),
        case_of_image=cases,
        subjects=split.subjects,
    )


def stitched(predict: Predictor, windows: Split) -> Predictor:
    """Scores of whole images from a predictor for their windows.

    Each window's scores are enlarged to its pixels. Where windows overlap, they are averaged with weights that fall
    from the middle of a window to its border.
    """
    assert isinstance(windows.images, WindowImages)
    places = windows.images.places
    of_image: dict[int, list[int]] = {}
    for number, place in enumerate(places):
        of_image.setdefault(place.image, []).append(number)

    def whole(rows: np.ndarray) -> list[Tensor]:
        return [_stitch(predict, places, np.array(of_image[int(row)])) for row in rows]

    return whole


def _stitch(predict: Predictor, places: tuple[Window, ...], numbers: np.ndarray) -> Tensor:
    """Scores (K, H, W) of one image, merged from its windows."""
    side = places[numbers[0]].side
    height = max(places[n].top for n in numbers) + side
    width = max(places[n].left for n in numbers) + side
    ramp = torch.minimum(torch.arange(1, side + 1), torch.arange(side, 0, -1)).float()
    weight = ramp[:, None] * ramp
    total, weights = torch.zeros(0), torch.zeros(height, width)
    for rows in batches(len(numbers)):
        for number, scores in zip(numbers[rows], predict(numbers[rows]), strict=True):
            place = places[number]
            full = functional.interpolate(scores[None], size=(side, side), mode="bilinear", align_corners=False)[0]
            total = total if total.numel() else torch.zeros(len(full), height, width)
            at = (slice(place.top, place.top + side), slice(place.left, place.left + side))
            total[:, *at] += weight * full
            weights[at] += weight
    return total / weights
